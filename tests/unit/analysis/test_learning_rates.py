"""Learning rates: what runs are called, which rows are held out, and that test items have no part in the choice."""

import json
import shutil

import pytest
import yaml

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.csv_files import read_scores
from sbora_bench.analysis.learning_rates import best_rate, picked, scores_by_rate
from sbora_bench.analysis.rate_gains import rate_scores
from sbora_bench.analysis.separation import separation
from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl, sha256, write_json
from sbora_bench.inputs.held_out import held_out, scoring_task
from sbora_bench.inputs.prepare import prepare_table
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.runs import Cell, rate_text
from sbora_bench.plan.settings import data_settings, run_settings, settings_hash
from sbora_bench.report.tables import tables
from sbora_bench.report.views.rate_figure import rate_data
from sbora_bench.report.views.rate_table import rate_table
from sbora_bench.results.folders import VALIDATION
from sbora_bench.results.read import Results
from sbora_bench.results.records import ContaminationRecord, ScoresRecord, TaskScore, read_record, write_record
from sbora_bench.score.evaluate import evaluate
from tests.factories import toy_runs
from tests.factories.made_results import experiment, make_experiment, make_plan

RATES = [0.001, 0.0003, 0.01]
HELD = 20


def written(rates=None) -> dict:
    """The experiment by hand without its MMLU tables, its arithmetic at these rates."""
    made = experiment(seeds=(0, 1))
    table = made["tables"]["arithmetic"] | {"grids": made["tables"]["arithmetic"]["grids"][:2]}
    return made | {"tables": {"arithmetic": table | ({"learning_rates": rates} if rates else {})}}


@pytest.fixture
def made(tmp_path):
    """LoRA is best at 3e-4 on the held-out rows, DoRA at the protocol's 1e-3, SBoRA alike at all."""
    plan, results = make_experiment(tmp_path, written(RATES))
    for run in plan.runs:
        best = {"lora": 0.0003, "dora": 0.001}.get(run.method)
        hold(plan, results, run, 15 if run.learning_rate == best and best else 8)
    collect(plan, results)
    return plan, results


def path_of(results, run):
    return results / "runs" / run.name / "scores.json"


def hold(plan, results, run, right: int) -> None:
    """What a run says to 20 held-out rows of one task, `right` of them rightly."""
    record = read_record(path_of(results, run), ScoresRecord)
    score = TaskScore(metric="acc", value=right / HELD, stderr=0.1, n=HELD)
    tasks = {"MultiArith": score, "gsm8k": TaskScore(status="not available", reason="no row")}
    write_record(results / "runs" / run.name / VALIDATION / "scores.json", record.model_copy(update={"tasks": tasks}))


def test_a_run_is_named_after_what_its_table_varies(tmp_path):
    plan = make_plan(tmp_path / "varied", written(RATES))
    names = [run.name for run in plan.runs if run.method == "lora"]
    cell = "arithmetic-llama-7b-lora-r32"
    assert names == [f"{cell}-lr{rate}-s{seed}" for rate in ("1e-3", "3e-4", "1e-2") for seed in (0, 1)]
    run = plan.run(f"{cell}-lr3e-4-s1")
    assert run_settings(plan, run)["protocol"]["learning_rate"] == 0.0003 == plan.protocol_of(run).learning_rate
    assert plan.protocol("arithmetic").learning_rate == 0.001
    alone = make_plan(tmp_path / "alone", written())
    assert [run.name for run in alone.runs if run.method == "lora"] == [f"{cell}-s0", f"{cell}-s1"]
    assert {"also", "validation_items"}.isdisjoint(
        data_settings(alone, "arithmetic") | run_settings(alone, alone.runs[1])
    )
    assert [plan.tuned_cells("arithmetic"), len(plan.runs)] == [alone.tuned_cells("arithmetic"), 1 + 3 * 8]


@pytest.mark.parametrize("rate, text", [(3e-4, "3e-4"), (0.00125, "1.25e-3"), (1.0, "1e0"), (0.05, "5e-2")])
def test_a_rate_in_a_name(rate, text):
    assert rate_text(rate) == text and float(text) == rate


@pytest.mark.parametrize(
    "rates, message",
    [
        ([0.01, 0.02], "lacks the protocol's own, 1e-3"),
        ([0.001, 0.001], "stands twice"),
        ([0.001, 0.0], "greater than"),
    ],
)
def test_rates_that_make_no_sense(tmp_path, rates, message):
    with pytest.raises(UserError, match=message):
        make_plan(tmp_path, written(rates))


def test_the_best_on_held_out_rows_is_picked_and_of_equals_the_lowest(made):
    plan, results = made
    assert best_rate({0.1: [0.5, 0.6], 0.01: [0.6, 0.5], 1.0: [0.0, 1.0]}) == 0.01
    rates = {cell.method: rate for cell, rate in picked(Results(plan, results)).plan.rates.items() if cell.rank == 32}
    assert rates == {"lora": 0.0003, "dora": 0.001, "sbora-fa": 0.0003}
    shown = picked(Results(plan, results))
    assert picked(shown) is shown
    assert {run.learning_rate for run in shown.plan.runs if run.method == "dora"} == {0.001}


def test_no_test_score_can_sway_the_choice(made):
    """Whatever the test items say, or none of them is there, the same rates; other held-out scores, other rates."""
    plan, results = made
    before = picked(Results(plan, results)).plan.rates
    for run in plan.runs:
        path = path_of(results, run)
        record, perfect = read_record(path, ScoresRecord), {"value": float(run.learning_rate == 0.01), "extra": {}}
        tasks = {task: score.model_copy(update=perfect) for task, score in record.tasks.items()}
        write_record(path, record.model_copy(update={"tasks": tasks}))
    assert picked(Results(plan, results)).plan.rates == before
    kept = read_record(path_of(results, plan.runs[0]), ScoresRecord)
    for run in plan.runs:
        path_of(results, run).unlink()
        shutil.rmtree(results / "runs" / run.name / "samples")
    assert picked(Results(plan, results)).plan.rates == before
    for run in plan.runs:
        if (run.method, run.rank, run.learning_rate) == ("lora", 32, 0.01):
            write_record(path_of(results, run), kept.model_copy(update={"settings_sha256": settings_hash(plan, run)}))
            hold(plan, results, run, 18)
    assert picked(Results(plan, results)).plan.rates == before | {Cell("arithmetic", "llama-7b", "lora", 32): 0.01}


def test_a_run_that_failed_has_nothing_right(made):
    plan, results = made
    run = plan.run("arithmetic-llama-7b-lora-r32-lr3e-4-s0")
    path = results / "runs" / run.name / VALIDATION / "scores.json"
    record = read_record(path, ScoresRecord)
    write_record(path, record.model_copy(update={"status": "failed", "tasks": {}}))
    cell = Cell("arithmetic", "llama-7b", "lora", 32)
    assert scores_by_rate(Results(plan, results), "arithmetic")[cell][0.0003] == [0.0, 0.75]
    assert picked(Results(plan, results)).plan.rates[cell] == 0.001


def test_all_tables_show_the_picked_rate(made):
    plan, results = made
    tables(plan, results)
    cells = (results / "tables" / "cells.csv").read_text().splitlines()
    of_lora = [line.rsplit(",", 1)[1] for line in cells if ",lora,32," in line]
    assert set(of_lora) == {"arithmetic-llama-7b-lora-r32-lr3e-4-s0 arithmetic-llama-7b-lora-r32-lr3e-4-s1"}
    assert {row.seeds for row in separation(Results(plan, results)).gains} == {2}
    assert set(read_scores(results).run) == {run.name for run in picked(Results(plan, results)).plan.runs}


def test_what_the_choice_gains_is_paired_and_read_afterwards(made):
    plan, results = made
    scores = rate_scores(Results(plan, results), "arithmetic")
    rows = {(row.cell.method, row.cell.rank, row.learning_rate): row for row in scores}
    lora = rows["lora", 32, 0.0003]
    assert lora.picked and not lora.default and lora.validation.mean == 0.75 and lora.validation_items == 20
    assert (lora.gain.difference, lora.gain.p, lora.gain.p_seeds) == (0.0, 1.0, None)  # the same answers at each rate
    assert rows["dora", 32, 0.001].picked and rows["dora", 32, 0.001].gain is None
    view = rate_table(Results(plan, results), "arithmetic")
    assert view.header[2:] == ["1e-3", "3e-4", "1e-2", "Picked", "Score", "At 1e-3", "Gain"]
    line = view.groups[0][0]
    assert [cell.text for cell in line[2:6]] == ["40.0 ± 0.0", "75.0 ± 0.0", "40.0 ± 0.0", "3e-4"]
    assert line[3].bold and not line[2].bold and line[-1].text == "+0.0 [−4.0, 4.0]"
    assert view.groups[0][1][-1].text == "0, the protocol's"
    points = [p for p in rate_data(rows.values(), plan) if p["method"] == "lora" and "held-out" in p["panel"]]
    assert [(p["rate"], p["mean"], p["picked"]) for p in points] == [
        (0.001, 40.0, False),
        (0.0003, 75.0, True),
        (0.01, 40.0, False),
    ]


# --- which rows are held out ----------------------------------------------------------------------------------------


def choice(label: str) -> dict[str, str]:
    return {"instruction": f"q {label}", "input": "", "output": f"the answer is {label}", "answer": label}


@pytest.fixture(scope="module")
def configs():
    from sbora_bench.inputs.tasks.templates import task_config
    from sbora_bench.plan.load import load_plan

    plan = load_plan("experiments/ladder.yaml")
    protocol = plan.protocol("commonsense")
    return {task: task_config(task, plan.catalog.tasks[task], protocol) for task in plan.catalog.tasks}


def test_a_row_goes_to_the_first_task_that_reads_its_own_answer(configs):
    rows = [choice("true"), choice("solution2"), choice("answer3"), choice("option1")]
    rows += [{"instruction": "sum", "input": "", "output": "1 + 2 = 3. The answer is 3.", "answer": "3.0"}]
    rows += [{"instruction": "pick", "input": "", "output": "B", "answer": "B"}]
    rows += [{"instruction": "?", "input": "", "output": "nothing of the kind", "answer": "answer1"}]
    named = {
        task: configs[task] for task in ("boolq", "piqa", "social_i_qa", "ARC-Easy", "winogrande", "gsm8k", "AQuA")
    }
    tasks = ["boolq", "piqa", "social_i_qa", "winogrande", "gsm8k", "AQuA", None]
    assert scoring_task(named, rows) == tasks
    assert scoring_task({"mmlu": configs["mmlu"]}, rows[-2:]) == ["mmlu", None]


def test_rows_are_drawn_by_seed_and_a_question_that_stands_twice_stays_in_training(configs):
    rows = [{**choice(f"answer{1 + i % 3}"), "instruction": f"question {i}"} for i in range(30)]
    named = {"social_i_qa": configs["social_i_qa"]}
    first = held_out(named, rows, 10, 0)
    assert first == held_out(named, rows, 10, 0) != held_out(named, rows, 10, 1)
    assert len(first["social_i_qa"]) == 10 == len(set(first["social_i_qa"]))
    twice = [*rows, {**rows[first["social_i_qa"][0]], "output": "the answer is answer1"}]
    for seed in range(5):
        held = held_out(named, twice, 10, seed)["social_i_qa"]
        assert not {first["social_i_qa"][0], 30} & set(held) or {first["social_i_qa"][0], 30} <= set(held)
    with pytest.raises(UserError, match="none of 3 training rows can be held out"):
        held_out(named, [choice("true")] * 3, 10, 0)


def test_held_out_rows_are_prepared_as_items_and_not_trained_on(tmp_path):
    entry = {"suite": "arithmetic", "train": "ladder-math", "protocol": "tiny", "seeds": [0], "validation_items": 12}
    entry |= {"learning_rates": [1e-3, 1e-2], "grids": [{"models": ["ladder-xs"], "methods": ["lora"], "ranks": [4]}]}
    shutil.copytree("experiments/catalog", tmp_path / "catalog")
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "items": "ladder", "tables": {"sums": entry}}))
    prepare_table(load_plan(str(path)), "sums", tmp_path / "out")
    record = read_record(tmp_path / "out" / VALIDATION / "contamination.json", ContaminationRecord)
    held = [row for task in record.tasks for row in rows_at(tmp_path / "out" / VALIDATION / f"{task}.jsonl")]
    trained = {row["prompt"].split() and row["prompt"] for row in read_jsonl(tmp_path / "out" / "train.jsonl")}
    assert len(held) == 12 and record.train_rows == 3000 - 12 == len(trained)
    questions = [" ".join(row["prompt"].split()) for row in held]
    assert not set(questions) & {" ".join(prompt.split()) for prompt in trained}
    assert [task.n for task in record.tasks.values() if task.status == "ok"] and record.tasks["SVAMP"].n == 0


def rows_at(path):
    return read_jsonl(path) if path.exists() else []


def test_held_out_rows_are_scored_as_the_tables_items_are(tmp_path):
    """The same rows under both names: the same samples, byte for byte, and the same scores."""
    toy_runs.write_experiment(tmp_path, seeds=(0,))
    path = tmp_path / "experiments" / "toy.yaml"
    text = json.loads(path.read_text())
    text["tables"]["toy"]["learning_rates"] = [1e-3, 1e-2]
    write_json(path, text)
    plan, data = load_plan(str(path)), tmp_path / "results" / "data" / "toy"
    shutil.copytree(data, data / VALIDATION)
    run = plan.run("toy-tiny-lora-r4-lr1e-2-s0")
    toy_runs.write_adapter(plan, tmp_path, run)
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    folder = tmp_path / "results" / "runs" / run.name
    assert (folder / VALIDATION / "scores.json").read_bytes() == (folder / "scores.json").read_bytes()
    for task in toy_runs.TASKS:
        assert sha256(folder / VALIDATION / "samples" / f"{task}.jsonl") == sha256(folder / "samples" / f"{task}.jsonl")
