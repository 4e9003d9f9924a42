"""Regions of runs in tables and figures: shares of rows, columns and weights, overlaps, and runs that have none."""

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.errors import UserError
from sbora_bench.report.figures import FIGURES, figures
from sbora_bench.report.tables import tables
from sbora_bench.report.verify import verify
from sbora_bench.report.views.region_figure import REGION_MAPS
from sbora_bench.report.views.region_table import overlap_table, region_table
from sbora_bench.results.folders import region_file
from sbora_bench.results.read import Results
from sbora_bench.results.records import write_record
from sbora_bench.results.regions import LayerChange, RegionsRecord
from tests.factories.made_results import experiment, make_experiment

COLUMNS = {("lora", 0): [1, 1, 1, 1], ("sbora-fa", 0): [0, 2, 0, 2], ("sbora-fa", 1): [0, 2, 2, 0]}


def keep(results, run, columns=None, **changes) -> None:
    """The record of a run that changes whole columns of one layer of 2 rows, to these norms; without, none."""
    layers = []
    if columns:
        untouched = 2 * columns.count(0)
        norms = {"row_norms": [1.0, 1.0], "column_norms": [float(norm) for norm in columns], "norm": 2.0}
        layers.append(LayerChange(layer="layers.0.q_proj", rows=2, columns=len(columns), untouched=untouched, **norms))
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    record = RegionsRecord(**names, experiment="by-hand", run=run.name, layers=layers)
    write_record(region_file(results, run), record.model_copy(update=changes))


@pytest.fixture
def made(tmp_path):
    """LoRA under a seed and SBoRA-FA under two; the second run of LoRA failed."""
    written = experiment(seeds=(0, 1))
    written["tables"] = {"arithmetic": written["tables"]["arithmetic"]}
    written["tables"]["arithmetic"]["regions"] = {"cells": ["lora-r32", "sbora-fa-r32"], "seeds": [0, 1]}
    plan, results = make_experiment(tmp_path, written)
    for run in plan.region_runs("arithmetic"):
        columns = COLUMNS.get((run.method, run.seed)) if run.model == "llama-7b" else None
        failed = {} if columns else {"status": "failed", "reason": "its training failed (diverged)"}
        keep(results, run, columns, **failed)
    collect(plan, results)
    return plan, results


def test_a_row_says_what_a_run_changes(made):
    table = region_table(Results(*made), "arithmetic")
    rows = {tuple(cell.text for cell in row[:3]): [cell.text for cell in row[3:]] for row in table.groups[0]}
    assert rows["LLaMA-7B", "LoRA r = 32", "0"] == ["8", "100.0", "100.0", "0.0", "2.000"]
    assert rows["LLaMA-7B", "SBoRA-FA r = 32", "1"] == ["8", "100.0", "50.0", "50.0", "2.000"]
    assert rows["LLaMA-7B", "LoRA r = 32", "1"] == ["–"] * 5
    assert "No region: arithmetic-llama-7b-lora-r32-s1 (its training failed (diverged))." in table.notes


def test_two_runs_share_what_both_change_of_what_either_does(made):
    table = overlap_table(Results(*made), "arithmetic")
    shares = {(row[1].text, row[2].text): [row[3].text, row[4].text] for row in table.groups[0]}
    assert len(shares) == 3
    assert shares["SBoRA-FA r = 32, seed 0", "SBoRA-FA r = 32, seed 1"] == ["100.0", "33.3"]
    assert shares["LoRA r = 32, seed 0", "SBoRA-FA r = 32, seed 0"] == ["100.0", "50.0"]


def test_files_are_drawn_and_verified(made, monkeypatch):
    plan, results = made
    tables(plan, results)
    assert REGION_MAPS in FIGURES
    monkeypatch.setattr("sbora_bench.report.figures.FIGURES", [REGION_MAPS])
    figures(plan, results)
    drawn = {path.stem for path in (results / "figures").glob("region-*.svg")}
    assert drawn == {
        f"region-arithmetic-{cell}-r32-s0" for cell in ("llama-7b-lora", "llama-s-lora", "llama-7b-sbora-fa")
    }
    before = {*verify(plan, results)[0]}
    assert not [line for line in before if "regions" in line or "overlaps" in line]
    run = plan.region_runs("arithmetic")[0]
    keep(results, run, [1, 0, 1, 1])
    findings = {*verify(plan, results)[0]} - before
    assert "tables/regions-arithmetic.csv: line 2: not what the samples give" in findings
    drawn_again = {line.partition(".")[0] for line in findings}
    assert drawn_again == {f"tables/{name}-arithmetic" for name in ("regions", "overlaps")}


def test_regions_of_another_adapter_are_refused(made):
    plan, results = made
    run = plan.region_runs("arithmetic")[0]
    keep(results, run, [1, 1], adapter_sha256={"adapter_model.safetensors": "0" * 64})
    with pytest.raises(
        UserError, match="adapter_sha256: of another adapter than the run's; delete it and make it again"
    ):
        region_table(Results(plan, results), "arithmetic")
