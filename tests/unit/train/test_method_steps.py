"""Methods that want more of training than a config: they get it, and a resumed run has the bits of a whole one."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from sbora_bench.files import read_json
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.results.records import TrainRecord, read_record
from sbora_bench.score.load import load_scorer
from sbora_bench.train import finetune as stage
from tests.factories.toy_training import digests, house, train

RUN = "toy-tiny-lora-r4-s0"
LORA = {"r": "$rank", "lora_alpha": "$alpha", "target_modules": "$target_modules"}
PRUNED = {
    "target_r": "$rank",
    "init_r": 6,
    "tinit": 1,
    "tfinal": 2,
    "deltaT": 1,
    "total_step": "$steps",
    "lora_alpha": "$alpha",
    "target_modules": "$target_modules",
}
METHODS = {
    "adalora": {"peft_type": "ADALORA", "arguments": PRUNED},
    "eva": {"peft_type": "LORA", "arguments": LORA | {"init_lora_weights": "eva"}},
    "lora-ga": {"peft_type": "LORA", "arguments": LORA | {"init_lora_weights": "lora_ga"}},
    "corda": {"peft_type": "LORA", "arguments": LORA | {"init_lora_weights": "corda"}},
    "lora-plus": {"peft_type": "LORA", "arguments": LORA, "hooks": {"optimizer": "lora-plus"}},
}


def planned(root, method, **protocol):
    house(root, methods=["lora"], **{"steps": 6, "dropout": 0.0, "learning_rate": 0.01, "micro_batch": 4, **protocol})
    catalog = root / "experiments" / "catalog" / "toy.yaml"
    entries = read_json(catalog) | {"methods": {"lora": {"title": "M"} | method}}
    catalog.write_text(json.dumps(entries))
    load_catalog.cache_clear()
    return load_plan(str(root / "experiments" / "toy.yaml"))


def weights(root):
    return load_file(root / "results" / "runs" / RUN / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_its_own_way_and_is_scored_as_trained(tmp_path, name):
    made = {}
    for method in (METHODS[name], {"peft_type": "LORA", "arguments": LORA}):
        shutil.rmtree(tmp_path, ignore_errors=True)
        plan = planned(tmp_path, method)
        train(plan, tmp_path, RUN)
        record = read_record(tmp_path / "results" / "runs" / RUN / "train.json", TrainRecord)
        assert record.status == "ok", record.reason
        made[method["peft_type"], str(method)] = digests(tmp_path, RUN)[0]
        adapter = tmp_path / "results" / "runs" / RUN / "adapter"
        scorer = load_scorer(
            plan.catalog, "tiny", tmp_path / "resources", plan.protocol("toy"), plan.catalog.methods["lora"], adapter, 0
        )
        assert scorer.model_check.status == "as trained"
        if name == "adalora" and method is METHODS[name]:
            ranks = [len(tensor) for key, tensor in weights(tmp_path).items() if "lora_E" in key]
            assert sum(ranks) == 4 * len(ranks), "of 6 that each layer began with"
    assert len(set(made.values())) == 2, "else it is plain LoRA under another title"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stopped", [2, 5])
def test_a_resumed_run_has_the_bits_of_a_whole_one(tmp_path, name, stopped, monkeypatch):
    """Stopped before AdaLoRA's last pruning and after it."""
    plan = planned(tmp_path, METHODS[name], checkpoint_every=1)
    train(plan, tmp_path, RUN)
    whole = digests(tmp_path, RUN)
    shutil.rmtree(tmp_path / "results" / "runs")
    shutil.rmtree(tmp_path / "results" / "store")
    real = stage.build_trainer

    def stopping(*arguments):
        from transformers import TrainerCallback

        class Crash(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == stopped:
                    raise MemoryError("pulled the plug")

        trainer = real(*arguments)
        trainer.add_callback(Crash())
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(stage, "build_trainer", stopping)
        train(plan, tmp_path, RUN)
    folder = tmp_path / "results" / "store"
    for entry in folder.rglob("finetune-*"):
        if entry.is_dir() and not entry.name.endswith(".checkpoints"):
            shutil.rmtree(entry)
    train(plan, tmp_path, RUN)
    record = read_record(tmp_path / "results" / "runs" / RUN / "train.json", TrainRecord)
    assert record.happened.resumed_from_step == stopped and digests(tmp_path, RUN) == whole


def test_eva_with_too_few_tokens_fails_and_does_not_look_for_ever(tmp_path):
    plan = planned(tmp_path, METHODS["eva"], micro_batch=1)
    train(plan, tmp_path, RUN)
    record = read_record(tmp_path / "results" / "runs" / RUN / "train.json", TrainRecord)
    assert record.status == "failed" and "8 answer tokens of a micro-batch at least" in record.reason
