"""The real DAG on `tiny`: whole, steady, the same bytes by hand, and open to a method, a model and a task by YAML."""

import csv
import re
import shutil
import sys

import pytest
import yaml

from sbora_bench.files import read_json, sha256, write_json
from sbora_bench.plan.load import load_plan
from sbora_bench.report.outputs import audit_files, figure_files, table_files
from tests.workflow.conftest import CANARY

TINY = ("--config", "experiment=tiny")
RUN = "arithmetic-ladder-xs-sbora-fa-r4-s1"
IN_TURN = """
import sys
from sbora_bench.cli.main import cli
for stage in ("finetune", "evaluate"):
    cli([stage, *sys.argv[1:]], standalone_mode=False)
"""


def digests(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def nothing_to_do(done) -> bool:
    return done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_every_run_leaves_its_records(reproduction):
    plan = load_plan(str(reproduction.folder / "experiments" / "tiny.yaml"))
    results = reproduction.folder / "results" / "tiny"
    for run in plan.runs:
        scores = read_json(results / "runs" / run.name / "scores.json")
        assert scores["status"] == "ok" and set(scores["tasks"]) == set(plan.tasks(run.table))
        assert (results / "runs" / run.name / "train.json").is_file() is not run.is_base
    rows = list(csv.DictReader((results / "scores.csv").open()))
    assert len(rows) == sum(len(plan.tasks(run.table)) for run in plan.runs)
    assert {row["status"] for row in rows} == {"ok"} and all(0 <= float(row["value"]) <= 1 for row in rows)
    assert (results / "report.html").stat().st_size > 10_000
    assert "Tables: results/tiny/tables/" in (reproduction.folder / "first.log").read_text()


def test_every_scored_model_is_the_trained_one_the_4_bit_base_too(reproduction):
    results = reproduction.folder / "results" / "tiny" / "runs"
    checks = {path.parent.name: read_json(path).get("model_check") for path in results.glob("*/scores.json")}
    tuned = {run: check for run, check in checks.items() if not run.endswith("-base")}
    assert len(tuned) == 5 and any("qsbora" in run for run in tuned)
    for run, check in tuned.items():
        assert check["status"] == "as trained" and 0 <= check["difference"] <= check["tolerance"] < check["effect"], run


def test_no_record_holds_a_place_of_this_machine(reproduction):
    for path in (reproduction.folder / "results" / "tiny").rglob("*.json*"):
        assert str(reproduction.folder) not in path.read_text(encoding="utf-8"), path


def test_results_copied_from_another_machine_are_read_without_its_paths(reproduction, tmp_path):
    there, here = reproduction.folder / "results" / "tiny", tmp_path / "copied" / "tiny"
    shutil.copytree(there, here)
    (here / "scores.csv").unlink()
    shutil.rmtree(here / "tables")
    hidden = there.with_name("tiny-hidden")
    there.rename(hidden)
    try:
        for stage in ("collect", "tables"):
            done = reproduction.bench(stage, "--experiment", "tiny", "--results", str(here))
            assert done.returncode == 0, done.stderr[-3000:]
    finally:
        hidden.rename(there)
    for name in ("scores.csv", "tables"):
        one, two = (digests(at / name) if name == "tables" else sha256(at / name) for at in (there, here))
        assert one == two


def test_no_token_is_in_anything_that_a_reproduction_leaves_or_says(reproduction):
    left = [path for path in reproduction.folder.rglob("*") if path.is_file()]
    assert {"report.html", "first.log", "train.json"} < {path.name for path in left}
    assert [path for path in left if CANARY.encode() in path.read_bytes()] == []


def to_be_made(done) -> set[str]:
    """The files of which `snakemake --summary` says that they are missing and will be made."""
    assert done.returncode == 0, done.stderr[-3000:]
    rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t")
    return {row["output_file"] for row in rows if (row["status"], row["plan"]) == ("missing", "update pending")}


def test_a_second_run_has_nothing_to_do_and_what_is_deleted_is_made_again(reproduction):
    assert nothing_to_do(reproduction.snakemake(*TINY))
    results = reproduction.folder / "results" / "tiny"
    before = digests(results / "runs" / RUN)
    shared = {name: results / name for name in ("scores.csv", "footprint.csv", "budget.csv", "audit.json", "data/mmlu")}
    scores = sha256(results / "scores.csv")
    for path in shared.values():
        path.rename(path.with_name(f"{path.name}.away"))
    try:
        pending = to_be_made(reproduction.snakemake("--summary", *TINY))
        assert pending == {f"results/tiny/{name}" for name in shared}
    finally:
        for path in shared.values():
            path.with_name(f"{path.name}.away").rename(path)
    (results / "runs" / RUN / "scores.json").unlink()
    (results / "runs" / RUN / "adapter" / "adapter_model.safetensors").unlink()
    done = reproduction.snakemake(*TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(results / "runs" / RUN) == before and sha256(results / "scores.csv") == scores
    assert nothing_to_do(reproduction.snakemake("--dry-run", *TINY))


def test_regions_are_made_where_an_experiment_asks_for_them_and_verified(reproduction, root):
    """Nothing is trained or scored for them, and what is kept of them is what the adapters give."""
    for part in ("results/tiny", "resources"):
        shutil.copytree(reproduction.folder / part, root.folder / part)
    path, results = root.folder / "experiments" / "tiny.yaml", root.folder / "results" / "tiny"
    written = yaml.safe_load(path.read_text())
    written["tables"]["arithmetic"]["regions"] = {"cells": ["sbora-fa-r4"], "seeds": [0, 1]}
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    before = digests(results / "runs")
    done = root.snakemake(*TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "regions_arithmetic_ladder_xs" in done.stdout + done.stderr and digests(results / "runs") == before
    record = results / "regions" / f"{RUN}.json"
    assert record.is_file() and (results / "tables" / "regions-arithmetic.md").is_file()
    assert "SBoRA-FA r = 4, seed 0" in (results / "tables" / "overlaps-arithmetic.md").read_text()
    verified = root.bench("verify", "results/tiny")
    assert verified.returncode == 0, verified.stdout
    kept = read_json(record)
    del kept["record_sha256"]
    kept["layers"][0]["norm"] *= 2
    write_json(record, kept)
    verified = root.bench("verify", "results/tiny")
    assert verified.returncode == 2 and "norm: not what the run's adapter gives" in verified.stdout


def test_snakemakes_own_report_has_the_tables_and_figures_with_captions(reproduction):
    made = reproduction.folder / "own.html"
    done = reproduction.snakemake("--report", str(made), *TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    text = made.read_text(encoding="utf-8")
    plan = load_plan(str(reproduction.folder / "experiments" / "tiny.yaml"))
    names = [name for name in table_files(plan) + audit_files() if name.endswith(".html")]
    names += [name for name in figure_files(plan) if name.endswith(".svg")]
    for name in [*names, "report.html"]:
        entry = text[text.index(f'"results/tiny/{name}": {{') :]
        assert re.match(r'.{,400}?"labels": \{".+?"caption": "<p>[A-Z]', entry, re.DOTALL), name
    for category in ("Tables", "Figures", "Audit", "Page"):
        assert f'"{category}": {{' in text


def test_the_commands_give_the_bytes_of_the_dag(reproduction):
    """Here they are in a process of its own; the jobs of the reproduction were forks (tests/forked.py)."""
    dag, own = reproduction.folder / "results" / "tiny", reproduction.folder / "results" / "by-hand"
    shutil.copytree(dag / "data", own / "data")
    try:
        done = reproduction.run(sys.executable, "-c", IN_TURN, "--experiment", "tiny", "--results", str(own), RUN)
        assert done.returncode == 0, done.stderr[-3000:]
        done = reproduction.bench("cards", "--experiment", "tiny", "--results", str(own))
        assert done.returncode == 0, done.stderr[-3000:]
        by_hand, by_dag = digests(own / "runs" / RUN), digests(dag / "runs" / RUN)
    finally:
        shutil.rmtree(own)
    timed = {"train.json"}  # seconds and memory
    assert by_hand.keys() == by_dag.keys() - {"footprint.json"} and {"scores.json"} < by_hand.keys()
    assert {name: by_hand[name] for name in by_hand.keys() - timed} == {
        name: by_dag[name] for name in by_hand.keys() - timed
    }


@pytest.mark.slow
def test_a_reproduction_from_scratch_gives_the_same_scores(reproduction, root):
    done = root.snakemake(*TINY)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = reproduction.folder / "results" / "tiny", root.folder / "results" / "tiny"
    assert (first / "scores.csv").read_bytes() == (second / "scores.csv").read_bytes()
    for run in sorted((first / "runs").iterdir()):
        ours, theirs = digests(run), digests(second / "runs" / run.name)
        ours.pop("train.json", None), theirs.pop("train.json", None)
        assert ours == theirs, run.name


OWN = {
    "models": {
        "own-model": {
            "title": "Own",
            "source": {
                "kind": "pretrain",
                "recipe": {"seed": 3, "steps": 4, "choices_first": 1, "batch": 8, "held_out": 8},
            },
            "architecture": {
                "vocab_size": 1024,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "tie_word_embeddings": True,
            },
        }
    },
    "methods": {
        "own-vera": {
            "title": "VeRA",
            "peft_type": "VERA",
            "arguments": {
                "r": "$rank",
                "target_modules": ["q_proj", "v_proj"],
                "vera_dropout": "$dropout",
                "projection_prng_key": "$seed",
            },
        }
    },
    "data": {"own-items": {"kind": "synthetic", "maker": "items", "name": "SVAMP", "rows": 6, "seed": 99}},
    "tasks": {
        "OwnSums": {
            "title": "Own sums",
            "template": "number",
            "answer": {"official": "last-number", "strict": "stated-number"},
            "items": {"ladder": "own-items"},
        }
    },
    "suites": {"own": {"title": "Own suite", "tasks": ["OwnSums"]}},
}
EXTENDED = {
    "title": "Extended",
    "items": "ladder",
    "tables": {
        "own": {
            "suite": "own",
            "train": "ladder-math",
            "protocol": "tiny",
            "seeds": [0],
            "grids": [{"models": ["own-model"], "methods": ["own-vera"], "ranks": [4]}],
        }
    },
}


def test_a_method_a_model_and_a_task_are_added_by_yaml_alone(root):
    (root.folder / "experiments" / "catalog" / "own.yaml").write_text(yaml.safe_dump(OWN))
    (root.folder / "experiments" / "extended.yaml").write_text(yaml.safe_dump(EXTENDED))
    done = root.snakemake("--config", "experiment=extended")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    run = root.folder / "results" / "extended" / "runs" / "own-own-model-own-vera-r4-s0"
    assert read_json(run / "adapter" / "adapter_config.json")["peft_type"] == "VERA"
    assert read_json(run / "scores.json")["tasks"]["OwnSums"]["n"] == 6
    assert "VeRA" in (root.folder / "results" / "extended" / "tables" / "own.md").read_text()
