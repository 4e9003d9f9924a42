"""Rows out of a file, by its suffix: JSON, JSON lines, CSV, TSV, Parquet, Arrow; or out of a folder of such files, or
one that `datasets` saved.

Text is UTF-8, with or without a byte order mark, in lines of any system's ending, packed by gzip, bzip2 or xz or not;
blank lines are passed over. What can't be read is refused with the line it stands on and what to do.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import sys
import tempfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sbora_bench.errors import UserError, in_a_line

if TYPE_CHECKING:
    import pyarrow

READ = "JSON, JSON lines, CSV, TSV, Parquet and Arrow"
# How a packed text begins, and what unpacks it.
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
PACKING = (".gz", ".bz2", ".xz")
# How a file begins that is read after unpacking or exporting alone.
PACKED = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PAR1": "Parquet under another suffix than .parquet",
    b"ARROW1": "Arrow under another suffix than .arrow or .feather",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
}
LONGEST_CELL = 2**31 - 1  # of CSV; Python's own limit, 131,072 characters, is below long documents


class Rows(NamedTuple):
    """Rows, and where the row of an index stands, as messages say it: a line from 1, or where there are no lines a row
    from 0; in a folder with the file before.
    """

    values: list[Any]
    place: Callable[[int], str]


def rows_without_lines(values: list[Any]) -> Rows:
    """Rows that have no lines."""
    return Rows(values, "row {}".format)


def _in_lines(values: list[Any], numbers: list[int]) -> Rows:
    return Rows(values, lambda index: f"line {numbers[index]}")


def _joined(parts: dict[str, Rows]) -> Rows:
    """The rows of several files, by their names, one after another."""
    names, rows = list(parts), list(parts.values())
    starts = list(accumulate((len(of_file.values) for of_file in rows), initial=0))

    def place(index: int) -> str:
        file = bisect_right(starts, index) - 1
        return f"{names[file]}: {rows[file].place(index - starts[file])}"

    return Rows([value for of_file in rows for value in of_file.values], place)


def json_rows(table: "pyarrow.Table") -> list[Any]:
    """Rows of a typed file as JSON has them: times and decimals become their text, bytes that which they are in UTF-8,
    numbers of single precision their shortest decimals: 0.1, and not 0.10000000149011612. What is no number (pandas'
    mark of a missing one) and bytes that are no text become null.
    """
    import pyarrow

    plain = table.cast(_singles_as(pyarrow.string(), table.schema)).cast(_singles_as(pyarrow.float64(), table.schema))
    rows = plain.to_pylist()
    return [json.loads(json.dumps(row, default=_text_of), parse_constant=lambda name: None) for row in rows]


def _text_of(value: Any) -> str | None:
    """A value that JSON doesn't have, as text. Many programs write text into Parquet as bytes."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:  # a picture, say
        return None


def _singles_as(kind: "pyarrow.DataType", schema: "pyarrow.Schema") -> "pyarrow.Schema":
    """The schema with another kind in the place of numbers of single precision, in lists and structures too."""
    import pyarrow

    def replaced(old: "pyarrow.DataType") -> "pyarrow.DataType":
        if pyarrow.types.is_float32(old):
            return kind
        if pyarrow.types.is_list(old):
            return pyarrow.list_(replaced(old.value_type))
        if pyarrow.types.is_large_list(old):
            return pyarrow.large_list(replaced(old.value_type))
        if pyarrow.types.is_fixed_size_list(old):
            return pyarrow.list_(replaced(old.value_type), old.list_size)
        if pyarrow.types.is_struct(old):
            return pyarrow.struct([(field.name, replaced(field.type)) for field in old])
        return old

    return pyarrow.schema([(field.name, replaced(field.type)) for field in schema])


def read_rows(path: Path, split: str | None = None) -> Rows:
    """All rows of a file or folder. Raises UserError naming the line, what stands there and the cure.

    A suffix that is not known is read as JSON. `split`: of a folder that holds several.
    """
    if path.is_dir():
        by_split = splits(path)
        split = split or (next(iter(by_split)) if len(by_split) == 1 else None)
        if split not in by_split:
            reported = f"found split {split!r}" if split else "it holds several splits and none is named"
            raise UserError(f"{path}: {reported}; say `split:` with one of {', '.join(by_split)}")
        return by_split[split]()
    if split is not None:
        raise UserError(f"{path}: split: found {split!r}, and a file has no splits; take `split` out of the data entry")
    return READERS.get(_suffix(path), _json)(path)


def splits(folder: Path) -> dict[str, Callable[[], Rows]]:
    """The splits of a folder, and what reads each: one that `datasets` saved, or files in the order of their names.

    Raises UserError for a folder that is neither, and for one of which files would be left out.
    """
    import datasets

    if (folder / datasets.config.DATASET_STATE_JSON_FILENAME).is_file():
        saved = _saved(folder)
        return {str(saved.split or "train"): partial(_of_saved, saved)}
    if (folder / datasets.config.DATASETDICT_JSON_FILENAME).is_file():
        return {split: partial(_of_saved, of_split) for split, of_split in _saved(folder).items()}
    return {split: partial(_of_files, folder, files) for split, files in _files_by_split(folder).items()}


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder's splits, which `datasets` tells by its card, or by names such as train-00000.parquet."""
    import datasets
    from datasets import data_files

    try:
        with tempfile.TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(folder.resolve()), cache_dir=cache)
    except Exception as error:  # whatever a card makes of it
        raise UserError(
            f"{folder}: found no data files of one set in it ({in_a_line(error)}), allowed are files of {READ}, and"
            " what save_to_disk of `datasets` wrote; name such a folder, or a file"
        ) from None
    by_split = {
        str(split): sorted({Path(os.path.normpath(file)) for file in files})
        for split, files in builder.config.data_files.items()
    }
    read = {file for files in by_split.values() for file in files}
    if outside := [file for file in read if folder.resolve() not in file.parents]:
        raise UserError(f"{folder}: its card names {outside[0]}, allowed are files in the folder; put it there")
    beside = {file for place in {file.parent for file in read} for file in place.iterdir() if file.name[0] != "."}
    if left := sorted(
        file for file in beside - read if _suffix(file) in READERS and file.name not in data_files.FILES_TO_IGNORE
    ):
        raise UserError(
            f"{folder}: {left[0].name} would be left out: it is of no split ({', '.join(by_split)}) or of another kind"
            f" than {min(read).name}; take it out of the folder, or name it so that it belongs to one"
        )
    return by_split


def _of_files(folder: Path, files: list[Path]) -> Rows:
    return _joined({file.relative_to(folder.resolve()).as_posix(): read_rows(file) for file in files})


def _suffix(path: Path) -> str:
    """The suffix that says what is in a file, in small letters, without that of its packing."""
    return Path(path.stem if path.suffix.lower() in PACKING else path.name).suffix.lower()


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    unpack = next((unpack for start, unpack in UNPACK.items() if content.startswith(start)), bytes)
    try:
        return unpack(content)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: can't be unpacked ({in_a_line(error)}); fetch or pack it again") from None


def _text(path: Path) -> str:
    """The file's text with `\\n` at the ends of lines."""
    content = _unpacked(path)
    if packed := next((name for start, name in PACKED.items() if content.startswith(start)), ""):
        raise UserError(
            f"{path}: is {packed}, allowed are {READ}; unpack or export it, and name that file in its place"
        )
    if wide := _wide(content):
        raise UserError(f"{path}: is {wide[:6]}, allowed is UTF-8; {_convert(path, wide)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; if the file is Latin-1,"
            f" {_convert(path, 'LATIN1')}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wide(content: bytes) -> str:
    """The encoding of text whose signs are of two bytes or four, by its mark or by where its zeros stand; else ""."""
    marks = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}  # before those that they begin with
    marks |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
    marked = next((name for mark, name in marks.items() if content.startswith(mark)), "")
    start = content[:1000]
    if marked or not start or 3 * start.count(0) < len(start):  # a zero here and there is no encoding's
        return marked
    return "UTF-16BE" if start[::2].count(0) > start[1::2].count(0) else "UTF-16LE"


def _convert(path: Path, encoding: str) -> str:
    packed = path.suffix.lower() in PACKING
    unpack, name = ("unpack and ", path.stem) if packed else ("", path)
    new = f"new{_suffix(path)}"
    return f"{unpack}convert it: iconv -f {encoding} -t UTF-8 {name} > {new}, and name that file in its place"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:40]} is beyond the numbers that a program holds; write it as text")
    return value


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"key {twice!r} stands twice in an object")
    return row


def _json(path: Path) -> Rows:
    """A JSON list, or one object a line, whatever the suffix says."""
    text = _text(path)
    if not text.lstrip().startswith("["):
        return _json_lines(path, text)
    try:
        return rows_without_lines(_parsed(text))
    except (ValueError, RecursionError) as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else _huge(text)[0]
        number = text.count("\n", 0, position or 0) + 1
        line = "" if position is None else f", line {number}"
        raise UserError(f"{path}{line}: not JSON ({_reason(error, text)}); correct it there") from None


def _json_lines(path: Path, text: str) -> Rows:
    values, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({_reason(error, line)}), found {_short(line)}; {_cure(line, text)}"
            ) from None
        numbers.append(number)
    return _in_lines(values, numbers)


def _reason(error: Exception, text: str) -> str:
    place, digits = _huge(text)
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error) if place is None else f"a whole number of {digits:,} digits; write it as text"


def _huge(text: str) -> tuple[int | None, int]:
    """Where a whole number stands that Python doesn't read, and how many digits it has."""
    most = sys.get_int_max_str_digits()
    digits = re.search(rf"[0-9]{{{most + 1},}}", text) if most else None
    return (digits.start(), len(digits[0])) if digits else (None, 0)


def _cure(line: str, text: str) -> str:
    if not text.lstrip().startswith("{"):
        return "allowed are a JSON list or one object a line; a table of cells is read where the file is named .csv"
    if line.strip() in ("{", "}") or text.lstrip().startswith("{\n"):
        return "write each object on one line, or all of them as one list: [{...}, {...}]"
    return "correct or remove that line"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _cells(path: Path, delimiter: str = "") -> Rows:
    """A table of cells whose first line names the columns; without a delimiter, the one of comma, semicolon and
    tab that stands most often in that line. Columns without a name are passed over.
    """
    text = _text(path)
    header = re.sub(r'"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])  # of a name in quotes no sign counts
    delimiter = delimiter or max(",;\t", key=header.count)
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    values, numbers, line = [], [], 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                if len(set(filter(None, columns))) < len(list(filter(None, columns))):
                    raise UserError(f"{path}, line {start}: a column's name stands twice; rename one")
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{path}, line {start}: found {len(cells)} cells, allowed {len(columns)} as in the first line;"
                    " a cell that holds the delimiter stands in double quotes"
                )
            values.append({column: cell for column, cell in zip(columns, cells, strict=True) if column})
            numbers.append(start)
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not CSV ({error}); check that line's quotes") from None
    return _in_lines(values, numbers)


def _typed(read: Callable[[Path], "pyarrow.Table"], kind: str, path: Path) -> Rows:
    """The rows of a typed file that `read` reads."""
    import pyarrow

    try:
        table = read(path)
        columns = Counter(table.column_names)
        if twice := [name for name, count in columns.items() if count > 1]:
            raise UserError(f"{path}: column {twice[0]!r} stands twice; rename one")
        return rows_without_lines(json_rows(table))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a whole {kind} file ({error}); write it again") from None
    except (ValueError, OverflowError) as error:  # a date beyond the year 9999
        raise UserError(f"{path}: a value can't be read ({error}); write that column as text") from None


def _parquet(path: Path) -> "pyarrow.Table":
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read()


def _arrow(path: Path) -> "pyarrow.Table":
    """Of a file (Feather), or of a stream, which `datasets` writes."""
    import pyarrow

    with pyarrow.OSFile(str(path)) as file:
        as_file = file.read(6) == b"ARROW1"
        file.seek(0)
        return (pyarrow.ipc.open_file if as_file else pyarrow.ipc.open_stream)(file).read_all()


def _saved(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: not whole as save_to_disk of `datasets` wrote it ({error}); save it again"
        ) from None


def _of_saved(saved: Any) -> Rows:
    return rows_without_lines(json_rows(saved.with_format("arrow")[:]))


READERS: dict[str, Callable[[Path], Rows]] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _json),
    ".csv": _cells,
    ".tsv": partial(_cells, delimiter="\t"),
    ".parquet": partial(_typed, _parquet, "Parquet"),
    **dict.fromkeys((".arrow", ".feather"), partial(_typed, _arrow, "Arrow")),
}
