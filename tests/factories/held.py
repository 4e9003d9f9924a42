"""A process that is held at a file of its own: no test has to be quick to find it there."""

import os
from pathlib import Path

import psutil

# Holds the first process that has put a file at the pattern in its place, until it may go on.
HOLD = """
import os, re, time

real, held = os.replace, os.environ["HELD"]

def replace(source, target, **rest):
    real(source, target, **rest)
    if re.search(os.environ["HELD_AT"], str(target)):
        try:
            with open(held, "x") as file:
                file.write(f"{os.getpid()}\\n")
        except FileExistsError:
            return
        while not os.path.exists(f"{held}.go"):
            time.sleep(0.05)

os.replace = replace
"""
# a checkpoint of an arithmetic run of `tiny` is whole, and half of its updates are left
CHECKPOINT = r"arithmetic-[^/]+/finetune-[^/]+\.checkpoints/checkpoint-5/done\.json$"


class Held:
    """In its `environment` the first process that has put a file at `pattern` in its place waits there."""

    def __init__(self, folder: Path, pattern: str) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HOLD)
        self.file = folder / "held"
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": path, "HELD": str(self.file), "HELD_AT": pattern}

    def process(self) -> psutil.Process | None:
        """The one that waits; None before."""
        number = self.file.read_text() if self.file.exists() else ""
        return psutil.Process(int(number)) if number.endswith("\n") else None

    def go(self) -> None:
        """Let it go on, and hold no other."""
        self.file.with_name(f"{self.file.name}.go").touch()
