"""Regions: rows and columns that changed, exact counts of what did not, overlap, and that a run's are read whole."""

import numpy as np
import pytest
import torch
from peft import LNTuningConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import sbora  # noqa: F401  (registers SBORA with PEFT)
from sbora import SboraConfig
from sbora_bench.analysis.regions import as_text, heat_data, overlap, overlap_text
from sbora_bench.errors import UserError
from sbora_bench.plan.settings import training_settings
from sbora_bench.report.heat_maps import heat_figure
from sbora_bench.results.folders import region_file
from sbora_bench.results.records import TrainRecord, read_record, write_record
from sbora_bench.results.regions import RegionsRecord
from sbora_bench.score.regions import keep, record_of, region, wrong_regions
from tests.factories import toy_runs


def change(rows=(), columns=(), shape=(4, 6)) -> np.ndarray:
    made = np.zeros(shape, dtype=np.float32)
    made[list(rows)] = 3.0
    made[:, list(columns)] = 4.0
    return made


def test_a_region_is_what_is_not_exactly_zero():
    tiny = change(columns=[1, 4])
    tiny[0, 1] = 1e-30  # touched all the same
    q_proj = region("q_proj", tiny)
    assert q_proj.touched("columns") == {1, 4} and q_proj.touched("rows") == {0, 1, 2, 3}
    assert (q_proj.rows, q_proj.columns, q_proj.size, q_proj.untouched) == (4, 6, 24, 16)
    assert q_proj.norm == pytest.approx(4 * 7**0.5, rel=1e-4) and q_proj.column_norms[4] == 8.0
    assert region("q_proj", change(rows=[2])).touched("rows") == {2}


def test_overlap_is_of_what_either_changes():
    a = [region("x", change(columns=[0, 1])), region("y", change(columns=[2]))]
    b = [region("x", change(columns=[1, 2])), region("y", change(columns=[3]))]
    assert overlap(a, b, "columns") == 1 / 5 and overlap(a, b, "rows") == 1.0 and overlap(a, a, "columns") == 1.0
    assert overlap([], [], "rows") is None and "nothing is changed" in overlap_text([], [])
    assert overlap_text(a, b).endswith("rows 100.0 %, columns 20.0 %")


def test_what_is_written_is_read_back_and_drawn_as_it_is(tmp_path):
    regions = [
        region("model.layers.0.q_proj", change(columns=[1])),
        region("model.layers.1.q_proj", change(columns=[2])),
    ]
    names = {"experiment": "e", "table": "t", "run": "a-run", "model": "m", "method": "fa", "rank": 1, "seed": 0}
    write_record(tmp_path / "a.json", RegionsRecord(**names, layers=regions))
    assert read_record(tmp_path / "a.json", RegionsRecord).layers == regions
    assert (heat_data(regions, "columns")["q_proj"] > 0).tolist() == [
        [i == 1 for i in range(6)],
        [i == 2 for i in range(6)],
    ]
    figure = heat_figure({axis: heat_data(regions, axis) for axis in ("columns", "rows")})
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ["Column", "Row"]
    image = figure.axes[0].images[0].get_array()
    assert image.mask.sum() == 10 and image.compressed().tolist() == [8.0, 8.0]
    lines = as_text("a-run", regions).splitlines()
    assert lines[-1].startswith("all of these layers: 40 of 48 weights untouched, 83.33 %")


def saved_run(root, config, seed=0):
    """(folder of a run, the adapted model) of a PEFT config whose trained values are drawn."""
    plan = toy_runs.write_experiment(root, seeds=(0,))
    run, tuned = plan.runs[1], get_peft_model(toy_runs.model(), config)
    torch.manual_seed(seed)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    folder = root / "results" / "runs" / run.name
    tuned.save_pretrained(str(folder / "adapter"))
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    record = TrainRecord(
        **names, experiment="toy", run=run.name, asked=training_settings(plan, run), happened={}, on={}
    )
    write_record(folder / "train.json", record)
    return folder, tuned


def test_norms_that_are_tuned_are_a_region(tmp_path):
    """Vectors: a row an entry, one column; every one of them changed, and no matrix."""
    config = LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM")
    folder, tuned = saved_run(tmp_path, config)
    regions = record_of(folder, tmp_path / "resources").layers
    assert [part.layer for part in regions] == [f"model.layers.{i}.input_layernorm" for i in range(2)]
    assert {(part.rows, part.columns, part.untouched) for part in regions} == {(32, 1, 0)}
    assert sum(part.size for part in regions) == tuned.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("config", [PrefixTuningConfig, PromptTuningConfig])
def test_methods_that_change_no_weight_are_told_in_a_line(tmp_path, config):
    folder, _ = saved_run(tmp_path, config(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    record = record_of(folder, tmp_path / "resources")
    assert record.status == "failed" and "can't be merged into the base's weights, so it has no region" in record.reason
    assert as_text("a-run", []) == "a-run\nno weight differs from the base's"


@pytest.mark.parametrize("variant, axis", [("fa", "columns"), ("fb", "rows")])
def test_a_runs_region_is_its_adapters(tmp_path, variant, axis):
    """What SBoRA drew, and no other weight of the base: as many entries as it trains parameters."""
    plan = toy_runs.write_experiment(tmp_path, seeds=(0,))
    run, base = plan.runs[1], toy_runs.model()
    config = SboraConfig(
        variant=variant, r=4, random_seed=5, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(base, config)
    torch.manual_seed(0)
    drawn = {}
    for name, module in tuned.named_modules():
        if hasattr(module, "sbora_weight") and hasattr(module, "base_layer"):
            torch.nn.init.normal_(module.sbora_weight["default"])
            drawn[name.removeprefix("base_model.model.")] = set(module.sbora_index["default"].tolist())
    folder = tmp_path / "results" / "runs" / run.name
    tuned.save_pretrained(str(folder / "adapter"))
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    record = TrainRecord(
        **names, experiment="toy", run=run.name, asked=training_settings(plan, run), happened={}, on={}
    )
    write_record(folder / "train.json", record)
    regions = record_of(folder, tmp_path / "resources").layers
    assert {layer.layer: layer.touched(axis) for layer in regions} == drawn and len(drawn) == 4
    assert sum(layer.size - layer.untouched for layer in regions) == tuned.get_nb_trainable_parameters()[0]
    write_record(folder / "train.json", record.model_copy(update={"status": "failed", "reason": "diverged"}))
    assert record_of(folder, tmp_path / "resources").reason == "its training failed (diverged)"
    with pytest.raises(UserError, match="the untuned base has no region"):
        record_of(tmp_path, tmp_path / "resources")


def test_kept_regions_are_checked_against_the_adapter(tmp_path):
    """As they were kept nothing differs; an edited norm, count or column does, and so does a file that is gone."""
    config = SboraConfig(variant="fa", r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    folder, _ = saved_run(tmp_path, config)
    shown = {"cells": ["lora-r4"], "seeds": [0]}
    plan = toy_runs.write_experiment(tmp_path, seeds=(0,), table={"regions": shown})
    (run,) = plan.region_runs("toy")
    assert folder.name == run.name
    results, resources = tmp_path / "results", tmp_path / "resources"
    assert list(wrong_regions(plan, results, resources)) == [f"regions/{run.name}.json: missing"]
    keep([run.name], results, resources)
    assert list(wrong_regions(plan, results, resources)) == []
    path = region_file(results, run)
    kept = read_record(path, RegionsRecord)
    first = kept.layers[0]
    norms = [2 * norm for norm in first.column_norms]
    for key, value in (("column_norms", norms), ("untouched", 0), ("norm", 1.01 * first.norm)):
        edited = first.model_copy(update={key: value})
        write_record(path, kept.model_copy(update={"layers": [edited, *kept.layers[1:]]}))
        (finding,) = wrong_regions(plan, results, resources)
        assert finding.startswith(f"regions/{run.name}.json: {first.layer}: {key}: not what the run's adapter gives")
    rounded = first.model_copy(update={"norm": first.norm * 1.0001})
    write_record(path, kept.model_copy(update={"layers": [rounded, *kept.layers[1:]]}))
    assert list(wrong_regions(plan, results, resources)) == []  # another processor's rounding
