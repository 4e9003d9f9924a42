"""On what a result was made: package versions, git state, hardware."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "lm-eval",
    "numpy",
    "tokenizers",
)
OPTIONAL = ("liger-kernel",)  # named where they are installed


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    installed = {package: _version(package) for package in (*PACKAGES, *OPTIONAL)}
    named = {
        package: version or "not installed" for package, version in installed.items() if version or package in PACKAGES
    }
    return {"python": platform.python_version()} | named


@cache
def _version(package: str) -> str:
    """The version of a package; empty where it isn't installed. Cached: a look-up parses all its metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def git_state() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a checkout, and where the checkout that this lies in
    is another project's. As at this process's first call: it goes on with the code that it has imported.
    """
    return dict(_git_state(SOURCE))


@cache
def _git_state(source: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=source, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
        top = git("rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != source.parent:
            return {}
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))} if commit else {}
    except OSError:
        return {}


def hardware() -> dict[str, Any]:
    """Processor, cores, and the GPU where there is one."""
    import os

    import torch

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def use_deterministic_algorithms() -> None:
    """Have torch take deterministic algorithms where they exist, and warn where not. To be called before the GPU is."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or matrix products on a GPU may differ
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def algorithms() -> str:
    """Which algorithms torch takes in this process, for the record."""
    import torch

    if not torch.are_deterministic_algorithms_enabled():
        return "not restricted"
    return f"deterministic{' where they exist' if torch.is_deterministic_algorithms_warn_only_enabled() else ''}"
