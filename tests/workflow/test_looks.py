"""Picked rates and seeds in looks in the real workflow: killed between looks, it goes on to the same verdicts."""

import csv
import json
import re

import pytest

from tests.workflow.conftest import killed_and_resumed

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
    results = killed_and_resumed(root, EXPERIMENT, "looks/sums-1.json")
    look = json.loads((results / "looks" / "sums-1.json").read_text())
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
