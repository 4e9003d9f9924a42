"""`sbora-bench init`: a small commented experiment of one's own, with its entries of the catalog, that validates."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from sbora_bench.cli.init_rows import ANSWERS, INSTRUCTIONS, OUTPUTS, Table, table
from sbora_bench.errors import Problems, UserError, one_of

LENGTH = 512  # tokens of a training row at most
WORD = "[A-Za-z0-9_]"  # no sign of a script that writes no spaces: there a label stands amid others
LABELS = 10  # different answers of a file up to which they are the labels of a choice

KEPT = (
    "{experiment} and {entries} are written: correct what is said above there or in your files, until `sbora-bench"
    " validate {experiment}` says good; or delete both and run init again"
)

EXPERIMENT = """\
# {train} on {shown}: SBoRA beside LoRA.
#   sbora-bench validate experiments/{name}.yaml
#   sbora-bench plan {name} --cost --device rtx-4090
#   snakemake --cores all --config experiment={name}
title: {key}
description: Made by sbora-bench init.
items: {items}
runs_per_job: 4 # runs that one process makes, for its start takes as long as a short run
tables:
  {key}:
    suite: {suite}
    train: {name}-train # experiments/catalog/{name}.yaml
    protocol: {key} # experiments/catalog/{name}.yaml
    seeds: [0, 1, 2] # how far runs differ by chance shows from three on
    contaminated: drop # test items whose question is in the training set
    missing: skip # tasks whose files can't be obtained show as not available
    grids: # models x methods x ranks; or at: {{parameters: 1000000}} in place of ranks
      - {{models: [{model}], methods: [lora, sbora-fa, sbora-fb], ranks: [8]}}
"""

CATALOG = """\
# Entries of the experiment {name}.
data:
  {name}-train:
    path: {train}
{columns}{more_data}
protocols:
  {key}:
    extends: smollm2 # experiments/catalog/protocols.yaml has every field and what it means
    title: {key}
    target_modules: all-linear
    max_length: {length}
    merge: false
    learning_rate: 1.0e-3 # the first thing to vary: learning_rates: [...] in a table picks one
    batch_size: 16
    micro_batch: 4
    steps: 60 # updates; or epochs
{more}"""


@click.command()
@click.argument("name")
@click.option("--model", required=True, help="A model of the catalog, a folder with weights, a GGUF file, or a hub id.")
@click.option(
    "--train",
    required=True,
    type=click.Path(path_type=Path),
    help="A file (JSON, JSONL, CSV, TSV, Parquet, Arrow), or a folder.",
)
@click.option("--tasks", required=True, help="A suite of the catalog, a task of lm-eval, or a file of questions.")
def init(name: str, model: str, train: Path, tasks: str) -> None:
    """Write experiments/NAME.yaml and its catalog entries: SBoRA and LoRA on your model, data and tasks."""
    from sbora_bench.inputs.check import checked_plan
    from sbora_bench.inputs.notes import notes
    from sbora_bench.plan.catalog import load_catalog
    from sbora_bench.plan.entry import NAME

    experiment, entries = Path("experiments") / f"{name}.yaml", Path("experiments/catalog") / f"{name}.yaml"
    if not re.fullmatch(NAME, name) or "." in name:
        raise UserError(f"init: name {name!r}: allowed are lower-case letters, digits and '-'")
    for path in (experiment, entries):
        if path.exists():
            raise UserError(f"{path}: is there already; choose another name, or edit it")
    catalog = load_catalog()
    texts = texts_of(name, model, train, tasks, catalog)
    if model not in catalog.models and not Path(model).exists():
        click.echo(f"note: --model {model}: no such folder or file here, so a model of the hub", err=True)
    try:
        for path, text in ((experiment, texts.experiment), (entries, texts.entries)):
            path.write_text(text, encoding="utf-8")
        load_catalog.cache_clear()
        load_catalog()
    except BaseException:  # an entry that can't be read would stop every command
        for path in (experiment, entries):
            path.unlink(missing_ok=True)
        raise
    try:
        loaded = checked_plan(str(experiment), methods=True)
    except UserError as error:
        raise Problems([*str(error).splitlines(), KEPT.format(experiment=experiment, entries=entries)]) from None
    for note in (*texts.notes, *notes(loaded)):
        click.echo(f"note: {note}", err=True)
    click.echo(f"{experiment} and {entries}: good, {len(loaded.runs)} runs; read them, then")
    click.echo(f"snakemake --cores all --config experiment={name}")


class Texts(NamedTuple):
    """The experiment's file, that of its entries, and what their reader should know."""

    experiment: str
    entries: str
    notes: list[str]


def texts_of(name: str, model: str, train: Path, tasks: str, catalog: Any) -> Texts:
    """What init writes and says. Raises UserError where a file or a name is no good."""
    from sbora_bench.plan.lm_eval_groups import known_to_lm_eval

    training = table(train, "train", {"instruction": INSTRUCTIONS, "output": OUTPUTS})
    columns, notes = _lines(training), training.unread()
    more: list[str] = []
    model_id = model
    if model not in catalog.models:
        model_id = f"{name}-model"
        title, source = in_yaml(Path(model).name), in_yaml(_source_of(model, catalog))
        more.append(f"models:\n  {model_id}:\n    title: {title}\n    source: {source}\n")
    suite, items, more_data = tasks, "own", ""
    if tasks in catalog.suites:
        items = _items_of(catalog, tasks)
    elif known_to_lm_eval(tasks):
        suite = f"{name}-suite"
        more.append(f"suites:\n  {suite}:\n    title: {in_yaml(tasks)}\n    tasks: [{in_yaml({'lm_eval': tasks})}]\n")
    elif Path(tasks).exists():
        suite = f"{name}-suite"
        fields_of_item = {"instruction": INSTRUCTIONS, "output": OUTPUTS, "answer": ANSWERS}
        questions = table(Path(tasks), "test", fields_of_item)
        more_data = f"  {name}-items:\n    path: {in_yaml(str(Path(tasks).resolve()))}\n{_lines(questions)}"
        more.append(_task(name, questions))
        notes += questions.unread()
    else:
        raise UserError(
            f"--tasks: {one_of(tasks, catalog.suites, 'suite')}; or a task of lm-eval, or a file of questions"
        )
    length = _length(model, catalog)
    fields = {"name": name, "key": in_yaml(name), "model": model_id, "items": items, "suite": suite, "length": length}
    fields |= {"train": in_yaml(str(train.resolve())), "columns": columns, "more_data": more_data}
    shown = {"train": train.name, "shown": Path(model).name}
    return Texts(EXPERIMENT.format(**fields | shown), CATALOG.format(**fields, more="\n" + "\n".join(more)), notes)


def _source_of(model: str, catalog: Any) -> dict[str, Any]:
    """The source of a model that the catalog doesn't have. Raises UserError for no folder, GGUF file or hub id."""
    from sbora_bench.plan.entry import BELOW
    from sbora_bench.plan.model_entry import hub_gguf

    path = Path(model)
    if path.is_dir():
        return {"kind": "folder", "path": str(path.resolve())}
    if path.is_file() and model.endswith(".gguf"):
        return {"kind": "gguf", "path": str(path.resolve())}
    if re.fullmatch(BELOW, model) and model.count("/") == 1:
        return {"kind": "hub", "id": model, "revision": "main"}
    if of_hub := hub_gguf(model):
        return of_hub.model_dump(exclude={"gated"})
    raise UserError(f"--model: {one_of(model, catalog.models, 'model')}; or a folder, a GGUF file, or a hub id")


def in_yaml(value: Any) -> str:
    """A text, or a mapping of texts, on one line of YAML; what YAML would read as another kind of value in quotes."""
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=math.inf)
    return written.removesuffix("...\n").strip()


def _length(model: str, catalog: Any) -> int:
    """Tokens of a training row at most: LENGTH, or as many as the model has positions, where that is known and less."""
    from sbora_bench.inputs.models.config import positions_of
    from sbora_bench.inputs.models.sources import named_source

    try:
        positions = positions_of(named_source(catalog, model).values())
    except UserError:  # not at hand: raised where it is needed
        return LENGTH
    return min(LENGTH, positions or LENGTH)


def _lines(rows: Table) -> str:
    """Of a data entry, after the path: the split of a folder with several, and columns that have other names."""
    split = f"    split: {rows.split}\n" if rows.split else ""
    renamed = any(field != column for field, column in rows.mapped.items())
    return split + (f"    columns: {in_yaml(rows.mapped)}\n" if renamed else "")


def _task(name: str, questions: Table) -> str:
    """A task over a file of questions: a number where all answers are, else one of few labels.

    Raises UserError where they are neither, and for a question without an answer.
    """
    column = questions.mapped["answer"]
    for index, row in enumerate(questions.rows):
        answer = row.get(column) if isinstance(row, dict) else None
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise UserError(
                f"{questions.path}: {questions.place(index)}: {column}: found {answer!r:.80}, allowed the right answer,"
                " a text or a number; give the question one, or leave it out"
            )
    answers = list(dict.fromkeys(str(row[column]) for row in questions.rows))
    if all(re.fullmatch(r"-?[\d,]*\.?\d+", answer) for answer in answers):
        template, rule = "number", "last-number"
    elif len(answers) <= LABELS:
        alike: dict[str, str] = {}
        for answer in answers:
            if (other := alike.setdefault(answer.strip().casefold(), answer)) != answer:
                raise UserError(
                    f"{questions.path}: {column}: found {other!r} and {answer!r}, which would be two labels; write them"
                    " alike"
                )
        labels = "|".join(re.escape(answer) for answer in sorted(answers, key=len, reverse=True))
        template, rule = "choice", f"(?<!{WORD})(?:{labels})(?!{WORD})"  # "no" is not read out of "know"
    else:
        raise UserError(
            f"--tasks: found {len(answers)} different answers that are no numbers, allowed are numbers or up to"
            f" {LABELS} labels; write a task of your own (docs/own.md, A task and its metric)"
        )
    rules, title = in_yaml({"official": rule, "strict": rule}), in_yaml(name)
    return (
        f"tasks:\n  {name}-task:\n    title: {title}\n    template: {template}\n    answer: {rules}\n"
        f"    items: {{own: {name}-items}}\n\nsuites:\n  {name}-suite:\n    title: {title}\n    tasks: [{name}-task]\n"
    )


def _items_of(catalog: Any, suite: str) -> str:
    """Which items of a suite's tasks there are: the paper's where all tasks have those."""
    tasks = [catalog.tasks[task] for task in catalog.suites[suite].tasks]
    item_sets = [set(task.items) for task in tasks if not task.lm_eval]
    common = set.intersection(*item_sets) if item_sets else {"own"}  # lm-eval's own have theirs
    if not common:
        raise UserError(f"--tasks: the tasks of {suite} have no set of items in common")
    return "paper" if "paper" in common else sorted(common)[0]
