"""The tables of docs/protocol.md: protocols `official` and `clean` side by side, field by field.

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
COLUMNS = ["Field", "`official`", "`clean`", "Source"]
BEGIN, END = "<!-- drawn: sbora-bench protocols --into docs/protocol.md -->", "<!-- end -->"


def drawn(catalog: Catalog) -> str:
    """Markdown: why `clean` differs, then a row for every field of `Protocol` but its title.

    A field with the same row in every suite stands in a table for all. Raises UserError for a field without its note.
    """
    rows = {suite: _rows(catalog, suite) for suite in SUITES}
    shared = dict(set.intersection(*(set(of_suite.items()) for of_suite in rows.values())))
    reasons = [f"| `{field}` | {_cell(note.clean)} |" for field, note in catalog.protocol_notes.items() if note.clean]
    tables = [
        _table("Why `clean` differs", ["Field", "Reason"], reasons),
        _table("In every suite", COLUMNS, [row for field, row in rows[SUITES[0]].items() if field in shared]),
    ]
    for suite, of_suite in rows.items():
        own = [row for field, row in of_suite.items() if field not in shared]
        tables.append(_table(catalog.suites[suite].title, COLUMNS, own))
    return "\n\n".join(tables)


def write_into(catalog: Catalog, path: Path) -> None:
    """Put the tables between the file's two markers. Raises UserError where it hasn't got them."""
    text = path.read_text(encoding="utf-8")
    parts = re.split(f"({BEGIN}).*?({END})", text, flags=re.DOTALL)
    if len(parts) != 4:
        raise UserError(f"{path}: expected one line `{BEGIN}` and, after it, one line `{END}`")
    write_text(path, f"{parts[0]}{BEGIN}\n{drawn(catalog)}\n{END}{parts[3]}")


def _table(title: str, columns: list[str], rows: list[str]) -> str:
    heads = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return "\n".join([f"### {title}", "", *heads, *rows])


def _rows(catalog: Catalog, suite: str) -> dict[str, str]:
    """Field -> its row."""
    official, clean = (catalog.protocol(name, suite, {}, "protocols") for name in ("official", "clean"))
    rows = {}
    for field in Protocol.model_fields:
        if field != "title":
            ours, theirs = getattr(official, field), getattr(clean, field)
            source = _source(catalog, field, suite, differs=ours != theirs)
            rows[field] = f"| `{field}` | {_value(ours)} | {_value(theirs)} | {_cell(source)} |"
    return rows


def _source(catalog: Catalog, field: str, suite: str, differs: bool) -> str:
    note = catalog.protocol_notes.get(field)
    source = None if note is None else note.source if isinstance(note.source, str) else note.source.get(suite)
    if note is None or not source or (differs and not note.clean):
        raise UserError(f"catalog: protocol_notes.{field}: {'`clean`' if source else 'source'} is missing for {suite}")
    return source


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
