"""Every method of the catalog trains, is saved, loads to the model that was trained, and is counted exactly."""

import json

import pytest

from sbora_bench.cost.counting import counts_and_twin
from sbora_bench.files import read_json
from sbora_bench.inputs.adapters import peft_types
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.results.records import TrainRecord, read_record
from sbora_bench.score.load import load_scorer
from tests.factories import shipped, toy_runs
from tests.factories.toy_training import house, train

CATALOG = shipped.catalog()
FILES = ("/methods.yaml", "/whole-field.yaml")
NAMES = [name for name in CATALOG.methods if CATALOG.where("methods", name).partition(":")[0].endswith(FILES)]
# what PEFT has and no run of one table can use; docs/methods.md says why
OUT = {"CPT", "MULTITASK_PROMPT_TUNING", "POLY", "XLORA"}
RANKS = {"hra": 2, "road": 8, "c3a": 8}  # sizes that suit the toy's narrow layers
SETTINGS = {"steps": 2, "learning_rate": 0.01, "micro_batch": 4, "dropout": 0.0, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("field")
    house(root, methods=["lora"], **SETTINGS)
    return root


def planned(root, name, rank):
    """The toy experiment with this method of the catalog alone."""
    catalog, experiment = root / "experiments" / "catalog" / "toy.yaml", root / "experiments" / "toy.yaml"
    entries, written = read_json(catalog), read_json(experiment)
    entries["methods"] = {name: CATALOG.methods[name].model_dump(mode="json")}
    entries["models"]["tiny"]["architecture"]["vocab_size"] = len(toy_runs.WORDS) + 4
    written["tables"]["toy"] |= {"grids": [{"models": ["tiny"], "methods": [name], "ranks": [rank]}], "seeds": [0]}
    catalog.write_text(json.dumps(entries))
    experiment.write_text(json.dumps(written))
    load_catalog.cache_clear()
    return load_plan(str(experiment))


@pytest.mark.parametrize("name", [*NAMES, "rslora"])
def test_a_method_trains_loads_and_is_counted(root, name):
    rank = RANKS.get(name.removeprefix("q"), 4 if CATALOG.methods[name].has_size else 1)
    plan = planned(root, name, rank)
    run = f"toy-tiny-{name}-r{rank}-s0"
    train(plan, root, run)
    record = read_record(root / "results" / "runs" / run / "train.json", TrainRecord)
    assert record.status == "ok", record.reason
    adapter, protocol = root / "results" / "runs" / run / "adapter", plan.protocol("toy")
    method = plan.catalog.methods[name]
    scorer = load_scorer(plan.catalog, "tiny", root / "resources", protocol, method, adapter, 0)
    assert scorer.model_check.status == "as trained" and scorer.model_check.effect > 0
    counted, _ = counts_and_twin(plan.catalog, "tiny", method, rank, protocol)
    assert counted["trainable_parameters"] == record.happened.trainable_parameters
    assert counted["total_parameters"] == record.happened.total_parameters
    size = (adapter / "adapter_model.safetensors").stat().st_size
    if method.peft_type == "ADALORA":  # what pruning leaves isn't known before
        assert counted["adapter_bytes"] > size
    else:
        assert counted["adapter_bytes"] == size


def test_every_entry_says_where_it_is_published_and_has_a_name_of_its_own():
    entries = [CATALOG.methods[name] for name in NAMES]
    assert all(entry.source for entry in entries) and len({entry.title for entry in entries}) == len(entries) > 70
    assert {entry.peft_type for entry in entries} == set(peft_types()) - OUT


def test_a_methods_source_is_no_part_of_a_runs_settings():
    entry = CATALOG.methods["pissa"]
    assert entry.source and not {"source", "rank_means"} & entry.model_dump().keys()
