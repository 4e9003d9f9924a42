"""Every command of README and docs is tried: for real on `tiny`, as a dry run, or listed with the reason why not."""

import csv
import re
import shlex
import shutil
import subprocess

import pytest

from tests.factories.shipped import ROOT
from tests.factories.workplace import workplace  # noqa: F401

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def fenced(language: str, pages: str = README) -> list[str]:
    """The contents of the pages' code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", pages, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the pages' bash blocks: continued lines joined, comments and blank lines left out."""
    lines = "\n".join(fenced("bash")).replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.strip().startswith("#")))


def words(command: str) -> list[str]:
    """The command's words without comments; programs of `.venv/bin` by their names."""
    return [word.removeprefix(".venv/bin/") for word in shlex.split(command, comments=True)]


def really(root, command: str) -> None:
    """Run it in the reproduction of `tiny`."""
    program, *arguments = words(command)
    done = root.bench(*arguments) if program == "sbora-bench" else root.python("-m", program, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]


def touched(root, command: str) -> None:
    """`--touch` leaves nothing to be done."""
    really(root, command)
    done = root.snakemake("--config", "experiment=tiny")
    assert "Nothing to be done" in done.stdout + done.stderr


def dry(root, command: str) -> None:
    """The workflow is planned, not run."""
    done = root.python("-m", *words(command), "--dry-run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Job stats" in done.stdout + done.stderr or "Nothing to be done" in done.stdout + done.stderr


def dry_make(root, command: str) -> None:
    """Make knows the target and what it would run."""
    done = subprocess.run([*words(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and re.search("snakemake|pytest|benchmarks", done.stdout), done.stderr


# What a command looks like, and how it is tried; the first that matches counts.
TRIED = [
    (r"make (reproduce|test|test-slow|rehearse|bench)", dry_make),
    (r"snakemake\b.* --touch\b.*", touched),
    (r"snakemake\b.*\bexperiment=tiny\b.*", really),
    (r"snakemake\b(?!.*s3://).*", dry),
    (r"sbora-bench (plan|validate|schema|footprint|audit|export|score|verify|status|compare-published)\b.*", really),
    (r"sbora-bench \w+\b.* (--experiment|-e) tiny\b.*", really),
]
# What isn't run here, and why.
LISTED = [
    (r"export [A-Z0-9_]+=\S+", "sets a variable; the command after it is tried"),
    (r"(source|cd) \S+", "changes the shell alone"),
    (r"eval .*_COMPLETE=.*", "changes the shell alone; test_main.py asks for the completion's script"),
    (r"git clone \S+( \S+)?", "needs the network"),
    (r"(snakemake|aws) .*s3://.*", "needs a bucket and a cluster; tests/pods runs the profile with stand-ins for both"),
    (
        r"accelerate launch .*",
        "needs several GPUs; tests/unit/train/test_distributed.py launches two processes on a CPU",
    ),
    (r"sbora-bench init mine .*", "of one's own files; tests/unit/cli/test_init.py runs it on others"),
    (r"python benchmarks/peft_gpu_results.py .*", "minutes, and needs PEFT's own file; not run by any test"),
    (r"(\S+=\S+ )?python benchmarks/(training|scoring).py .*", "four minutes each; need weights and data of the hub"),
    (r"python benchmarks/gpu.py .*", "needs a GPU"),
    (r"python -m pytest .*test_merge_other_quantized.py", "needs the two packages named before it"),
    (r"python benchmarks/gpu.py .*", "seven minutes, and needs a GPU"),
    (r"python benchmarks/side_by_side.py .*", "a minute, and needs weights of the hub"),
    (r"sbora-bench sizes experiments/mine.yaml", "of one's own; tests/unit/cost/test_sizes.py runs it on another"),
    (r"(pip|conda) .*", "sets up an environment; `make` does that in every test run"),
]


def way(command: str, table) -> object | None:
    """How `command` is tried, or why it isn't: the first entry of `table` that matches."""
    plain = " ".join(words(command))
    return next((entry for pattern, entry in table if re.fullmatch(pattern, plain)), None)


def test_readme_has_commands():
    assert len(commands()) >= 5 and any("reproduce" in command for command in commands())


def test_every_command_is_tried_or_listed():
    assert [command for command in commands() if not (way(command, TRIED) or way(command, LISTED))] == []


@pytest.mark.parametrize("command", [command for command in commands() if way(command, TRIED) in (really, touched)])
def test_every_command_works_on_tiny(command, reproduction):
    way(command, TRIED)(reproduction, command)


@pytest.mark.parametrize("command", [command for command in commands() if way(command, TRIED) in (dry, dry_make)])
def test_every_command_of_a_long_run_is_planned(command, root):
    way(command, TRIED)(root, command)


MODEL = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
shape = dict(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(sys.argv[1])
"""


@pytest.mark.parametrize("script", fenced("python", PAGES[0].read_text(encoding="utf-8")))
def test_every_script_runs_on_a_small_model(script, root):
    folder = root.folder / "model"
    made = root.python("-c", MODEL, str(folder))
    assert made.returncode == 0, made.stderr[-3000:]
    assert "path/or/hub-id" in script
    done = root.python("-c", script.replace("path/or/hub-id", str(folder)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (root.folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("entries", fenced("yaml", (ROOT / "docs/own.md").read_text(encoding="utf-8")))
def test_every_entry_is_one_that_a_catalog_may_have_and_every_experiment_is_good(entries, workplace):  # noqa: F811
    experiments = workplace.folder / "experiments"
    shutil.copy(ROOT / "experiments" / "tiny.yaml", experiments)
    whole = "tables:" in entries
    (experiments / ("" if whole else "catalog") / "own.yaml").write_text(entries, encoding="utf-8")
    status, _, errors = workplace.run("validate", "experiments/own.yaml") if whole else workplace.run("plan", "tiny")
    assert status == 0, errors


def test_averages_are_those_published():
    (table,) = re.findall(r"<!-- averages: ladder ladder-s -->\n(.*?)\n<!-- end -->", README, re.S)
    tables = ROOT / "results" / "published" / "ladder" / "tables"
    with open(tables / "cells.csv", encoding="utf-8", newline="") as file:
        cells = [row for row in csv.DictReader(file) if (row["model"], row["task"]) == ("ladder-s", "average")]
    scores = {(row["method"], row["rank"], row["table"]): row for row in cells}
    lines = [[text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert len(lines) > 5
    for method, rank, _, *shown in lines:
        rows = [scores[method.lower(), rank, suite] for suite in ("commonsense", "arithmetic")]
        assert shown == [f"{float(row['mean']):.1f} ± {float(row['sd']):.1f}" for row in rows], method


def test_tables_are_those_published():
    blocks = re.findall(r"<!-- published: (\S+) -->\n(.*?)\n<!-- end -->", README, re.S)
    assert len(blocks) > 3
    for source, text in blocks:
        path, _, heading = source.partition("#")  # with a heading: that section alone
        published = (ROOT / "results" / "published" / path).read_text(encoding="utf-8")
        sections = {slug(part): part for part in re.split(r"^### ", published, flags=re.M)}
        assert text == (f"### {sections[heading]}" if heading else published).strip(), source


def slug(section: str) -> str:
    """The first line of a section as a link has it."""
    return re.sub(r"[^a-z0-9-]+", "", section.partition("\n")[0].lower().replace(" ", "-"))
