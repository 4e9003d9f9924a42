"""Where examples come from: files checked by git blob id or of one's own, sets of the Hugging Face hub, the ladder's
synthetic rows.

Whatever the source, an example has the fields of data/examples.py.

`SBORA_DATA_ROOT` takes the place of every download of a file, and of a hub set where it has a folder of the set's
name; `HF_HUB_OFFLINE=1` forbids the network.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import disk_error, git_blob_id
from sbora_bench.hub import CONNECT_SECONDS, DATASET_FILES, DOWNLOADS, Unreachable, offline, snapshot
from sbora_bench.inputs.data import flan, standins
from sbora_bench.inputs.data.examples import Example, check_ids, examples, jinja
from sbora_bench.inputs.data.lm_eval_items import lm_eval_rows
from sbora_bench.inputs.data.lm_eval_tasks import task_rows
from sbora_bench.inputs.data.own_files import Rows, read_rows, rows_without_lines
from sbora_bench.plan.data_entries import DataEntry, FileData, HubData, LmEvalData, OwnData, SyntheticData

READ_SECONDS = 60


def read_examples(name: str, entry: DataEntry) -> list[Example]:
    """All examples of a catalog entry, in the order of the source.

    Raises Unreachable, naming the address and the place, where they can't be obtained; UserError where they are not
    what the catalog says (blob id, number of rows, keys), and for a row that can't be read, with its place.
    """
    return READERS[entry.kind](name, entry)


def _synthetic_examples(name: str, entry: SyntheticData) -> list[Example]:
    return examples(rows_without_lines(_synthetic(entry)), f"data {name}")


def _lm_eval_examples(name: str, entry: LmEvalData) -> list[Example]:
    return [{"input": ""} | row for row in task_rows(name, entry)]


def _hub_examples(name: str, entry: HubData) -> list[Example]:
    return _by_columns(rows_without_lines(_hub_rows(name, entry)), f"data {name}: {entry.id}", entry)


def _file_examples(name: str, entry: FileData) -> list[Example]:
    path = fetch(name, entry)
    rows = read_rows(path)
    _expect_rows(str(path), len(rows.values), entry.rows)
    if not isinstance(entry.columns, dict):
        first = rows.values[0] if rows.values and isinstance(rows.values[0], dict) else entry.columns
        _expect_columns(str(path), first, entry.columns)
    return _by_columns(rows, str(path), entry)


def _own_examples(name: str, entry: OwnData) -> list[Example]:
    path = own_path(name, entry)
    rows = read_rows(path, entry.split)
    _expect_rows(str(path), len(rows.values), entry.rows)
    check_ids(rows, str(path))
    return _by_columns(rows, str(path), entry)


def _by_columns(rows: Rows, where: str, entry: HubData | FileData | OwnData) -> list[Example]:
    if not isinstance(entry.columns, dict):
        return examples(rows, where)
    return examples(rows, where, {str(part): column for part, column in entry.columns.items()})


READERS: dict[str, Callable[[str, Any], list[Example]]] = {
    "synthetic": _synthetic_examples,
    "lm-eval": _lm_eval_examples,
    "hub": _hub_examples,
    "file": _file_examples,
    "own": _own_examples,
}


def own_path(name: str, entry: OwnData) -> Path:
    """Where the file or folder of an entry lies. Raises UserError naming the places that were looked at."""
    try:
        return entry.file()
    except UserError as error:
        raise UserError(f"data {name}: {error}") from None


def place_of(name: str, entry: OwnData, index: int) -> str:
    """Where the row of that index stands, as messages say it."""
    path = own_path(name, entry)
    return f"{path}: {read_rows(path, entry.split).place(index)}"


def fetch(name: str, entry: FileData) -> Path:
    """The file of an entry with the bytes that the catalog names, downloaded (a stand-in: made) if need be.

    Raises Unreachable or, naming both ids, UserError for other bytes (a download of such bytes is removed).
    """
    root = os.environ.get("SBORA_DATA_ROOT")
    if entry.stand_in:
        path = DOWNLOADS / entry.path
        if not path.is_file():
            standins.write_file(_synthetic(entry.stand_in.rows), entry.stand_in.form, path)
    elif root:
        path = Path(root) / entry.path
        if not path.is_file():
            raise Unreachable(
                f"data {name}: {path}: no such file; fetch {entry.url} and put it there, or unset SBORA_DATA_ROOT"
                " to have it downloaded",
                entry.url,
            )
    else:
        path = DOWNLOADS / entry.path
        if not path.is_file():
            _download(name, entry, path)
    blob = git_blob_id(path.read_bytes())
    if blob != entry.blob:
        raise UserError(f"data {name}: {path}: git blob id {blob}, expected {entry.blob}; replace it by {entry.url}")
    return path


def _download(name: str, entry: FileData, path: Path) -> None:
    """Download to `path`, going on from what an interrupted download left."""
    import requests
    from filelock import FileLock

    missing = f"data {name}: {entry.url}"
    help = f"fetch it elsewhere and put it at {path}, or below SBORA_DATA_ROOT as {entry.path}"
    if offline():
        raise Unreachable(f"{missing} is not fetched (HF_HUB_OFFLINE is set); {help}", entry.url)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file():
                return
            resumed = part.is_file()
            blob = _append(entry.url, part)
            if blob != entry.blob and resumed:
                part.unlink()
                blob = _append(entry.url, part)
            if blob != entry.blob:
                part.unlink()
                raise UserError(f"{missing}: git blob id {blob}, expected {entry.blob}; nothing was kept; {help}")
            os.replace(part, path)
    except requests.exceptions.RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"HTTP {status}" if status else type(error).__name__
        raise Unreachable(f"{missing} can't be obtained ({reason}); {help}", entry.url) from None
    except OSError as error:
        if disk_error(error, path) is not error:
            part.unlink(missing_ok=True)  # the line that tells may need the room
        raise disk_error(error, path, _size(entry.url)) from error


def _size(url: str) -> str:
    """How many bytes a server says that a file has; empty where it doesn't say."""
    import requests

    try:
        answer = requests.head(url, allow_redirects=True, timeout=CONNECT_SECONDS)
    except requests.exceptions.RequestException:
        return ""
    size = answer.headers.get("Content-Length", "") if answer.ok else ""
    return f"{int(size):,}" if size.isdecimal() else ""


def _append(url: str, part: Path) -> str:
    """Fetch what `part` lacks (uncompressed, so that its size tells where to go on); the git blob id of the whole."""
    import pooch
    import requests

    headers = {"Accept-Encoding": "identity"}
    if part.is_file():
        headers["Range"] = f"bytes={part.stat().st_size}-"
    fetcher = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), headers=headers, timeout=(CONNECT_SECONDS, READ_SECONDS)
    )
    try:
        with open(part, "ab") as file:
            fetcher(url, file, None)
    except requests.exceptions.HTTPError as error:
        if error.response.status_code != 416:  # nothing lacks
            raise
    finally:
        if not part.stat().st_size:
            part.unlink()
    return git_blob_id(part.read_bytes())


def _hub_rows(name: str, entry: HubData) -> Any:
    """The rows of a hub set, sampled or put as questions by lm-eval where the entry says so."""
    import datasets

    root = os.environ.get("SBORA_DATA_ROOT")
    folder = Path(root or "$SBORA_DATA_ROOT") / entry.id
    if entry.stand_in:
        folder = DOWNLOADS / entry.id
        if not folder.is_dir():
            standins.write_set(_synthetic(entry.stand_in.rows), entry.stand_in.form, entry.split, folder)
    elif not folder.is_dir():
        instead = (
            f"where it is reachable, run `hf download {entry.id} --repo-type dataset --revision {entry.revision}"
            f" --local-dir {folder}`"
        )
        folder = snapshot(entry.id, entry.revision, "dataset", DATASET_FILES, instead)
    if entry.lm_eval_task:
        rows = lm_eval_rows(name, entry.lm_eval_task, entry.shots, folder)
        _expect_rows(f"data {name}: {folder}", len(rows), entry.rows)
        return rows
    try:
        rows = datasets.load_dataset(str(folder), split=entry.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"data {name}: {folder}: split {entry.split} can't be read ({error})") from None
    _expect_rows(f"data {name}: {folder}", len(rows), entry.rows)
    if not isinstance(entry.columns, dict):
        _expect_columns(f"data {name}: {folder}", rows.column_names, entry.columns)
    chosen = rows.select(flan.sample(_rows(rows))) if entry.sampler == "flan-v2" else rows
    return list(rows_where(_rows(chosen), entry, f"data {name}"))


def rows_where(rows: Iterable[dict[str, Any]], entry: HubData, where: str) -> Iterator[dict[str, Any]]:
    """The rows that the entry's `where` says True of, `first` of them at most."""
    if entry.where is not None:
        says = jinja(entry.where, f"{where}: where")
        rows = (row for row in rows if says(row).strip() == "True")
    return islice(rows, entry.first)


def _rows(rows: Any) -> Any:
    """The rows of a `datasets.Dataset`, read in batches: millions of them one by one take ten times as long."""
    for batch in rows.iter(batch_size=10_000):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _synthetic(entry: SyntheticData) -> list[dict[str, str]]:
    from sbora_bench.inputs.data import synthetic

    if entry.maker == "training_set":
        return synthetic.training_set(entry.name, entry.seed)[: entry.rows]
    if entry.rows is None:
        raise UserError(f"catalog: data: {entry.name}: rows: missing: how many {entry.maker} to make; give a number")
    if entry.maker == "mmlu_items":
        return synthetic.mmlu_items(entry.rows, entry.seed)
    if entry.maker == "corpus":
        from sbora_bench.inputs.data import corpus

        return corpus.scored_documents(entry.rows, entry.seed)
    return synthetic.items(entry.name, entry.rows, entry.seed)


def _expect_rows(where: str, present: int, expected: int | None) -> None:
    if expected is not None and present != expected:
        raise UserError(
            f"{where}: found {present:,} rows, expected {expected:,}; correct the entry's `rows`, or the file"
        )


def _expect_columns(where: str, present: Iterable[str], expected: tuple[str, ...]) -> None:
    if not set(expected) <= set(present):
        raise UserError(
            f"{where}: found columns {', '.join(present)}, expected {', '.join(expected)}; correct the entry's"
            " `columns`, or the file"
        )
