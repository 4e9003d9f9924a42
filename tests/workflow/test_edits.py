"""An edit re-runs what it changes and no more: each kind of file edited in a copy, and what Snakemake would run."""

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import forked
from tests.workflow.conftest import ROOT

RUNS = {"run_arithmetic_0", "run_arithmetic_1", "run_mmlu_0"}
FOOTPRINTS = {"footprint_arithmetic", "footprint_mmlu"}
READING = {"collect", "cards", "tables", "figures", "audit", "report", "failures"}
PAGE = {"report", "failures"}  # `failures` only looks once all is there

# file, what stands in it, what an edit makes of it
HARMLESS = {
    "docstring": ("sbora_bench/train/finetune.py", '"""Train', '"""Reworded: train'),
    "comment": ("sbora_bench/score/evaluate.py", "\nimport gc\n", "\n# a reason\nimport gc\n"),
    "help of a command": ("sbora_bench/cli/main.py", 'prog_name="sbora-bench"', 'prog_name="sbora-bench" '),
    "a helper that nothing calls": (
        "sbora_bench/files.py",
        "\n\ndef ",
        "\n\ndef spelt_backwards() -> int:\n    return 1\n\n\ndef ",
    ),
}
# the same, and the rules that then run
EDITS = {
    "model card": ("sbora_bench/report/cards.py", "## Scores", "## The scores", {"cards"}),
    "caption": ("sbora_bench/report/views/score_figure.py", "Methods stand a little", "They stand a little", PAGE),
    "table": ("sbora_bench/report/views/score_table.py", '"–"', '"-"', {"tables", "audit", *PAGE}),
    "page": ("sbora_bench/report/report.html", "</main>", "<!-- end --></main>", PAGE),
    "script of the page": ("sbora_bench/report/report.js", "", "// edited\n", PAGE),
    "style of figures": ("sbora_bench/report/paper.mplstyle", "", "# edited\n", {"figures", *PAGE}),
    "template of a task": (
        "sbora_bench/inputs/tasks/number.yaml",
        "",
        "# edited\n",
        {*RUNS, "prepare_table", *READING},
    ),
    "training": ("sbora_bench/train/encoding.py", "IGNORED = -100", "IGNORED = -101", {*RUNS, *READING}),
    "the method": (
        "sbora/functional.py",
        "",
        "SEEN = print\nprint(SEEN)\n",
        {*RUNS, *FOOTPRINTS, *READING},
    ),
}


@pytest.fixture(scope="module")
def copied(shared_folder, tmp_path_factory):
    """A reproduction of `tiny` copied with the package's sources, both to be edited."""
    from tests.workflow.conftest import reproduced

    folder = tmp_path_factory.mktemp("edits") / "root"
    with reproduced(shared_folder) as root:
        shutil.copytree(root.folder, folder, symlinks=True)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def would_run(folder: Path) -> set[str]:
    """The names of the rules that `snakemake -n` says it would run."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    arguments = ("-m", "snakemake", "--dry-run", "--cores", "2", "--config", "experiment=tiny")
    done = forked.python(*arguments, folder=folder, environment=environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    if "Nothing to be done" in said:
        return set()
    counts = said[said.rindex("Job stats:") :]
    return {name for name, _ in re.findall(r"^(\w+) +(\d+)$", counts, re.MULTILINE)} - {"all", "total"}


@contextmanager
def edited(folder: Path, edits: list[tuple[str, str, str]]):
    """The sources with these edits, for the block alone."""
    texts = {}
    for name, old, new in edits:
        path = folder / "src" / name
        texts[path] = text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r} any more"
        path.write_text(text.replace(old, new, 1) if old else new + text, encoding="utf-8")
    try:
        yield
    finally:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")


def test_what_changes_no_result_runs_nothing(copied):
    """All such edits at once: none of them may run anything, so all of them don't."""
    with edited(copied, list(HARMLESS.values())):
        assert would_run(copied) == set()


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_runs_what_it_changes_alone(copied, kind):
    *edit, expected = EDITS[kind]
    with edited(copied, [edit]):
        assert would_run(copied) == expected
