"""What each cell was given to train with, beside its score."""

import pytest

from sbora_bench.analysis.budget import budget_rows, seconds
from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.csv_files import read_budget
from sbora_bench.files import read_json, write_json
from sbora_bench.report.views.budget_table import BUDGET
from sbora_bench.results.read import Results
from sbora_bench.results.records import SEAL, TrainRecord, read_record
from tests.factories.made_results import make_experiment, make_run

LORA = "arithmetic-llama-7b-lora-r32-s{}"


@pytest.fixture
def made(tmp_path):
    return make_experiment(tmp_path)


def edit(path, part, **changes):
    value = {key: old for key, old in read_json(path).items() if key != SEAL}
    write_json(path, value | {part: value[part] | changes} if part else value | changes)


def test_a_row_a_trained_cell_with_means_over_its_seeds(made):
    plan, results = made
    edit(results / "runs" / LORA.format(0) / "train.json", "happened", tokens=700, seconds=3.0, examples=40)
    for seed in range(3):
        edit(results / "runs" / LORA.format(seed) / "footprint.json", "", flops_per_step=7)
    make_run(plan, results, plan.run(LORA.format(2)), failed="no memory")
    budget = budget_rows(Results(plan, results))
    rows = {(row["table"], row["model"], row["method"], row["rank"]): row for row in budget}
    assert len(rows) == 7 and not any("base" in row for row in rows)
    lora = rows["arithmetic", "llama-7b", "lora", 32]
    assert (lora["trained"], lora["steps"], lora["tokens"], lora["seconds"], lora["flops"]) == (2, 10, 670, 2.25, 70)
    assert (lora["examples"], lora["peak_bytes"], lora["process_peak_bytes"]) == (40, None, None)
    assert lora["measured_peak_bytes"] == 10**9 + 1  # of a GPU's allocator
    edit(results / "runs" / LORA.format(1) / "train.json", "on", hardware={"gpu": None})
    budget = budget_rows(Results(plan, results))
    (lora,) = [row for row in budget if row["method"] == "lora" and row["model"] == "llama-7b"]
    assert (lora["measured_peak_bytes"], lora["process_peak_bytes"]) == (10**9, 10**9 + 1)


def test_a_cell_that_never_trained_has_no_row(made):
    plan, results = made
    for seed in range(3):
        make_run(plan, results, plan.run(LORA.format(seed)), failed="no memory")
    assert ("llama-7b", "lora") not in {(row["model"], row["method"]) for row in budget_rows(Results(plan, results))}


def test_a_resumed_run_counts_the_whole_training(made):
    path = made[1] / "runs" / LORA.format(0) / "train.json"
    assert seconds(read_record(path, TrainRecord)) == 1.5
    edit(path, "happened", resumed_from_step=8, tokens=1000, tokens_per_second=100.0, seconds=2.0)
    assert seconds(read_record(path, TrainRecord)) == 10


def test_the_budget_stands_beside_the_score(made):
    plan, results = made
    collect(plan, results)
    assert read_budget(results).trained.tolist() == [3] * 7
    arithmetic, mmlu = BUDGET.tables(Results(plan, results))
    assert (arithmetic.name, mmlu.name) == ("budget-arithmetic", "budget-mmlu")
    line = dict(zip(arithmetic.header, arithmetic.groups[0][0], strict=True))
    shown = {key: line[key].text for key in ("Method", "Rank", "Seeds", "Updates", "Tokens", "Seconds", "GFLOP")}
    expected = {"Method": "LoRA", "Rank": "32", "Seeds": "3", "Updates": "10", "Tokens": "640", "Seconds": "1.5"}
    assert shown == expected | {"GFLOP": "–"}
    assert line["Average, %"].text == "46.7 ± 2.5 (3)" and line["Average, %"].interval == "[40.6, 52.9]"
    lines = [dict(zip(mmlu.header, row, strict=True)) for group in mmlu.groups for row in group]
    assert [[row[key].text.partition(" (")[0] for key in ("Table", "Alpaca, %", "Flanv2, %")] for row in lines] == [
        ["mmlu-alpaca", "65.0 ± 2.5", "–"],
        ["mmlu-flanv2", "–", "65.0 ± 2.5"],
    ]
