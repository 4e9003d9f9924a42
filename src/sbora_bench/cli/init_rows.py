"""The rows that `sbora-bench init` is given: which column is which field, by usual names, and what nothing reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sbora_bench.errors import UserError

if TYPE_CHECKING:
    from sbora_bench.inputs.data.own_files import Rows

# Usual names of columns, in small letters -> the field that they are.
INSTRUCTIONS = ("instruction", "question", "query", "prompt", "problem")
OUTPUTS = ("output", "response", "completion", "solution", "answer")
ANSWERS = ("answer", "label", "target")
# Column of a chat -> the key of a message's text, that of who says it, and who asks and who answers.
CHATS = {
    "messages": ("content", "role", ("user", "assistant")),
    "conversations": ("value", "from", ("human", "gpt")),
}
READ = ("id", "instruction", "input", "output", "answer", "subject")  # columns that are read by their own names


class Table(NamedTuple):
    """Rows of a file or folder; `place`: where the row of an index stands; `mapped`: field of an example -> column."""

    path: Path
    rows: list[Any]
    place: Callable[[int], str]
    split: str
    mapped: dict[str, str]

    def unread(self) -> list[str]:
        """A note on columns that nothing reads, if there are any: choices of a question, say."""
        chats = [column for column in CHATS if f"{{{{ {column}[" in self.mapped["instruction"]]
        left = [column for column in columns_of(self.rows) if column not in (*self.mapped.values(), *chats, *READ)]
        reader = "`columns` in Jinja, a prompt or a task of your own may read them (docs/own.md)"
        return [f"{self.path}: columns that nothing reads: {', '.join(left)}; {reader}"] if left else []


def table(path: Path, split: str, fields: dict[str, tuple[str, ...]]) -> Table:
    """The rows of a file or folder, of a folder with several splits those of `split`; `fields`: their usual columns.

    Raises UserError where there are no rows, or none of the usual columns of a field.
    """
    from sbora_bench.inputs.data.own_files import read_rows, splits

    if not path.exists():
        raise UserError(f"{path}: no such file")
    several = path.is_dir() and len(splits(path)) > 1
    read = read_rows(path, split if several else None)
    if not read.values or not isinstance(read.values[0], dict):
        raise UserError(f"{path}: found no rows with named columns, allowed is a table of instruction and output")
    present = columns_of(read.values)
    mapped = {field: column for field, names in fields.items() if (column := _named(names, present)) is not None}
    if len(mapped) < len(fields) and "answer" not in fields:
        mapped = _chat(path, read, present) or mapped
    for field, names in fields.items():
        if field not in mapped:
            raise UserError(
                f"{path}: columns: found {', '.join(present)}, allowed for {field} one of {', '.join(names)};"
                " rename one, or write the entry with `columns` in Jinja, as {output: '{{ messages[1].content }}'}"
            )
    return Table(path, read.values, read.place, split if several else "", mapped)


def _named(names: tuple[str, ...], present: list[str]) -> str | None:
    """The first column of these names, else one that has it in other letters."""
    exact = next((name for name in names if name in present), None)
    return exact or next((column for name in names for column in present if column.lower() == name), None)


def _chat(path: Path, read: Rows, present: list[str]) -> dict[str, str]:
    """Field -> Jinja for rows that are a chat of a question and its answer; empty where no column is a chat.

    Raises UserError for a chat of other messages, of which some would be left out.
    """
    column = next((column for column in CHATS if column in present), None)
    if column is None:
        return {}
    text, speaker, speakers = CHATS[column]
    for index, row in enumerate(read.values):
        chat = row.get(column) if isinstance(row, dict) else None
        messages = chat if isinstance(chat, list) else []
        said = [message.get(speaker) if isinstance(message, dict) else None for message in messages]
        if said != list(speakers):
            raise UserError(
                f"{path}: {read.place(index)}: {column}: found {said!r:.80}, allowed {list(speakers)}: a question and"
                " its answer; make such rows of longer chats, for init would leave messages out"
            )
    return {field: f"{{{{ {column}[{place}].{text} }}}}" for place, field in enumerate(("instruction", "output"))}


def columns_of(rows: list[Any]) -> list[str]:
    """The names that any row has, in their order."""
    return list(dict.fromkeys(column for row in rows if isinstance(row, dict) for column in row))
