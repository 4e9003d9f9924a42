"""Jobs of one machine take different GPUs, counted by a stub in the place of nvidia-smi: no GPU is needed here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbora_bench import gpus
from tests import forked
from tests.workflow.conftest import PATIENCE

HOLD = """
import json, os, sys, time
from pathlib import Path
from sbora_bench import gpus
output, needed = Path(sys.argv[1]), int(sys.argv[2])
device, began = gpus.take_gpu(), time.monotonic()
Path(f"{output}.started").touch()
while not Path("go").exists() and len(list(output.parent.glob("*.started"))) < needed:
    time.sleep(0.05)
told = {"device": device, "sees": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.monotonic()}
output.write_text(json.dumps(told))
"""
SNAKEFILE = """
rule all:
    input: expand("{i}.json", i=range(6))

rule job:
    output: "{i}.json"
    resources: gpu=1
    shell: "{PYTHON} hold.py {output} 2"  # two jobs at least hold a device at once
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with so many GPUs as it says."""

    def make(count: int) -> Path:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{i}, GPU-stub-{tmp_path.name}-{i}'\n" for i in range(count)))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.delenv(gpus.VARIABLE, raising=False)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        ("", []),
        ("-1", []),
        ("1,-1,2", ["1"]),
    ],
)
def test_the_pool(machine, monkeypatch, visible, expected):
    machine(3)
    if visible is not None:
        monkeypatch.setenv(gpus.VARIABLE, visible)
    assert gpus.pool() == expected


def test_without_a_gpu_nothing_is_taken(machine, monkeypatch):
    machine(0)
    assert gpus.take_gpu() is None and gpus.VARIABLE not in os.environ
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.pool() == [] and gpus.take_gpu() is None


def test_a_pool_of_one_is_left_to_who_made_it(machine, monkeypatch):
    folder = machine(3)
    monkeypatch.setenv(gpus.VARIABLE, "GPU-of-the-cluster")
    assert gpus.take_gpu() == "GPU-of-the-cluster"
    assert not list(folder.glob("sbora-gpus-*"))


def started(folder: Path, name: str) -> subprocess.Popen:
    """A process that holds a device until the file `go` is there."""
    (folder / "hold.py").write_text(HOLD)
    return subprocess.Popen([sys.executable, "hold.py", name, "99"], cwd=folder, stderr=subprocess.PIPE, text=True)


def holding(folder: Path, name: str) -> subprocess.Popen:
    """Such a process, once it has its device."""
    process = started(folder, name)
    while not (folder / f"{name}.started").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("visible", [None, "2,1"])
def test_processes_take_different_devices_and_wait_for_one(machine, monkeypatch, visible):
    folder = machine(3 if visible else 2)
    if visible:
        monkeypatch.setenv(gpus.VARIABLE, visible)
    processes = [holding(folder, f"{i}.json") for i in range(2)]
    processes.append(started(folder, "2.json"))
    waits = processes[-1].stderr.readline()
    (folder / "go").touch()
    assert [process.wait(timeout=PATIENCE) for process in processes] == [0, 0, 0]
    records = [json.loads((folder / f"{i}.json").read_text()) for i in range(3)]
    assert {entry["device"] for entry in records[:2]} == set((visible or "0,1").split(","))
    assert waits == f"waiting for a GPU: other jobs have all of {(visible or '0,1').replace(',', ', ')}\n"
    check_apart(records)


def test_a_killed_process_gives_its_device_back(machine):
    folder = machine(2)
    first = holding(folder, "first.json")
    first.kill()
    first.wait(timeout=PATIENCE)
    others = [holding(folder, f"{i}.json") for i in range(2)]
    (folder / "go").touch()
    assert [process.wait(timeout=PATIENCE) for process in others] == [0, 0]
    assert {json.loads((folder / f"{i}.json").read_text())["device"] for i in range(2)} == {"0", "1"}


def check_apart(records: list[dict]) -> None:
    """Who holds a device at the same time holds another one; and some do."""
    pairs = [(a, b) for i, a in enumerate(records) for b in records[i + 1 :]]
    together = [(a, b) for a, b in pairs if a["began"] < b["ended"] and b["began"] < a["ended"]]
    assert together and all(a["device"] != b["device"] for a, b in together)
    assert all(entry["sees"] == entry["device"] for entry in records)


def test_the_jobs_of_a_workflow_take_different_devices(machine):
    folder = machine(3)
    (folder / "hold.py").write_text(HOLD)
    (folder / "Snakefile").write_text(f"PYTHON = {sys.executable!r}\n{SNAKEFILE}")
    done = forked.python("-m", "snakemake", "--cores", "6", "--resources", "gpu=3", folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    check_apart([json.loads((folder / f"{i}.json").read_text()) for i in range(6)])


@pytest.mark.parametrize(("count", "more", "slots"), [(3, [], 3), (3, ["--resources", "gpu=2"], 2), (0, [], False)])
def test_the_workflow_runs_as_many_jobs_as_there_are_gpus(machine, root, count, more, slots):
    machine(count)
    with (root.folder / "Snakefile").open("a") as file:
        file.write('\nheld = workflow.global_resources\nprint("slots:", "gpu" in held and held["gpu"].value)\n')
    done = root.snakemake("--dry-run", *more, "--config", "experiment=tiny")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"slots: {slots}\n" in done.stdout + done.stderr
