"""What a job reports while it runs: JSON lines on standard error, which the workflow keeps as one log a job.

A line has `time` (UTC), `stage`, `run`, `event`, `cpu` (this process's processor time in seconds) and the event's
values. The events `begin` and `end` are those of a loop: pre-training's, training's or scoring's.
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


def write(stage: str, run: str, event: str, **values: Any) -> None:
    """Write one line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "stage": stage, "run": run, "event": event}
    line |= {"cpu": round(time.process_time(), 2)} | {key: _json(value) for key, value in values.items()}
    print(json.dumps(line), file=sys.stderr, flush=True)


def _json(value: Any) -> Any:
    """A tensor's or numpy's number as Python's; one that JSON has no sign for as text."""
    value = value.item() if hasattr(value, "item") else value
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


@contextlib.contextmanager
def loop(stage: str, run: str, **values: Any) -> Iterator[None]:
    """The block is the loop of a stage: its begin and end are events."""
    write(stage, run, "begin", **values)
    try:
        yield
    finally:
        write(stage, run, "end", **values)


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of a job's log that `write` wrote; others, and one half written, are left out."""
    events = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line[line.find("{") :]) if '"event"' in line else None
            if isinstance(entry, dict) and {"time", "stage", "run", "event"} <= entry.keys():
                events.append(entry)
    return events
