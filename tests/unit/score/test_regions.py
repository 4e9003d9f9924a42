"""Regions: rows and columns that changed, exact counts of what did not, overlap, and that a run's are read whole."""

import numpy as np
import pytest
import torch
from peft import LNTuningConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import sbora  # noqa: F401  (registers SBORA with PEFT)
from sbora import SboraConfig
from sbora_bench.errors import UserError
from sbora_bench.files import write_json
from sbora_bench.report.region_figure import heat_figure
from sbora_bench.results.records import TrainRecord, write_record
from sbora_bench.score.regions import as_text, heat_data, overlap, overlap_text, read, region, regions_of, write
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
    write("a-run", regions, tmp_path / "a.json")
    assert read(tmp_path / "a.json") == regions
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
    write_json(tmp_path / "b.json", {"layers": [{"layer": "x"}]})
    with pytest.raises(UserError, match="not the regions of a run"):
        read(tmp_path / "b.json")


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
    record = TrainRecord(**names, experiment="toy", run=run.name, asked=plan.training_settings(run), happened={}, on={})
    write_record(folder / "train.json", record)
    return folder, tuned


def test_norms_that_are_tuned_are_a_region(tmp_path):
    """Vectors: a row an entry, one column; every one of them changed, and no matrix."""
    config = LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM")
    folder, tuned = saved_run(tmp_path, config)
    regions = regions_of(folder, tmp_path / "resources")
    assert [part.layer for part in regions] == [f"model.layers.{i}.input_layernorm" for i in range(2)]
    assert {(part.rows, part.columns, part.untouched) for part in regions} == {(32, 1, 0)}
    assert sum(part.size for part in regions) == tuned.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("config", [PrefixTuningConfig, PromptTuningConfig])
def test_methods_that_change_no_weight_are_told_in_a_line(tmp_path, config):
    folder, _ = saved_run(tmp_path, config(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match="can't be merged into the base's weights, so it has no region"):
        regions_of(folder, tmp_path / "resources")
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
    record = TrainRecord(**names, experiment="toy", run=run.name, asked=plan.training_settings(run), happened={}, on={})
    write_record(folder / "train.json", record)
    regions = regions_of(folder, tmp_path / "resources")
    assert {layer.layer: layer.touched(axis) for layer in regions} == drawn and len(drawn) == 4
    assert sum(layer.size - layer.untouched for layer in regions) == tuned.get_nb_trainable_parameters()[0]
    write_record(folder / "train.json", record.model_copy(update={"status": "failed", "reason": "diverged"}))
    with pytest.raises(UserError, match="training failed .diverged."):
        regions_of(folder, tmp_path / "resources")
    with pytest.raises(UserError, match="the untuned base has no region"):
        regions_of(tmp_path, tmp_path / "resources")
