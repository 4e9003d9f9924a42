"""Files appear whole or not at all, and a disk that can't take them ends in one line."""

import errno
import subprocess

import pytest

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import (
    disk_error,
    git_blob_id,
    hash_of,
    read_json,
    read_jsonl,
    sha256,
    whole_file,
    whole_folder,
    write_json,
    write_jsonl,
    write_text,
)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_crash_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as beside:
        beside.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_crash_leaves_the_old_folder(tmp_path):
    path = tmp_path / "deep" / "a"
    for text in ("old", "newer"):
        with whole_folder(path) as beside:
            (beside / f"{text}.txt").write_text(text)
    with pytest.raises(ZeroDivisionError), whole_folder(path) as beside:
        (beside / "newest.txt").write_text("x")
        raise ZeroDivisionError
    assert [p.name for p in path.iterdir()] == ["newer.txt"] and list(path.parent.iterdir()) == [path]


def test_who_may_read_the_folder_may_read_its_files(tmp_path):
    tmp_path.chmod(0o755)
    with whole_folder(tmp_path / "a") as beside:
        (beside / "in").mkdir()
        for name in ("x", "in/y"):
            (beside / name).touch(mode=0o600)
    folder, *files = (path.stat().st_mode & 0o666 for path in (tmp_path / "a", tmp_path / "a/x", tmp_path / "a/in/y"))
    assert files == [folder, folder]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "no space left on the disk .* free.; make room"),
        (errno.EDQUOT, "no space left on the disk .* free.; make room"),
        (errno.EACCES, "can't be written"),
        (errno.EROFS, "can't be written"),
    ],
)
def test_a_disk_that_cannot_take_it(tmp_path, code, message):
    path = tmp_path / "a"
    with pytest.raises(UserError, match=f"{path}: {message}"), whole_file(path) as beside:
        beside.write_text("half")
        raise OSError(code, "why")
    with pytest.raises(UserError, match=f"{path}: {message}"), whole_folder(path) as beside:
        (beside / "half").write_text("half")
        raise OSError(code, "why")
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_folder_either(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(UserError, match="no space left"):
        write_text(tmp_path / "new" / "a", "x")


def test_other_errors_come_through(tmp_path):
    strange = OSError(errno.EIO, "broken")
    assert disk_error(strange, tmp_path) is strange
    with pytest.raises(OSError, match="broken"), whole_file(tmp_path / "a"):
        raise strange


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="is a file"), whole_folder(tmp_path / "a"):
        pytest.fail("nothing is to be done here")
    with pytest.raises(UserError, match="can't be made"):
        write_text(tmp_path / "a" / "b", "x")
    assert (tmp_path / "a").read_text() == "mine" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_json_has_one_spelling_and_no_nan(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": {"d": "é", "c": 2}})
    write_json(tmp_path / "b", {"a": {"c": 2, "d": "é"}, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"b": 1, "a": {"d": "é", "c": 2}}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", {"a": float("nan")})
    assert read_json(tmp_path / "a")["b"] == 1
    assert hash_of({"b": 1, "a": 2}) == hash_of({"a": 2, "b": 1}) != hash_of({"a": 1, "b": 2})


def test_json_lines_keep_every_sign(tmp_path):
    rows = [{"text": "a\nb\u2028c\x85d", "n": 1}, {"text": ""}]
    write_jsonl(tmp_path / "a", rows)
    assert read_jsonl(tmp_path / "a") == rows


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"a"])
def test_what_is_not_whole_json_is_named(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=f"{tmp_path / 'a'}: not a whole JSON file .*delete it and make it again"):
        read_json(tmp_path / "a")
    if content:
        with pytest.raises(UserError, match=f"{tmp_path / 'a'}: not whole JSON lines"):
            read_jsonl(tmp_path / "a")
    for read in (read_json, read_jsonl):
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "a" / "below a file")
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "b")


def test_ids_are_those_of_git_and_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    done = subprocess.run(["sha256sum", tmp_path / "a"], capture_output=True, text=True, check=True)
    assert sha256(tmp_path / "a") == done.stdout.split()[0]


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\n\tb", "\x1b[31mred", "a\u2028b", "\udcff", "\x00"])
def test_a_message_is_one_printable_line(hostile):
    message = str(UserError(f"file {hostile}: {one_of(hostile, ['known'], 'name')}"))
    assert len(message.splitlines()) == 1 and message.isprintable()
    message.encode("utf-8")


def test_a_name_is_told_with_the_nearest_and_not_with_a_thousand():
    assert one_of("lroa", ["lora", "dora"], "method") == "unknown method 'lroa', did you mean 'lora'? known: dora, lora"
    assert one_of("x", [], "method") == "unknown method 'x'; known: none"
    many = one_of("x", [f"run-{index:04d}" for index in range(1000)], "run")
    assert len(many) < 500 and many.endswith("and 960 more")
