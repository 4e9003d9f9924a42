"""The tables of docs/protocol.md: protocols `official` and `clean` side by side, field by field, a suite each.

sbora-bench protocols --into docs/protocol.md
"""

import json
import re
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import write_text
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.protocol import Protocol

SUITES = ("commonsense", "arithmetic", "mmlu")
BEGIN, END = "<!-- drawn: sbora-bench protocols --into docs/protocol.md -->", "<!-- end -->"


def drawn(catalog: Catalog) -> str:
    """Markdown: a table a suite, a row for every field of `Protocol` but its title. Raises UserError for a bare one."""
    return "\n\n".join(_table(catalog, suite) for suite in SUITES)


def write_into(catalog: Catalog, path: Path) -> None:
    """Put the tables between the file's two markers. Raises UserError where it hasn't got them."""
    text = path.read_text(encoding="utf-8")
    parts = re.split(f"({BEGIN}).*?({END})", text, flags=re.DOTALL)
    if len(parts) != 4:
        raise UserError(f"{path}: expected one line `{BEGIN}` and, after it, one line `{END}`")
    write_text(path, f"{parts[0]}{BEGIN}\n{drawn(catalog)}\n{END}{parts[3]}")


def _table(catalog: Catalog, suite: str) -> str:
    official, clean = (catalog.protocol(name, suite, {}, "protocols") for name in ("official", "clean"))
    lines = [f"### {catalog.suites[suite].title}", "", "| Field | `official` | `clean` | Source; why `clean` differs |"]
    lines.append("| --- | --- | --- | --- |")
    for field in Protocol.model_fields:
        if field != "title":
            ours, theirs = getattr(official, field), getattr(clean, field)
            why = _note(catalog, field, suite, differs=ours != theirs)
            lines.append(f"| `{field}` | {_value(ours)} | {_value(theirs)} | {why} |")
    return "\n".join(lines)


def _note(catalog: Catalog, field: str, suite: str, differs: bool) -> str:
    note = catalog.protocol_notes.get(field)
    source = None if note is None else note.source if isinstance(note.source, str) else note.source.get(suite)
    if note is None or not source or (differs and not note.clean):
        raise UserError(f"catalog: protocol_notes.{field}: {'`clean`' if source else 'source'} is missing for {suite}")
    return (f"{source}. **Clean:** {note.clean}" if differs else source).replace("|", "\\|")


def _value(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
