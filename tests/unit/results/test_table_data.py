"""Prepared data are taken for what they were made for alone, and every hint is a command that makes them."""

import json
import shlex
from pathlib import Path

import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import content_sha256
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.narrowing import narrowed
from sbora_bench.plan.settings import data_settings
from sbora_bench.report.verify import other_inputs
from sbora_bench.results.table_data import table_data
from tests.factories.workplace import workplace  # noqa: F401

RESULTS = Path("results/small")
ROWS = [{"instruction": f"What is {i} + 1?", "input": "", "output": f"{i + 1}", "answer": f"{i + 1}"} for i in range(9)]


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def place(workplace):  # noqa: F811
    """An experiment on a training set and items of one's own."""
    write("own.jsonl", ROWS[:5])
    write("items.jsonl", ROWS[5:])
    task = {"title": "T", "template": "number", "answer": {"official": "last-number"}, "items": {"ladder": "items"}}
    workplace.catalog(
        data={"own": {"path": "own.jsonl"}, "items": {"path": "items.jsonl"}},
        tasks={"own": task},
        suites={"own": {"title": "Own", "tasks": ["own"]}},
    )
    workplace.experiment((["tables", "sums", "train"], "own"), (["tables", "sums", "suite"], "own"))
    return workplace


def plan(**part):
    load_catalog.cache_clear()
    return narrowed(load_plan("small"), **part)


def follow(place, message: str) -> None:
    """Run the command that a message ends with."""
    status, _, err = place.run(*shlex.split(message.partition("with: sbora-bench ")[2]))
    assert status == 0, err


def refused(expected: str, **part) -> str:
    with pytest.raises(UserError, match=expected) as raised:
        table_data(plan(**part), RESULTS, "sums")
    return str(raised.value)


def test_a_changed_file_is_noticed_by_its_content_and_the_hint_makes_the_data_again(place):
    follow(place, refused("contamination.json: no such file"))
    assert table_data(plan(), RESULTS, "sums") == RESULTS / "data/sums"
    Path("own.jsonl").touch()
    assert list(other_inputs(plan(), RESULTS)) == []
    write("own.jsonl", ROWS[1:6])
    follow(place, refused("data own changed since this was made"))
    assert table_data(plan(), RESULTS, "sums")
    write("items.jsonl", ROWS[6:])
    assert list(other_inputs(plan(), RESULTS)) == [
        "results/small/data/sums/contamination.json: data items changed since this was made"
    ]
    follow(place, refused("data items changed"))
    assert list(other_inputs(plan(), RESULTS)) == []


def test_data_of_another_experiment_and_of_other_settings_are_refused(place):
    place.experiment(name="other")
    status, _, err = place.run("prepare", "-e", "other", "--table", "sums", "--output", str(RESULTS / "data/sums"))
    assert status == 0, err
    follow(place, refused("made for table sums of experiment other, not for sums of small"))
    place.experiment(
        (["tables", "sums", "train"], "own"),
        (["tables", "sums", "suite"], "own"),
        (["tables", "sums", "limit"], {"own": 2}),
    )
    follow(place, refused("made for other settings"))
    assert table_data(plan(), RESULTS, "sums")


def test_the_hint_of_a_part_names_the_part(place):
    message = refused("no such file", only="method=lora", limit="3")
    assert "--only method=lora --limit 3" in message
    follow(place, message)
    assert table_data(plan(only="method=lora", limit="3"), RESULTS, "sums")
    refused("made for table sums of experiment small_method-lora_limit-3")


def test_only_what_a_table_reads_is_part_of_its_settings(place):
    before = data_settings(plan(), "sums")
    place.catalog(**(load_own(place) | {"data": load_own(place)["data"] | {"third": {"path": "nowhere.jsonl"}}}))
    assert data_settings(plan(), "sums") == before
    Path("own.jsonl").unlink()
    with pytest.raises(UserError, match=r"experiments/catalog/own.jsonl, own.jsonl: no such file"):
        data_settings(plan(), "sums")


def load_own(place) -> dict:
    import yaml

    return yaml.safe_load((place.folder / "experiments/catalog/own.yaml").read_text())


def test_a_large_file_is_hashed_again_where_its_size_or_time_changed(place, monkeypatch):
    import os

    from sbora_bench import files

    monkeypatch.setattr(files, "LARGE", 1)
    digests = []
    monkeypatch.setattr(files, "sha256", lambda path: digests.append(path) or Path(path).read_text())
    path = Path("own.jsonl")
    assert content_sha256(path) == content_sha256(path) and len(digests) == 1
    os.utime(path, ns=(1, 1))
    content_sha256(path)
    path.write_text("x")
    assert content_sha256(path) == "x" and len(digests) == 3
    state = path.stat()
    Path("other").write_text("y")
    os.utime("other", ns=(state.st_atime_ns, state.st_mtime_ns))
    os.replace("other", path)  # another file of the same size and time of change
    assert content_sha256(path) == "y" and len(digests) == 4
    path.write_text("z")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as `touch -r` does
    assert content_sha256(path) == "z" and len(digests) == 5


def test_a_folder_is_the_names_and_contents_of_its_files(tmp_path):
    for name, content in (("a/x", "1"), ("b/x", "1"), ("c/y", "1"), ("d/x", "2")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    a, b, c, d = (content_sha256(tmp_path / name) for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_what_a_file_manager_or_a_download_leaves_in_a_folder_changes_nothing(tmp_path):
    (tmp_path / "x").write_text("1")
    before = content_sha256(tmp_path)
    for name in (".DS_Store", ".cache/huggingface/x.metadata"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("2")
    assert content_sha256(tmp_path) == before
    (tmp_path / ".base.yaml").write_text("task: x")  # a task of lm-eval's may include it
    assert content_sha256(tmp_path) != before
