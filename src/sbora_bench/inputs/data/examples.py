"""From a row of any source to an example: the fields that prompts and answers are made of, and the other columns.

An example has `instruction`, `input`, `output` and `answer`, all text, `subject` where the row has one, and every other
column as it stands, which a task's template may read.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.data.own_files import Rows

if TYPE_CHECKING:
    from jinja2 import Environment, Template

Example = dict[str, Any]
FIELDS = ("instruction", "input", "output", "answer")
# The keys of each kind of file, in the order of FIELDS; "" stands for an empty string.
SCHEMAS = (
    ("instruction", "input", "output", "answer"),  # LLM-Adapters, protocol section 6
    ("instruction", "input", "output", "output"),  # Alpaca
    ("", "inputs", "targets", "targets"),  # Flan v2
    ("", "input", "output", "output"),  # MMLU, protocol section 4
    ("instruction", "", "output", "output"),
    ("prompt", "", "completion", "completion"),
    ("prompt", "", "response", "response"),
    ("question", "", "answer", "answer"),
)


def examples(rows: Rows, where: str, columns: dict[str, str] | None = None) -> list[Example]:
    """Every row as an example. `columns`: for a field the column it is taken from, or a Jinja template over the row.

    Raises UserError naming the row's place, what was found and what is allowed.
    """
    mapped = {field: _source(column, f"{where}: columns.{field}") for field, column in (columns or {}).items()}
    made = []
    for index, row in enumerate(rows.values):
        try:
            made.append(_mapped(row, mapped) if mapped else _example(row))
        except UserError as error:
            raise UserError(f"{where}: {rows.place(index)}: {error}") from None
    return made


def check_ids(rows: Rows, where: str) -> None:
    """Raise UserError where two rows have the same `id`."""
    seen: dict[Any, int] = {}
    for index, row in enumerate(rows.values):
        if isinstance(row, dict) and isinstance(row.get("id"), str | int):
            first = seen.setdefault(row["id"], index)
            if first != index:
                raise UserError(
                    f"{where}: {rows.place(index)}: id {row['id']!r} stands at {rows.place(first)} too; remove one of"
                    " the rows, or give it an id of its own"
                )


def check_subjects(items: list[Example], where: str) -> None:
    """Raise UserError where only some items have a `subject`, by which their scores are averaged."""
    bare = [index for index, item in enumerate(items) if "subject" not in item]
    if 0 < len(bare) < len(items):
        raise UserError(f"{where}: item {bare[0]}: no subject, and others have one; give every item one, or none")


def _example(row: Any) -> Example:
    keys = next((keys for keys in SCHEMAS if isinstance(row, dict) and row.keys() >= set(keys) - {""}), None)
    if keys is None:
        present = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        allowed = "; or ".join(", ".join(dict.fromkeys(filter(None, keys))) for keys in SCHEMAS)
        raise UserError(
            f"found {present}; allowed are the keys {allowed}; other names are mapped by the data entry's `columns`,"
            " as {instruction: question, output: solution}"
        )
    taken = {field: _text(row[key], key) if key else "" for field, key in zip(FIELDS, keys, strict=True)}
    named = {field: _text(row[field], field) for field in ("answer", "subject") if field in row}  # whatever the schema
    return _others(row) | taken | named


def _mapped(row: Any, mapped: dict[str, Callable[[dict], Any]]) -> Example:
    if not isinstance(row, dict):
        raise UserError(f"found {type(row).__name__}, allowed is an object with keys")
    taken = {field: _text(take(row), field) for field, take in mapped.items()}
    taken |= {field: _text(row[field], field) for field in (*FIELDS, "subject") if field in row and field not in taken}
    for field, other in (("output", "answer"), ("answer", "output")):
        if field not in taken and other in taken:
            taken[field] = taken[other]
    for field in ("instruction", "output"):
        if field not in taken and not (field == "instruction" and "input" in taken):
            raise UserError(f"found {', '.join(row)}; nothing gives {field}; add it to the data entry's `columns`")
    return _others(row) | {"instruction": "", "input": ""} | taken


def _others(row: dict) -> Example:
    others = {key: value for key, value in row.items() if key not in (*FIELDS, "subject")}
    for key, value in others.items():
        _refuse_half(str(key), ascii(key))
        if isinstance(value, str | list | dict):
            _refuse_half(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), key)
    return others


def _text(value: Any, key: str) -> str:
    if value is None and key == "input":
        return ""
    if value is None:
        raise UserError(f"{key}: found null, allowed are text and numbers; give the row one, or leave the row out")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(
            f"{key}: found {type(value).__name__}, allowed are text and numbers; make text of it in the data entry's"
            f" `columns`: {{{key}: '{{{{ ... }}}}'}}"
        )
    text = str(value)
    _refuse_half(text, key)
    return text


def _refuse_half(text: str, key: str) -> None:
    """Raise UserError for a text that no file can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{key}: half of a surrogate pair, which is no character; correct it") from None


def _source(column: str, where: str) -> Callable[[dict], Any]:
    """How a field is taken out of a row."""
    return jinja(column, where) if "{{" in column or "{%" in column else partial(_column, column)


def jinja(text: str, where: str) -> Callable[[dict], str]:
    """What fills a Jinja template with a row's columns. Raises UserError beginning with `where` where it is none."""
    import jinja2

    try:
        template = strict_jinja().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{where}: not a Jinja template: {error.message}") from None
    return partial(_rendered, template)


def strict_jinja() -> "Environment":
    """Jinja for templates of a user's: sandboxed, an unknown name or an empty value is an error, nothing is escaped."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_refuse_none
    )


def _refuse_none(value: Any) -> Any:
    """The value. Raises TypeError for None, which Jinja would write as a word."""
    if value is None:
        raise TypeError("a value is null; write {{ column or '' }}, or leave the row out")
    return value


def _column(column: str, row: dict) -> Any:
    if column not in row:
        raise UserError(f"no column {column!r}; found {', '.join(map(str, row))}")
    return row[column]


def _rendered(template: "Template", row: dict) -> str:
    import jinja2

    try:
        return template.render(row)
    except Exception as error:  # whatever a template's expressions raise
        own = isinstance(
            error, jinja2.TemplateError | TypeError | ValueError | ArithmeticError
        )  # these say what is wrong
        reason = error if own else in_a_line(error)
        raise UserError(f"the template can't be filled: {reason}; found {', '.join(map(str, row))}") from None
