"""PEFT's own tests, taken from the source distribution of the installed peft.

The sdist is fetched once by pip, which checks the sha256 in `peft-sdist.txt`, and its tests are kept in the
git-ignored folder `peft-<version>/peft_suite`, a package of its own name beside ours.
"""

import importlib
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
REQUIREMENT = HERE / "peft-sdist.txt"
PACKAGE = "peft_suite"


pytest.register_assert_rewrite(PACKAGE)


class SdistUnavailable(Exception):
    """The sdist of peft cannot be fetched, as without a network."""


def fetch() -> Path:
    """Return the folder that holds the package `peft_suite`, fetching the sdist the first time.

    Processes that ask at once (pytest-xdist) wait for the first. Raises SdistUnavailable, or ValueError where what
    is pinned is not what is installed or what is served.
    """
    version = metadata.version("peft")
    if f"peft=={version} --hash" not in REQUIREMENT.read_text(encoding="utf-8"):
        raise ValueError(f"{REQUIREMENT.name} pins no sdist of peft {version}, which is installed: pin it there")
    root = HERE / f"peft-{version}"
    root.mkdir(exist_ok=True)
    with FileLock(root / "fetch.lock"):
        if not (root / PACKAGE).is_dir():
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                _unpack(_download(Path(scratch)), version, Path(scratch)).rename(root / PACKAGE)
    return root


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--retries", "1", "--timeout", "30", "--dest", str(folder), "--requirement", str(REQUIREMENT)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if "HASHES" in done.stderr:
        raise ValueError(f"the sdist of peft is not the one that {REQUIREMENT.name} pins:\n{done.stderr}")
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SdistUnavailable(f"pip could not fetch the sdist of peft: {' '.join(reason)}")
    return next(folder.glob("peft-*.tar.gz"))


def _unpack(archive: Path, version: str, folder: Path) -> Path:
    tests = f"peft-{version}/tests"
    with tarfile.open(archive) as sdist:
        members = [member for member in sdist if member.name.startswith(f"{tests}/")]
        sdist.extractall(folder, members=members, filter="data")
    return folder / tests


def load(root: Path, name: str) -> ModuleType:
    """Import PEFT's test module `name` from the folder that `fetch` returned.

    PEFT's helpers import diffusers for one isinstance check on image pipelines; where diffusers is not
    installed, an empty class stands in for the length of the import.
    """
    if str(root) not in sys.path:
        sys.path.append(str(root))
    with pytest.MonkeyPatch.context() as patch:
        try:
            metadata.version("diffusers")
        except metadata.PackageNotFoundError:
            diffusers = ModuleType("diffusers")
            diffusers.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
            patch.setitem(sys.modules, "diffusers", diffusers)
        return importlib.import_module(f"{PACKAGE}.{name}")
