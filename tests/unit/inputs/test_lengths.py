"""What `prepare` measures of the sets that it read, `plan --cost` goes by, while they are the same sets."""

import json
from pathlib import Path

import pytest

from sbora_bench.cost.expected import expected_questions, share_of_width
from sbora_bench.files import read_json
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.lengths import MEASURED, lengths_of
from sbora_bench.plan.load import load_plan
from tests.factories import toy_runs
from tests.factories.workplace import GRID, TABLE, workplace  # noqa: F401

PREPARE = ("prepare", "-e", "small", "--table", "sums", "--output", "out")


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def place(workplace):  # noqa: F811
    """An experiment on sets of one's own, and a model whose tokenizer has a token a word."""
    write("own.jsonl", [{"instruction": "1 + 1", "output": "2 " * (row + 1), "input": ""} for row in range(11)])
    write("items.jsonl", [{"instruction": "1 + 1", "input": "", "output": "2", "answer": "2"}] * 3)
    task = {"title": "T", "template": "number", "answer": {"official": "last-number"}, "items": {"ladder": "items"}}
    workplace.catalog(
        data={"own": {"path": "own.jsonl"}, "items": {"path": "items.jsonl"}},
        tasks={"own": task},
        suites={"own": {"title": "Own", "tasks": ["own"]}},
        lengths={"own": {"example_mean": 100, "source": "a paper"}},
    )
    edits = (((*TABLE, "train"), "own"), ((*TABLE, "suite"), "own"), ((*GRID, "models"), ["ladder-s", "ladder-xs"]))
    workplace.experiment(*edits, ((*TABLE, "overrides"), {"train_prompt": "plain", "score_prompt": "plain"}))
    return workplace


def plan():
    load_catalog.cache_clear()
    return load_plan("small")


def test_lengths_are_those_of_the_tokenizer_at_hand_and_of_the_same_set(place):
    assert place.run(*PREPARE)[:2] == (0, "") and not MEASURED.exists(), "no tokenizer is at hand"
    published = share_of_width(plan().catalog, "own", plan().protocol("sums"))
    tokenizer = toy_runs.tokenizer()
    tokenizer.save_pretrained("resources/models/ladder-xs")
    status, out, err = place.run(*PREPARE)
    assert (status, err) == (0, "") and "resources/lengths/own.json" in out, (out, err)
    known = lengths_of("own", plan().catalog.data, plan().catalog.lengths)
    answers = [len(tokenizer("2 " * (row + 1), add_special_tokens=False)["input_ids"]) + 1 for row in range(11)]
    assert list(known.answer) == answers and known.example_mean is None
    assert known.source == "11 of 11 rows as prepared here, tokens of ladder-xs"
    assert share_of_width(plan().catalog, "own", plan().protocol("sums")) < published
    question = len(tokenizer("1 + 1")["input_ids"])
    assert [row[1] for row in expected_questions(plan(), "sums", [(3, 128, 24)])] == [question]

    write("own.jsonl", [{"instruction": "1 + 1", "output": "2", "input": ""}])
    assert share_of_width(plan().catalog, "own", plan().protocol("sums")) == published, "another set of that name"
    (MEASURED / "items.json").write_text("{")
    assert [row[1] for row in expected_questions(plan(), "sums", [(3, 128, 24)])] == [128]


def test_sets_that_are_made_here_are_not_measured_and_a_spoilt_tokenizer_fails_nothing(place):
    place.experiment()
    toy_runs.tokenizer().save_pretrained("resources/models/ladder-xs")
    assert place.run(*PREPARE) == (0, "", "") and not MEASURED.exists()
    place.experiment(((*TABLE, "train"), "own"))
    Path("resources/models/ladder-xs/tokenizer.json").write_text("{}")
    status, out, err = place.run(*PREPARE)
    assert (status, out) == (0, "") and err.startswith("note: lengths are not measured: ") and Path("out").is_dir()
    toy_runs.tokenizer().save_pretrained("resources/models/ladder-xs")
    assert place.run(*PREPARE)[0] == 0 and list(read_json(MEASURED / "own.json")) == ["data_sha256", "lengths"]
