"""What a job tells while it is at work: JSON lines on standard error, which the workflow keeps as one log a job.

A line has `time` (UTC), `stage`, `run`, `event` and what belongs to it; `cpu` is this process's processor time in
seconds. An event `begin` or `end` is that of a loop: pre-training's, training's or scoring's.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def tell(stage: str, run: str, event: str, **more: Any) -> None:
    """Write a line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "stage": stage, "run": run, "event": event}
    line |= {"cpu": round(time.process_time(), 2)} | {key: _json(value) for key, value in more.items()}
    print(json.dumps(line), file=sys.stderr, flush=True)


def _json(value: Any) -> Any:
    """A tensor's or numpy's number as Python's; one that JSON has no sign for as text."""
    value = value.item() if hasattr(value, "item") else value
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


@contextlib.contextmanager
def loop(stage: str, run: str, **more: Any) -> Iterator[None]:
    """The block is the loop that the stage is for."""
    tell(stage, run, "begin", **more)
    try:
        yield
    finally:
        tell(stage, run, "end", **more)


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of a job's log that `tell` wrote; others, and one half written, are left out."""
    events = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line[line.find("{") :]) if '"event"' in line else None
            if isinstance(entry, dict) and {"time", "stage", "run", "event"} <= entry.keys():
                events.append(entry)
    return events
