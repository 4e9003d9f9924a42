"""Grids of learning rates that the real workflow extends: killed between rounds, it goes on to the same picks."""

import json

import pytest

from tests.workflow.conftest import killed_and_resumed

# rates so low that the loss falls with each higher one: cells try rates beyond
EXPERIMENT = """
title: Small
items: ladder
runs_per_job: 8
tables:
  sums:
    suite: arithmetic
    train: ladder-math
    protocol: tiny
    metric: gold_loss
    answer_by: likelihood
    seeds: [0, 1]
    learning_rates: {pick: [1.0e-6, 1.0e-5], seeds: [100], extend: 2}
    validation_items: 8
    limit: {MultiArith: 2, gsm8k: 2, AddSub: 2, AQuA: 2, SingleEq: 2, SVAMP: 2}
    grids:
      - {models: [ladder-xs], methods: [lora, sbora-fa], ranks: [4]}
"""


@pytest.mark.slow
def test_killed_between_rounds_it_goes_on(root):
    results = killed_and_resumed(root, EXPERIMENT, "rounds/sums-1.json")
    rounds = [json.loads(path.read_text())["more"] for path in sorted((results / "rounds").iterdir())]
    assert rounds[0] and len(rounds) == 2, "the toy no longer needs a rate beyond its grid"
    rates = json.loads((results / "rates" / "sums.json").read_text())["cells"]
    tried = {cell: {1e-6, 1e-5, *(more[cell] for more in rounds if cell in more)} for cell in rates}
    assert {cell: {*map(float, rate["means"])} for cell, rate in rates.items()} == tried
    assert len([*(results / "runs").glob("*-s100")]) == sum(map(len, tried.values()))
    for cell, rate in rates.items():
        trained = json.loads((results / "runs" / f"{cell}-s0" / "train.json").read_text())
        assert trained["asked"]["protocol"]["learning_rate"] == rate["learning_rate"], cell
    assert "1e-4" in (results / "tables" / "rates-sums.md").read_text()
    checked = root.bench("verify", "results/small")
    assert checked.returncode == 0, checked.stdout
    state = root.bench("status", "small")
    count = 1 + 2 * 2 + sum(map(len, tried.values()))
    assert f"{count} done, 0 running, 0 failed, 0 waiting" in state.stdout, state.stdout
