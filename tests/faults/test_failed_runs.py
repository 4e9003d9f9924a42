"""A run that diverges, through the real DAG: all the rest is made and told, the command ends with status 1."""

import csv

import pytest
import yaml

from sbora_bench.files import read_json
from sbora_bench.results.records import TrainRecord, write_record

BAD = "wild-ladder-xs-lora-r4-s0"


def experiment(root) -> None:
    table = {
        "suite": "arithmetic",
        "train": "ladder-math",
        "protocol": "tiny",
        "seeds": [0],
        "limit": dict.fromkeys(["MultiArith", "gsm8k", "AddSub", "AQuA", "SingleEq", "SVAMP"], 4),
        "grids": [{"models": ["ladder-xs"], "methods": ["lora"], "ranks": [4]}],
    }
    wild = table | {"overrides": {"learning_rate": 1e30}}
    written = {"title": "Wild", "items": "ladder", "tables": {"tame": table, "wild": wild}}
    (root.folder / "experiments" / "wild.yaml").write_text(yaml.safe_dump(written))


@pytest.mark.slow
def test_a_run_that_fails_is_told_everywhere_and_not_tried_again_unasked(root):
    experiment(root)
    results = root.folder / "results" / "wild"
    done = root.snakemake("--config", "experiment=wild")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output[-4000:]
    reason = read_json(results / "runs" / BAD / "train.json")["reason"]
    assert "nan at step 3" in reason and f"{BAD}: failed: {reason}" in output and "1 of 4 runs failed" in output
    rows = list(csv.DictReader((results / "scores.csv").open()))
    assert {(row["status"], row["value"]) for row in rows if row["run"] == BAD} == {("failed", "")}
    assert {row["status"] for row in rows if row["run"] != BAD} == {"ok"}
    assert f"Failed: {BAD} ({reason})." in (results / "tables" / "wild.md").read_text()
    assert reason in (results / "report.html").read_text(encoding="utf-8")

    again = root.snakemake("--config", "experiment=wild")
    output = again.stdout + again.stderr
    assert again.returncode == 1 and "1 of 4 runs failed" in output
    assert "train and score" in done.stdout + done.stderr
    assert "train and score" not in output, "it isn't tried again unasked"


def test_on_demand_it_is_forgotten_and_so_made_again(root):
    run = "arithmetic-ladder-xs-lora-r4-s0"
    folder = root.folder / "results" / "tiny" / "runs" / run
    names = {"experiment": "tiny", "table": "arithmetic", "run": run, "model": "ladder-xs", "method": "lora", "rank": 4}
    record = TrainRecord(**names, seed=0, status="failed", reason="loss nan", asked={}, happened={}, on={})
    write_record(folder / "train.json", record)
    ended = root.snakemake("no-such-target", "--config", "experiment=tiny", "retry_failed=true", "--dry-run")
    assert ended.returncode == 1 and (folder / "train.json").exists(), "a dry run changes nothing"
    ended = root.snakemake("no-such-target", "--config", "experiment=tiny", "retry_failed=true")
    assert f"snakemake: {run} failed, to be run again" in ended.stdout + ended.stderr
    assert not (folder / "train.json").exists()
    assert root.snakemake("--config", "experiment=tiny", "retry_failed=perhaps").returncode == 2
