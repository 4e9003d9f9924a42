"""Processes that are held at a file that they make: no test has to be quick to find one there."""

import os
from pathlib import Path

import psutil

# Holds each process that puts a file at the pattern in its place, before or once it has, until all may go on.
HOLD = """
import os, re, time

real, held = os.replace, os.environ["HELD"]

def hold(target):
    if os.path.exists(f"{held}.go"):
        return
    with open(held, "a") as file:
        file.write(f"{os.getpid()} {target}\\n")
    while not os.path.exists(f"{held}.go"):
        time.sleep(0.05)

def replace(source, target, **rest):
    found = re.search(os.environ["HELD_AT"], str(target))
    if found and os.environ["HELD_WHEN"] == "before":
        hold(target)
    result = real(source, target, **rest)
    if found and os.environ["HELD_WHEN"] == "after":
        hold(target)
    return result

os.replace = replace
"""
# a checkpoint of an arithmetic run of `tiny` is whole, and half of its updates are left
CHECKPOINT = r"arithmetic-[^/]+/finetune-[^/]+\.checkpoints/checkpoint-5/done\.json$"


class Held:
    """In its `environment` a process that puts a file at `pattern` in its place waits: once it has, or `before`."""

    def __init__(self, folder: Path, pattern: str, before: bool = False) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HOLD)
        self.file = folder / "held"
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        when = "before" if before else "after"
        self.environment = {"PYTHONPATH": path, "HELD": str(self.file), "HELD_AT": pattern, "HELD_WHEN": when}

    def _first(self) -> tuple[str, str]:
        line, whole, _ = (self.file.read_text() if self.file.exists() else "").partition("\n")
        number, _, path = line.partition(" ")
        return (number, path) if whole else ("", "")

    def process(self) -> psutil.Process | None:
        """The first that waits; None before."""
        number, _ = self._first()
        return psutil.Process(int(number)) if number else None

    def appeared(self) -> str:
        """The file at which the first waits; the empty string before."""
        return self._first()[1]

    def go(self) -> None:
        """Let them go on, and hold none from now on."""
        self.file.with_name(f"{self.file.name}.go").touch()
