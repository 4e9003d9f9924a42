"""One run in two processes (gloo, no GPU): the losses and the scores of the run in one."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from sbora_bench.errors import UserError
from sbora_bench.files import read_json
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.train import distributed as processes
from sbora_bench.train.trainer import parts_in_training
from tests.factories import toy_runs
from tests.factories.shipped import ROOT
from tests.factories.toy_training import house

RUNS = ("toy-tiny-lora-r4-s0", "toy-tiny-sbora-fa-r4-s0")
LAUNCH = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m"]


def bench(root, *command: str, launch=()) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "ACCELERATE_"))}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    places = ("--experiment", "experiments/toy.yaml", "--results", "results")
    done = subprocess.run(
        [sys.executable, *(launch or ["-m"]), "sbora_bench.cli", *command, *places, *RUNS],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("ways", [{}, {"tokens_at_once": 16, "pad_to_multiple_of": 1}], ids=["whole", "parts"])
def test_two_processes_give_the_losses_and_the_scores_of_one(tmp_path, ways):
    curves, scores = [], []
    for name, launch in (("one", ()), ("two", LAUNCH)):
        root = tmp_path / name
        house(root, steps=8, dropout=0.0, learning_rate=0.01, **ways)
        bench(root, "finetune", launch=launch)
        bench(root, "evaluate")
        records = [read_json(root / "results" / "runs" / run / "train.json") for run in RUNS]
        assert {record["status"] for record in records} == {"ok"}
        assert {record["happened"]["examples"] for record in records} == {32}
        assert len({record["happened"]["tokens"] for record in records}) == 1
        curves.append([[row["loss"] for row in record["happened"]["loss_curve"]] for record in records])
        tasks = [read_json(root / "results" / "runs" / run / "scores.json")["tasks"] for run in RUNS]
        scores.append([{task: (entry["value"], entry["n"]) for task, entry in of_run.items()} for of_run in tasks])
        assert not list((root / "results").rglob("*.checkpoints")) and not list((root / "results").rglob("*.part"))
    for one, two in zip(*curves, strict=True):
        assert len(one) == 8 and two == pytest.approx(one, abs=1e-5) and max(one) - min(one) > 1e-2
    assert scores[0] == scores[1] and any(value for value, _ in scores[0][0].values())


def protocol(**changed) -> Protocol:
    return toy_runs.protocol(**{"batch_size": 8, "micro_batch": 2, "steps": 3} | changed)


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


def test_an_update_is_dealt_out_whole_or_not_at_all(two):
    plain = MethodEntry(title="LoRA", peft_type="LORA", arguments={"r": "$rank"})
    processes.check(16, protocol(), plain)
    assert processes.own_accumulation(protocol()) == 2
    with pytest.raises(UserError, match="2 processes, but an update has 1 micro-batches of 8"):
        processes.check(16, protocol(micro_batch=8), plain)
    with pytest.raises(UserError, match="one process only"):
        processes.check(10, protocol(), plain)


def test_processes_have_as_many_parts_of_a_micro_batch_whatever_their_rows(two, monkeypatch):
    """One with fewer would never come to where the others wait for its gradients."""
    of_eight = protocol(batch_size=16, micro_batch=8, tokens_at_once=64, max_length=32)
    batches = [{"attention_mask": torch.ones(8, width, dtype=torch.long)} for width in (8, 16, 32)]
    model = toy_runs.model()
    parts = parts_in_training(model, of_eight, 8, "run")
    assert [len(parts.of(batch)) for batch in batches] == [4, 4, 4]
    monkeypatch.setenv("WORLD_SIZE", "1")
    parts = parts_in_training(model, of_eight, 8, "run")
    assert [len(parts.of(batch)) for batch in batches] == [1, 2, 4]


def test_fsdp_takes_no_four_bit_base(two, monkeypatch):
    quantised = MethodEntry(title="QSBoRA-FA", peft_type="SBORA", arguments={"r": "$rank"}, quantization="nf4")
    processes.check(16, protocol(), quantised)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP can't shard QSBoRA-FA's 4-bit base.*ddp.yaml"):
        processes.check(16, protocol(), quantised)


def test_the_first_process_alone_writes(two, tmp_path, monkeypatch):
    with processes.shared_lock(tmp_path / "entry"), processes.shared_entry(tmp_path / "entry") as made:
        (made / "train.json").write_text(json.dumps({}))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RANK", "0")
    with processes.shared_entry(tmp_path / "entry") as made:
        (made / "train.json").write_text(json.dumps({}))
    assert (tmp_path / "entry" / "done.json").is_file()


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_accelerate_reads_its_profiles(name):
    from accelerate.commands.config.config_args import ClusterConfig

    path = ROOT / "profiles" / "accelerate" / f"{name}.yaml"
    read = ClusterConfig.from_yaml_file(str(path))
    written = yaml.safe_load(path.read_text())
    assert read.distributed_type == written["distributed_type"] and read.num_processes == 2
    if name == "fsdp":
        from accelerate import FullyShardedDataParallelPlugin

        options = {key.removeprefix("fsdp_"): value for key, value in read.fsdp_config.items()}
        options["fsdp_version"] = options.pop("version")
        options["cpu_offload"] = options.pop("offload_params")
        options["transformer_cls_names_to_wrap"] = [options.pop("transformer_layer_cls_to_wrap")]
        options["auto_wrap_policy"] = options.pop("auto_wrap_policy").lower()
        plugin = FullyShardedDataParallelPlugin(**options)
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
