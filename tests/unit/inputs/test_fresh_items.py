"""Items made anew for each seed: no two seeds share one, a run is scored on its own seed's, the base on all."""

from types import SimpleNamespace

import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.inputs.data import synthetic
from sbora_bench.inputs.prepare import prepare_table
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.metric import LOSS
from sbora_bench.plan.settings import data_settings, settings_hash, training_hash
from sbora_bench.results.records import TaskData
from sbora_bench.score import tasks as stage

TABLE = {
    "suite": "arithmetic",
    "train": "ladder-math",
    "protocol": "tiny",
    "seeds": [0, 3],
    "fresh_items": True,
    "metric": "gold_loss",
    "limit": {"AddSub": 5},
    "grids": [{"models": ["ladder-xs"], "methods": ["lora", "sbora-fa"], "ranks": [4, 8]}],
}
COMPARED = {"a": "sbora-fa-r8", "b": "lora-r4", "equal": "parameters", "margin": 0.01}


def plan(tmp_path, **changes):
    table = TABLE | changes
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"title": "Own", "items": "ladder", "tables": {"sums": table}}))
    return load_plan(str(path))


def test_each_seed_has_items_of_its_own_with_their_gold_answer(tmp_path):
    prepare_table(plan(tmp_path), "sums", tmp_path / "data")
    rows = read_jsonl(tmp_path / "data/AddSub.jsonl")
    assert [row["seed"] for row in rows] == [0] * 5 + [3] * 5 and len({row["id"] for row in rows}) == 10
    for seed in (0, 3):
        questions = {e["instruction"]: e["output"] for e in synthetic.items("AddSub", 100, seed)}
        own = [row for row in rows if row["seed"] == seed]
        assert all(any(q in row["prompt"] and a == row["gold"] for q, a in questions.items()) for row in own)


def test_a_run_is_scored_on_its_own_seeds_items_and_the_base_on_all(tmp_path, monkeypatch):
    prepare_table(plan(tmp_path), "sums", tmp_path / "data")
    seen = []

    def score_items(scorer, config, items, *_):
        seen.append([item["seed"] for item in items])
        return stage.TaskScore(value=1.0, n=len(items)), []

    monkeypatch.setattr(stage, "score_items", score_items)
    items = {"AddSub": TaskData()}
    for seed in (0, 3, None, 100):
        scores = stage.score_tasks(
            {"AddSub": {}},
            {"AddSub": {}},
            items,
            tmp_path / "data",
            SimpleNamespace(macro_average=True),
            lambda: SimpleNamespace(label="", tokenizer=None),
            "run",
            tmp_path / "made",
            seed=seed,
        )
    assert seen == [[0] * 5, [3] * 5, [0] * 5 + [3] * 5] and scores["AddSub"].status == "not available"


def test_more_seeds_are_other_data_and_training_is_the_same(tmp_path):
    one, more = plan(tmp_path), plan(tmp_path, seeds=[0, 3, 4])
    assert data_settings(one, "sums") != data_settings(more, "sums")
    run, same = one.run("sums-ladder-xs-lora-r4-s0"), plan(tmp_path, fresh_items=False, metric="score")
    assert training_hash(one, run) == training_hash(same, run) and settings_hash(one, run) != settings_hash(same, run)


def test_comparisons_are_on_the_tables_primary_metric(tmp_path):
    (only,) = plan(tmp_path, comparisons=[COMPARED]).comparisons("sums")
    assert only.metric == LOSS and only.metric_name == "gold_loss"
    (only,) = plan(tmp_path, comparisons=[COMPARED], metric="score").comparisons("sums")
    assert only.metric_name == ""


def test_items_that_are_not_made_here_cannot_be_fresh(tmp_path):
    with pytest.raises(UserError, match=r"tables.sums.fresh_items: task MultiArith: found data multiarith-test"):
        plan(tmp_path, items="paper")
