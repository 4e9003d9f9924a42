"""In what a record's settings differ from what an experiment says now."""

from typing import Any


def other_setting(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting in which a training differs; empty where none does."""
    for key in sorted(recorded.keys() | now.keys()):
        a, b = recorded.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return f"{key}.{other_setting(a, b)}"
        if a != b:
            return f"{key}: trained with {a!r}, the experiment and its catalog say {b!r}"
    return ""
