"""On what a result was made: package versions, git state, hardware; and which source files a stage is made of."""

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent
# Data files of the package that a module reads: part of the code of every stage that imports the module.
READS = {
    "inputs/tasks/templates.py": ("inputs/tasks/*.yaml",),
    "report/render.py": ("report/*.html", "report/*.css"),
    "report/page.py": ("report/*.js",),
    "report/plotting.py": ("report/*.mplstyle",),
    "results/paper/reported.py": ("results/paper/*.csv", "results/paper/*.yaml"),
}
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit and whether the tree differs from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=SOURCE, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    try:
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


@cache
def source_files(module: str) -> tuple[Path, ...]:
    """The files of `sbora` and `sbora_bench` that `module` imports, directly or not, its own included, and the
    data files that those read; sorted. Taken from the import statements, so nothing is imported.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path_of(name)
        if path is None or path in found:
            continue
        found.add(path)
        waiting += filter(None, [name.rpartition(".")[0]])  # importing a module imports its package
        relative = path.relative_to(SOURCE / "sbora_bench").as_posix() if "sbora_bench" in path.parts else ""
        found.update(file for glob in READS.get(relative, ()) for file in (SOURCE / "sbora_bench").glob(glob))
        package = path.parent.relative_to(SOURCE).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                origin = ".".join(filter(None, [base, node.module]))
                waiting += [origin, *(f"{origin}.{name.name}" for name in node.names)]
    return tuple(sorted(found))


def _path_of(module: str) -> Path | None:
    if module.split(".")[0] not in ("sbora", "sbora_bench"):
        return None
    stem = SOURCE.joinpath(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


@cache
def code_hash(module: str) -> str:
    """SHA-256 over `source_files(module)`: names and bytes."""
    digest = hashlib.sha256()
    for path in source_files(module):
        digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
