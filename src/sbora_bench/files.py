"""Files appear whole or not at all: write beside, then rename. Hashes of files in one place too."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, needed: str = "") -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes `path`'s place when the block ends without an error.

    Raises UserError, naming the path and the bytes `needed`, where the disk is full or the folder can't be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    _make_folder(path.parent)
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        _remove(beside)  # first, so that the free bytes are those that the user finds
        raise disk_error(error, path, needed) from error
    finally:
        _remove(beside)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike, needed: str = "") -> Iterator[Path]:
    """Yield a new folder beside `path`; it takes `path`'s place (an older one is removed) at the end.

    Raises UserError, naming the path and the bytes `needed`, where the disk is full, the folder can't be written, or
    `path` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, a folder is to be written there; choose another place or remove it")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    _make_folder(beside)
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():  # safetensors writes files that only their owner can read
                file.chmod(file.parent.stat().st_mode & 0o666)
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    except Exception as error:
        written = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
        _remove(beside)
        explained = disk_error(error, path, needed or f"more than {written:,}")
        if explained is error:
            raise
        raise explained from error
    finally:
        _remove(beside)


def _meant(path: Path) -> Path:
    """The final path: without the marks of a file or folder that is not whole yet."""
    return Path(*(re.sub(r"^\.(.+)\.\d+\.part$", r"\1", part) for part in path.parts))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        path = _meant(path)
        explained = disk_error(error, path)
        reason = f"can't be made ({error.strerror}); choose a place that you may write to"
        raise UserError(f"{path}: {reason}") if explained is error else explained from None


def disk_error(error: Exception, path: Path, needed: str = "") -> Exception:
    """A UserError for a full disk or a folder that can't be written; any other error is returned as it is.

    `needed`: how many bytes, as far as that is known.
    """
    number = _error_number(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return full_disk(path, needed)
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = os.strerror(number)
        return UserError(f"{_meant(path)}: can't be written ({reason}); choose a folder that you may write to")
    return error


def full_disk(path: Path, needed: str = "") -> UserError:
    """The error of a disk on which `path` has no room."""
    path = _meant(path)
    free = _free_bytes(path)
    room_left = f"{needed} bytes needed, {free:,} bytes free" if needed else f"{free:,} bytes free"
    return UserError(f"{path}: no space left on the disk ({room_left}); make room and run the same command again")


def _free_bytes(path: Path) -> int:
    """Free bytes of the disk of `path`, which need not exist."""
    return shutil.disk_usage(next(p for p in [path, *path.absolute().parents] if p.exists())).free


def nearly_full(path: Path, least: int = 100_000_000) -> str:
    """A line where the disk of `path` has less than `least` bytes left, so that a log may lack the reason of a failure;
    else empty.
    """
    free = _free_bytes(path)
    if free >= least:
        return ""
    reason = f"almost no space left on the disk ({free:,} bytes free)"
    return f"{path}: {reason}; if the log is empty or says so, make room and run the same command again"


def check_writable(folder: str | os.PathLike) -> None:
    """Raise UserError where `folder`, or its nearest parent that exists, can't be written."""
    existing = next(place for place in [Path(folder), *Path(folder).absolute().parents] if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: {existing} can't be written; choose a folder that you may write to")


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; safetensors has it in the text alone."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(match[1]) if match else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with whole_file(path, f"{len(text.encode()):,}") as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as JSON: keys sorted, one-space indent, newline at the end; the same value, the same bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | os.PathLike, rows: list[dict]) -> None:
    """Write one JSON object a line, keys sorted."""
    write_text(path, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON. Raises UserError, naming the file, if it's missing or isn't JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole JSON file ({error}); delete it and make it again") from None


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """Read one JSON object a line. Raises UserError as `read_json` does."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not whole JSON lines ({error}); delete it and make it again") from None


def sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: str | os.PathLike) -> list[int]:
    """What changes when a file does: its size, when it was written or put in place (the time that no program sets,
    `touch -r`, is among them), and which file it is.
    """
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


HASHED = "resources/content-hashes.json"  # size, time and SHA-256 of large files, by path
LARGE = 2**24  # bytes; smaller ones are hashed each time


def content_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file, or of the names and contents of a folder's files: not of hidden ones, which nothing here
    reads (a file manager's, a download's notes), but YAML, which lm-eval does.

    Of a large file it is looked up by its place and `file_state`, and computed where that is another than before.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_content(file, path))
        return hash_of({file.relative_to(path).as_posix(): content_sha256(file) for file in inside})
    if path.stat().st_size < LARGE:
        return sha256(path)
    known = read_json(HASHED) if Path(HASHED).is_file() else {}
    name, state = str(path.resolve()), file_state(path)
    if known.get(name, [])[:-1] != state:
        known[name] = [*state, sha256(path)]
        with contextlib.suppress(UserError):  # where it can't be written it is computed each time
            write_json(HASHED, known)
    return known[name][-1]


def _is_content(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden or file.suffix in (".yaml", ".yml")


def git_blob_id(content: bytes) -> str:
    """The id that `git hash-object` gives to these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def hash_of(value: Any) -> str:
    """Hex SHA-256 of a JSON value in its canonical spelling."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
