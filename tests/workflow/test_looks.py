"""Picked rates and seeds in looks in the real workflow: killed between looks, it goes on to the same verdicts."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.workflow.conftest import wait_for

EXPERIMENT = """
title: Small
items: ladder
runs_per_job: 8
tables:
  sums:
    suite: arithmetic
    train: ladder-math
    protocol: tiny
    seeds: {looks: [4, 5], from: 0}
    learning_rates: {pick: [1.0e-3, 1.0e-2], seeds: [100]}
    validation_items: 8
    limit: {MultiArith: 4, gsm8k: 4, AddSub: 4, AQuA: 4, SingleEq: 4, SVAMP: 4}
    grids:
      - {models: [ladder-xs], methods: [lora, sbora-fa, sbora-fb], ranks: [4]}
    comparisons:
      - {a: sbora-fa-r4, b: lora-r4, equal: rank, margin: 0.001}
"""


@pytest.mark.slow
def test_killed_between_looks_it_goes_on(root):
    (root.folder / "experiments" / "small.yaml").write_text(EXPERIMENT)
    results, config = root.folder / "results" / "small", ("--config", "experiment=small")
    planned = root.snakemake("-n", *config)
    assert planned.returncode == 0 and "checkpoint" in planned.stdout + planned.stderr, planned.stderr[-3000:]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *config]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=root.folder, env=environment, start_new_session=True) as process:
        wait_for("the first look", process, (results / "looks" / "sums-1.json").exists)
        os.killpg(process.pid, signal.SIGKILL)
    first = (results / "looks" / "sums-1.json").read_bytes()
    done = root.snakemake(*config)
    assert done.returncode == 0, done.stderr[-6000:]
    assert (results / "looks" / "sums-1.json").read_bytes() == first
    again = root.snakemake(*config)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr, again.stderr[-3000:]

    look = json.loads(first)
    seeds = {path.name for path in (results / "runs").iterdir() if (path / "scores.json").is_file()}
    rates = json.loads((results / "rates" / "sums.json").read_text())["cells"]
    assert len(rates) == 3 and len(seeds) == 1 + sum(5 if cell in look["more"] else 4 for cell in rates)
    assert (results / "looks" / "sums-2.json").is_file() == bool(look["more"])
    scores = (results / "scores.csv").read_text()
    assert "not run" not in scores and "-s100" not in scores and "-lr" not in scores
    for row in csv.DictReader(scores.splitlines()):
        rate = rates.get(row["run"].rpartition("-s")[0], {}).get("learning_rate")
        assert row["learning_rate"] == ("" if rate is None else f"{rate:.6f}"), row
    carried = [len(set(re.findall(r'"run": "([^"]+)"', log.read_text()))) for log in results.glob("logs/run/*.log")]
    assert sorted(carried)[-3:] == [6, 6, 7], "the first look's jobs, and the one that picks, were not run again"
    for picking in (results / "runs").glob("*-s100"):
        assert not (picking / "scores.json").exists() and (picking / "validation" / "scores.json").is_file()
    checked = root.bench("verify", "results/small")
    assert checked.returncode == 0, checked.stdout
    state = root.bench("status", "small")
    assert f"{len(seeds) + 6} done, 0 running, 0 failed, 0 waiting" in state.stdout, state.stdout
