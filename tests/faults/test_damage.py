"""Flipped bits, a clock that was set back, a fault that passes, through the real DAG: the same bytes in the end."""

import os
import re
import shutil
from pathlib import Path

import pytest

from sbora_bench.files import read_json
from tests.faults.conftest import TINY, finished, outcome
from tests.workflow.conftest import Root, reproduced

RUN = "arithmetic-ladder-xs-sbora-fa-r4-s1"


@pytest.fixture
def copied(shared_folder, tmp_path) -> Root:
    """A copy of the reproduction, finished, with Snakemake's own notes: to be damaged."""
    with reproduced(shared_folder) as whole:
        shutil.copytree(whole.folder, tmp_path / "root")
    return Root(tmp_path / "root")


def flip(*paths: Path) -> None:
    """Change one bit in the middle, and leave the time of the last change: as a disk does."""
    for path in paths:
        content, stat = bytearray(path.read_bytes()), path.stat()
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def failed_output(root: Root) -> str:
    done = root.snakemake(*TINY)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_flipped_bits_are_named_before_use(undisturbed, copied):
    results = copied.folder / "results" / "tiny"
    run, base = results / "runs" / RUN, results / "runs" / "mmlu-ladder-xs-base"
    adapter, items = run / "adapter" / "adapter_model.safetensors", results / "data" / "mmlu" / "mmlu.jsonl"
    flip(adapter, *(results / "store" / RUN).glob("finetune-*/adapter/adapter_model.safetensors"), items)
    for gone in (run, base):
        (gone / "scores.json").unlink()
    shutil.rmtree(results / "store" / base.name)
    refused = copied.bench("evaluate", "--experiment", "tiny", RUN)  # a job would train it again first
    assert refused.returncode == 2 and re.search(
        rf"{RUN}/adapter/adapter_model\.safetensors: SHA-256 \w+, train\.json says \w+: damaged; del", refused.stderr
    )
    assert not (run / "scores.json").exists()
    assert re.search(r"data/mmlu/mmlu\.jsonl: (SHA-256|not whole JSON lines)", failed_output(copied))
    assert not (base / "scores.json").exists()

    weights = copied.folder / "resources" / "models" / "ladder-xs" / "model.safetensors"
    shutil.rmtree(run)
    shutil.rmtree(results / "data" / "mmlu")
    flip(weights)
    assert "resources/models/ladder-xs/model.safetensors: SHA-256 " in failed_output(copied)

    shutil.rmtree(weights.parent)
    record = results / "runs" / "arithmetic-ladder-xs-lora-r4-s0" / "footprint.json"
    flip(record)
    assert re.search(r"lora-r4-s0/footprint\.json: (record_sha256|not a whole|version)", failed_output(copied))

    record.unlink()
    finished(copied.snakemake(*TINY))
    assert outcome(copied) == undisturbed


@pytest.mark.slow
def test_a_clock_that_was_set_back(undisturbed, copied):
    """Half of the results seem older than what they were made of: they are made again or taken from the store."""
    for number, path in enumerate(sorted((copied.folder / "results" / "tiny" / "runs").rglob("*.json"))):
        if number % 2:
            os.utime(path, (1e9, 1e9))
    finished(copied.snakemake(*TINY))
    assert outcome(copied) == undisturbed


FAULT = """
import os, sys

if os.environ.get("FAULT_RUN") and "run" in sys.argv:
    from sbora_bench.train import callbacks

    real = callbacks.TerminationCallback.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if args.run_name == os.environ["FAULT_RUN"] and state.global_step == 7:
            raise RuntimeError("the device fell off the bus")
        real(self, args, state, control, **rest)

    callbacks.TerminationCallback.on_step_end = on_step_end
"""


@pytest.mark.slow
def test_a_fault_costs_its_run_alone_and_is_retried_on_demand(undisturbed, root, tmp_path, monkeypatch):
    """One run of a job of four fails at step 7; on demand it goes on from its checkpoint, to the undisturbed bytes."""
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fault"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAULT_RUN", RUN)
    results = root.folder / "results" / "tiny"
    done = root.snakemake(*TINY)
    assert done.returncode == 1 and "1 of 7 runs failed" in done.stdout + done.stderr, done.stderr[-3000:]
    record = read_json(results / "runs" / RUN / "train.json")
    assert record["reason"] == "RuntimeError: the device fell off the bus"
    assert record["happened"]["last_good_checkpoint"] == 5
    first = outcome(root)
    others = {name for name in undisturbed if name.startswith("runs/") and RUN not in name}
    assert {name: first[name] for name in others} == {name: undisturbed[name] for name in others}
    report = (results / "report.html").read_text(encoding="utf-8")
    part = report[report.index('<section id="failures">') : report.index('<section id="runs">')]
    assert RUN in part and "the device fell off the bus" in part and "on_step_end" in part, part
    assert str(root.folder) not in part

    monkeypatch.delenv("FAULT_RUN")
    assert root.snakemake(*TINY).returncode == 1, "it isn't tried again unasked"
    finished(root.snakemake(*TINY, "retry_failed=true"))
    assert read_json(results / "runs" / RUN / "train.json")["happened"]["resumed_from_step"] == 5
    assert outcome(root) == undisturbed
    assert '<section id="failures">' not in (results / "report.html").read_text(encoding="utf-8")
