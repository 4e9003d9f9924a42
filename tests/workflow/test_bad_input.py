"""What is found before the DAG runs ends `snakemake` with exit status 2 and one line of ours; nothing is written.

A case of each kind; for what else is refused, tests/unit/workflow/test_workflow.py asks the function behind it.
"""

import json

import pytest
import yaml

from tests.factories.workplace import EXPERIMENT, edited

GOOD = edited(EXPERIMENT, (("tables", "sums", "seeds"), [0]), (("tables", "sums", "grids", 0, "methods"), ["lora"]))
TABLE = GOOD["tables"]["sums"]
GRID = TABLE["grids"][0]


def table(**changes) -> str:
    return yaml.safe_dump(GOOD | {"tables": {"sums": TABLE | changes}})


FILES = {
    "rank 0": (table(grids=[GRID | {"ranks": [0]}]), "small.yaml: tables.sums.grids.0.ranks.0"),
    "a run twice": (table(grids=[GRID, GRID]), "small.yaml: tables.sums.grids: run sums-ladder-xs-lora-r4-s0"),
    "not YAML": ("tables: [", "small.yaml, line 2: not valid YAML"),
}


def refused(root, *config: str) -> str:
    """The line that `snakemake` must end with."""
    written = {path for path in root.folder.rglob("*") if ".snakemake" not in path.parts}
    done = root.snakemake("--config", *config)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    ours = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(ours) == 1 and ours[0].startswith("snakemake: "), done.stderr
    assert {path for path in root.folder.rglob("*") if ".snakemake" not in path.parts} == written
    return ours[0]


@pytest.mark.parametrize("case", FILES)
def test_a_spoiled_experiment(root, case):
    content, message = FILES[case]
    (root.folder / "experiments" / "small.yaml").write_text(content)
    assert message in refused(root, "experiment=small")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["..", "/tmp/up", "a\nb", "--x", "a b", "$(touch up)", "a;touch up", ".hidden"])
@pytest.mark.parametrize("section", ["tables", "models", "methods", "tasks"])
def test_a_name_that_leaves_its_place(root, section, name):
    """Through the real DAG: no name of a table, model, method or task gets as far as a path or a command."""
    entries = {
        "models": {"title": "t", "source": {"kind": "random", "seed": 0, "tokenizer": "llama"}},
        "methods": {"title": "t", "peft_type": "LORA", "arguments": {"r": "$rank"}},
        "tasks": {"title": "t", "template": "number", "answer": {}, "items": {"ladder": "ladder-SVAMP"}},
    }
    tables = {name: TABLE} if section == "tables" else {"sums": TABLE}
    (root.folder / "experiments" / "small.yaml").write_text(yaml.safe_dump(GOOD | {"tables": tables}))
    if section != "tables":
        own = yaml.safe_dump({section: {name: entries[section]}})
        (root.folder / "experiments" / "catalog" / "own.yaml").write_text(own)
    message = refused(root, "experiment=small")
    assert f"{section}" in message and not list(root.folder.parent.rglob("up"))


@pytest.mark.parametrize("name", ["nope", "../tiny", "/etc/passwd", "--tiny", "ti\nny", "tiny;id", "$(id)"])
def test_a_name_that_is_no_experiment(root, name):
    assert "experiment" in refused(root, f"experiment={json.dumps(name)}")


def test_an_unknown_setting(root):
    assert "did you mean 'experiment'" in refused(root, "experiments=tiny")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("only=method=sbora-fo", "unknown method 'sbora-fo', did you mean 'sbora-fa'"), ("limit=-1", "limit: found '-1'")],
)
def test_a_part_that_is_not_there(root, setting, message):
    assert message in refused(root, "experiment=tiny", setting)


def test_results_of_another_version(root):
    record = root.folder / "results" / "tiny" / "runs" / "mmlu-ladder-xs-base" / "footprint.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"version": 99}')
    message = refused(root, "experiment=tiny")
    assert "mmlu-ladder-xs-base/footprint.json: version: found 99, allowed 1" in message
