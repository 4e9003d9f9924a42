"""A results folder is read once, however often and from wherever it is asked for."""

from collections import Counter

import pytest

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.separation import separation
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.results import read
from sbora_bench.results.read import Results
from sbora_bench.results.records import TrainRecord, read_record, write_record
from tests.factories.made_results import make_experiment, printed_tables


@pytest.fixture
def made(tmp_path):
    return Results(*make_experiment(tmp_path))


def test_no_file_is_read_twice(made, monkeypatch):
    opened = Counter()

    def counting(name, function):
        def call(path, *more):
            opened[path] += 1
            return function(path, *more)

        monkeypatch.setattr(read, name, call)

    counting("record_at", read.record_at)
    counting("read_jsonl", read.read_jsonl)
    for _ in range(2):
        separation(made)
        for run in made.plan.runs:
            made.task_scores(run), made.training(run), made.footprint(run)
            for task in made.plan.tasks(run.table):
                made.items(run, task)
    assert len(opened) > 3 * len(made.plan.runs) and set(opened.values()) == {1}


def test_what_was_read_serves_the_picked_rates_too(made):
    assert picked(made) is made, "no table varies the rate"
    cell = made.plan.tuned_cells("arithmetic")[0]
    part = made.with_rates({cell: 0.5})
    assert part is made.with_rates({cell: 0.5}) and part.plan.rates == {cell: 0.5}
    run = made.plan.runs[0]
    assert part.scores(run) is made.scores(run)


def test_texts_are_left_out_of_what_is_kept(made):
    run = made.plan.runs[0]
    rows, kept = made.samples(run, "gsm8k"), made.items(run, "gsm8k")
    assert [row["id"] for row in rows] == [row["id"] for row in kept]
    assert set(rows[0]) - set(kept[0]) == {"prompt", "response", "extracted"}


def test_scores_of_other_settings_are_refused_once_and_again(made):
    experiment = made.plan.experiment.model_copy(deep=True)
    experiment.tables["arithmetic"].overrides["learning_rate"] = 0.5
    other = Results(Plan(made.plan.name, experiment, made.plan.catalog, "x.yaml"), made.folder)
    for _ in range(2):
        with pytest.raises(UserError, match="settings_sha256"):
            other.scores(other.plan.runs[0])


def test_a_missing_record_is_none(made, tmp_path):
    empty = Results(made.plan, tmp_path / "empty")
    run = made.plan.runs[0]
    assert empty.scores(run) is empty.training(run) is empty.footprint(run) is None
    assert empty.contamination("arithmetic") is None
    assert set(empty.task_scores(run).values()) == {None}
    with pytest.raises(UserError, match="gsm8k.jsonl"):
        empty.items(run, "gsm8k")
    with pytest.raises(UserError, match="collect"):
        printed_tables(empty)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"experiment": "other"}, "experiment: found other, allowed "),
        ({"run": "arithmetic-other-s0"}, "run: found arithmetic-other-s0, allowed "),
        ({"asked": {"learning_rate": 7.0}}, "protocol.learning_rate: trained with 7.0, the experiment and its catalog"),
    ],
)
def test_training_of_another_experiment_run_or_setting_is_refused_where_it_is_read(made, change, expected):
    plan, folder = made.plan, made.folder
    run = next(run for run in plan.runs if not run.is_base)
    path = folder / "runs" / run.name / "train.json"
    record = read_record(path, TrainRecord)
    assert Results(plan, folder).training(run) == record
    if "asked" in change:
        change = {"asked": record.asked | {"protocol": record.asked["protocol"] | change["asked"]}}
    write_record(path, record.model_copy(update=change))
    results = Results(plan, folder)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{run.name}/train.json: {expected}.*delete the folder and run it again"):
            results.training(run)
