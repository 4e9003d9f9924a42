"""Prompts of a user's own: Jinja templates as entries of the catalog."""

import json
from pathlib import Path

import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.inputs.data.prompts import prompt_of, render
from sbora_bench.inputs.prepare import prepare_table
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import data_settings
from tests.factories.workplace import workplace  # noqa: F401

JINJA = "Q ({{topic}}): {{instruction}}{% if input %}\n{{input}}{% endif %}\nA:\n"
ROWS = [
    {"topic": "sums", "instruction": "1 + 1?", "input": "", "output": "2", "answer": "2"},
    {"topic": "<&>", "instruction": "2 + 1?", "input": "in short", "output": "3", "answer": "3"},
]


def catalog(jinja: str) -> Catalog:
    return Catalog.model_validate({"prompts": {"own": {"jinja": jinja}}})


def test_a_prompt_of_one_s_own_reads_every_column_and_escapes_nothing():
    prompt = prompt_of(catalog(JINJA), "own")
    assert prompt(ROWS[0]) == "Q (sums): 1 + 1?\nA:\n"
    assert prompt(ROWS[1]) == "Q (<&>): 2 + 1?\nin short\nA:\n"


def test_ours_are_as_they_were():
    for name in ("alpaca", "llm-adapters-train"):
        assert prompt_of(Catalog(), name)(ROWS[1]) == render(name, "2 + 1?", "in short")


@pytest.mark.parametrize(
    ("jinja", "name", "expected"),
    [
        ("{{instruction", "own", "prompts.own.jinja: not a Jinja template"),
        ("{{subject}}", "own", "prompts.own.jinja: the template can't be filled: 'subject' is undefined; found topic"),
        ("{{instruction.__class__.__mro__}}", "own", "unsafe"),
        ("x", "onw", "unknown prompt template 'onw', did you mean 'own'"),
    ],
)
def test_what_cannot_be_filled_is_refused(jinja, name, expected):
    with pytest.raises(UserError, match=expected):
        prompt_of(catalog(jinja), name)(ROWS[0])


def test_a_protocol_names_it_and_prepared_data_follow_its_text(workplace):  # noqa: F811
    Path("own.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    settings = []
    for jinja in (JINJA, "{{topic}} {{instruction}}"):
        task = {"title": "T", "template": "number", "answer": {"official": "last-number"}, "items": {"ladder": "own"}}
        workplace.catalog(
            data={"own": {"path": "own.jsonl"}},
            prompts={"own": {"jinja": jinja}},
            tasks={"own": task},
            suites={"own": {"title": "Own", "tasks": ["own"]}},
        )
        table = ["tables", "sums"]
        workplace.experiment(
            ([*table, "train"], "own"),
            ([*table, "suite"], "own"),
            ([*table, "overrides"], {"train_prompt": "own", "score_prompt": "own"}),
        )
        assert workplace.run("validate", "small")[0] == 0
        load_catalog.cache_clear()
        plan = load_plan("small")
        settings.append(data_settings(plan, "sums"))
    prepare_table(plan, "sums", Path("out"))
    assert [row["prompt"] for row in read_jsonl("out/train.jsonl")] == ["sums 1 + 1?", "<&> 2 + 1?"]
    assert [row["prompt"] for row in read_jsonl("out/own.jsonl")] == ["sums 1 + 1?", "<&> 2 + 1?"]
    assert settings[0] != settings[1]
