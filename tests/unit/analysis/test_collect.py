"""Records into scores.csv, footprint.csv and budget.csv."""

import pytest

from sbora_bench.analysis.collect import collect, over_items
from sbora_bench.analysis.csv_files import FOOTPRINT, SCORES, by_place, lines, read_footprint, read_scores
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json, write_text
from sbora_bench.plan.metric import LOSS, SHARE
from sbora_bench.results.records import SEAL, TaskScore
from tests.factories.made_results import (
    GOLDEN,
    experiment,
    make_experiment,
    make_plan,
    make_run,
    with_settings,
    with_table,
)


@pytest.fixture
def made(tmp_path):
    return make_experiment(tmp_path)


def edit(path, **changes):
    write_json(path, {key: value for key, value in (read_json(path) | changes).items() if key != SEAL})


@pytest.mark.parametrize("name", ["scores.csv", "footprint.csv", "budget.csv"])
def test_golden(made, name):
    collect(*made)
    assert (made[1] / name).read_text() == (GOLDEN / name).read_text()


def test_a_row_a_run_and_task_sorted_and_typed(made):
    plan, results = made
    collect(plan, results)
    scores = read_scores(results)
    places = list(zip(scores.table, scores.run, scores.task, strict=True))
    assert places == sorted(places)
    assert set(places) == {(run.table, run.name, task) for run in plan.runs for task in plan.tasks(run.table)}
    assert scores.columns.tolist() == list(SCORES)
    assert scores["rank"].isna().sum() == scores.seed.isna().sum() == (scores.method == "base").sum() == 3 * 2 + 2
    assert ((scores.value >= 0) & (scores.value <= 1)).all()


@pytest.mark.parametrize(("measured", "interval"), [(SHARE, "[20.7, 100.0]"), (LOSS, "–")])
def test_a_single_item_has_no_standard_error(measured, interval):
    one = TaskScore(metric="own", mean_over="items", measured=measured, value=1.0, n=1)
    stderr, *ends = over_items(one)
    assert stderr is None and measured.interval_text(*ends) == interval


def test_scores_from_before_the_mean_had_a_column_read_as_those_from_now(made):
    plan, results = made
    collect(plan, results)
    now = read_scores(results)
    assert set(zip(now.task == "mmlu", now.mean_over, strict=True)) == {(True, "subjects"), (False, "items")}
    before = now.assign(metric=now.metric.where(now.mean_over == "items", now.metric + "_macro"))
    before.drop(columns="mean_over").to_csv(results / "scores.csv", index=False)
    assert read_scores(results).equals(now)


def test_the_same_records_give_the_same_bytes(made, tmp_path):
    plan, results = made
    collect(plan, results)
    other = tmp_path / "again"
    for run in reversed(plan.runs):
        make_run(plan, other, run)
    collect(plan, other)
    assert (other / "scores.csv").read_bytes() == (results / "scores.csv").read_bytes()


def test_failed_missing_and_unavailable_say_so(made):
    plan, results = made
    failed, unavailable, gone = (plan.run(f"arithmetic-llama-7b-lora-r32-s{seed}") for seed in (0, 1, 2))
    make_run(plan, results, failed, failed="ran out of memory")
    make_run(plan, results, unavailable, missing=("gsm8k",))
    (results / "runs" / gone.name / "scores.json").unlink()
    collect(plan, results)
    scores = read_scores(results)
    status = {(row.run, row.task): row.status for row in scores.itertuples()}
    assert {status[failed.name, task] for task in ("MultiArith", "gsm8k", "AddSub")} == {"failed"}
    assert status[unavailable.name, "gsm8k"] == "not available"
    assert status[unavailable.name, "AddSub"] == "ok"
    assert status[gone.name, "AddSub"] == "not run"
    assert scores.value.isna().tolist() == (scores.status != "ok").tolist()


def test_a_failed_training_without_scores_is_a_failure(made):
    plan, results = made
    run = plan.run("arithmetic-llama-7b-lora-r32-s0")
    make_run(plan, results, run, failed="no memory")
    (results / "runs" / run.name / "scores.json").unlink()
    collect(plan, results)
    scores = read_scores(results)
    assert set(scores[scores.run == run.name].status) == {"failed"}


def test_lines_have_none_for_what_is_missing(made):
    plan, results = made
    collect(plan, results)
    scores, footprints = read_scores(results), by_place(read_footprint(results))
    lora, base = footprints["arithmetic", "llama-7b", "lora", 32], footprints["arithmetic", "llama-7b", "base", None]
    assert type(lora.trainable_parameters) is int and lora.flops_per_step is None and base.rank is None
    assert [line.run for line in lines(scores)] == list(scores.run)
    assert lines(scores[:0]) == []


def test_measured_peak_is_the_highest_of_the_seeds(made):
    collect(*made)
    footprint = read_footprint(made[1])
    assert footprint.columns.tolist() == list(FOOTPRINT)
    lora = footprint[(footprint.method == "lora") & (footprint.model == "llama-7b")].iloc[0]
    assert (lora.trainable_parameters, lora.measured_peak_bytes) == (56_098_816, 10**9 + 2)
    assert footprint[footprint.method == "base"].measured_peak_bytes.isna().all()


def test_what_a_whole_process_held_is_not_the_allocators_peak(made):
    """On a CPU training notes the process's resident peak; a measured step of the footprint stage counts instead."""
    plan, results = made
    for seed in (0, 1, 2):
        folder = results / f"runs/arithmetic-llama-7b-lora-r32-s{seed}"
        edit(folder / "train.json", on={"hardware": {"gpu": None}})
        edit(folder / "footprint.json", measured_peak_bytes=123)
    collect(plan, results)
    footprint = read_footprint(results)
    lora = footprint[(footprint.method == "lora") & (footprint.model == "llama-7b")].iloc[0]
    assert lora.measured_peak_bytes == 123


def test_what_footprint_could_not_count_is_what_training_counted(made):
    plan, results = made
    for run in plan.runs:
        if run.method == "lora":
            blank = dict.fromkeys(("trainable_parameters", "total_parameters", "adapter_bytes"))
            path = results / "runs" / run.name / "footprint.json"
            edit(path, status="not traced", reason="no values", memory={}, **blank)
    collect(plan, results)
    rows = [line for line in lines(read_footprint(results)) if line.method == "lora"]
    assert rows and all(line.trainable_parameters and line.peak_bytes is None for line in rows)


def test_seeds_that_count_differently_are_an_error(made):
    plan, results = made
    path = results / "runs/arithmetic-llama-7b-lora-r32-s1/footprint.json"
    edit(path, trainable_parameters=7)
    with pytest.raises(UserError, match="trainable_parameters: found 7"):
        collect(plan, results)
    assert not (results / "scores.csv").exists()


def test_a_record_of_another_version_is_an_error(made):
    plan, results = made
    edit(results / "runs/arithmetic-llama-7b-base/scores.json", version=99)
    with pytest.raises(UserError, match="version: found 99"):
        collect(plan, results)


def test_a_record_of_other_settings_is_an_error(made, tmp_path):
    _, results = made
    changed = experiment()
    changed["tables"]["arithmetic"]["overrides"] = {"learning_rate": 0.5}
    other = make_plan(tmp_path / "changed", changed)
    with pytest.raises(UserError, match="settings_sha256: .* has changed since"):
        collect(other, results)


def test_data_of_other_settings_are_an_error(tmp_path):
    plan, results = make_experiment(tmp_path / "a")
    with_settings(plan, results)
    collect(plan, results)
    edited = with_table(experiment(), limit={"gsm8k": 3})
    with pytest.raises(UserError, match="data/arithmetic/contamination.json: made for other settings"):
        collect(make_plan(tmp_path / "b", edited), results)


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="run `sbora-bench collect` first"):
        read_scores(tmp_path)
    write_text(tmp_path / "scores.csv", "a,b\n1,2\n")
    with pytest.raises(UserError, match="columns: found"):
        read_scores(tmp_path)
    write_text(tmp_path / "scores.csv", "")
    with pytest.raises(UserError, match="not a whole table"):
        read_scores(tmp_path)
