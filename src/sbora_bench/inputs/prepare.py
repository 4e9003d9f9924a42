"""`sbora-bench prepare`: what a table trains on and is scored on, and a model's weights, checked and in one form.

    sbora-bench prepare --experiment ladder --table arithmetic --output results/ladder/data/arithmetic
    sbora-bench prepare --experiment smollm2 --model smollm2-135m --output resources/models/smollm2-135m

Environment: SBORA_DATA_ROOT (data/sources.py), SBORA_MODEL_<ID> (models/fetch.py), HF_HUB_OFFLINE, HF_TOKEN, HF_HOME.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, sha256, whole_folder, write_jsonl
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.data.chat import ARGUMENTS, MESSAGES
from sbora_bench.inputs.data.contamination import asked_in, trained_questions
from sbora_bench.inputs.data.examples import FIELDS, Example, check_subjects
from sbora_bench.inputs.data.prompts import Prompt, prompt_of, prompt_of_items
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.inputs.held_out import held_out
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.data_entries import SyntheticData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.settings import data_settings, own_data_hashes
from sbora_bench.results.folders import CONTAMINATION, VALIDATION
from sbora_bench.results.records import ContaminationRecord, TaskData, write_record


class Columns(NamedTuple):
    """Which columns a task's rows have beside those that every template reads.

    `whole`: the fields that the prompt is made of, for a template of one's own; `gold`: the answer in full, and a
    choice's labels, whose likelihood is taken.
    """

    whole: bool = False
    gold: bool = False


PLAIN = Columns()
NO_LABELS = (
    "its question doesn't name the labels that its answer is one of (Answer format: a/b), and answer_by: likelihood"
    " takes the likeliest; name them, or say answer_by: generation"
)


def prepare_table(plan: Plan, table: str, output: Path) -> None:
    """Write the folder of a table: `train.jsonl`, one `<task>.jsonl` a task and `contamination.json`.

    Where the table picks a learning rate, `validation/` holds the same of training rows that are held out for it.
    Rows of training: prompt, response. Rows of a task: id (index in the source), prompt, answer, contaminated, and
    for MMLU subject. Raises UserError where data are missing (unless the table skips such tasks) or not what the
    catalog says; nothing is written then.
    """
    entry, protocol = plan.table(table, f"{plan.path}: tables"), plan.protocol(table)
    training = read_examples(entry.train, plan.catalog.data[entry.train])
    prompts = {task: plan.protocol(table, suite).score_prompt for task, suite in plan.scored(table).items()}
    with whole_folder(output) as folder:
        train = folder / "train.jsonl"
        held = _hold_out(plan, table, training) if entry.learning_rates else {}
        held_indices = {index for indices in held.values() for index in indices}
        trained_on = [example for index, example in enumerate(training) if index not in held_indices]
        prompt = prompt_of(plan.catalog, protocol.train_prompt)
        write_jsonl(train, [training_row(example, prompt) for example in trained_on])
        questions = trained_questions(training)
        tasks = {
            task: _prepare_task(plan, table, task, name, prompts[task], questions, folder)
            for task, name in plan.items(table).items()
        }
        if all(task.status != "ok" for task in tasks.values()):
            raise UserError(
                f"{plan.path}: tables.{table}: no task's items can be obtained; {next(iter(tasks.values())).reason}"
            )
        record = ContaminationRecord(
            experiment=plan.name,
            table=table,
            train=entry.train,
            train_rows=len(trained_on),
            train_sha256=sha256(train),
            policy=entry.contaminated,
            settings_sha256=hash_of(data_settings(plan, table)),
            own_data=own_data_hashes(plan, table),
            tasks=tasks,
        )
        write_record(folder / CONTAMINATION, record)
        if held:
            validation = folder / VALIDATION
            of_held = {
                task: _write_held(plan, table, task, prompts[task], training, indices, validation)
                for task, indices in held.items()
            }
            record = record.model_copy(update={"policy": "keep", "tasks": of_held})
            write_record(validation / CONTAMINATION, record)


def prepare_model(catalog: Catalog, model: str, output: Path, experiment: str = "") -> None:
    """Write the folder of a base model: config, safetensors, tokenizer and `base.json` (models/fetch.py).

    Raises UserError for an unknown model, for one that is pre-trained here, and for weights that can't be obtained.
    """
    entry = catalog.find("models", model, "prepare")
    from sbora_bench.inputs.models.fetch import fetch_model

    fetch_model(model, entry, output, experiment)


def _prepare_task(
    plan: Plan, table: str, task: str, name: str, template: str, trained_on: frozenset[str], folder: Path
) -> TaskData:
    """Write the items of one task that the table scores."""
    path, entry = folder / f"{task}.jsonl", plan.experiment.tables[table]
    try:
        return prepare_items(
            plan.catalog,
            name,
            template,
            trained_on,
            path,
            entry.limit.get(task),
            entry.limit_seed,
            entry.contaminated,
            _columns(plan, table, task),
            plan.fresh_seeds(table),
        )
    except Unreachable as error:
        if entry.missing == "fail":
            raise
        return TaskData(status="not available", reason=f"{error.address} is not at hand", source=name)


def _columns(plan: Plan, table: str, task: str) -> Columns:
    return Columns(plan.catalog.tasks[task].own_template() is not None, plan.gold(table))


def _hold_out(plan: Plan, table: str, training: list[Example]) -> dict[str, list[int]]:
    """Task -> the training rows that are held out for it."""
    entry = plan.experiment.tables[table]
    configs = {task: config_in(plan, table, task) for task in plan.tasks(table)}
    return held_out(configs, training, entry.validation_items, entry.limit_seed)


def _write_held(
    plan: Plan, table: str, task: str, template: str, training: list[Example], held: list[int], folder: Path
) -> TaskData:
    """Write held-out training rows as a task's items; an id is the row's place in the training set."""
    train, path = plan.experiment.tables[table].train, folder / f"{task}.jsonl"
    if not held:
        return TaskData(status="not available", reason="no held-out row is of this task", source=train)
    prompt, columns = prompt_of(plan.catalog, template), _columns(plan, table, task)
    write_jsonl(path, [task_row(i, training[i], prompt, False, columns) for i in held])
    return TaskData(source=train, sha256=sha256(path), available=len(held), n=len(held))


def prepare_items(
    catalog: Catalog,
    name: str,
    template: str,
    trained_on: frozenset[str] | None,
    path: Path,
    limit: int | None = None,
    seed: int = 0,
    policy: str = "keep",
    columns: Columns = PLAIN,
    fresh_seeds: Sequence[int] = (),
) -> TaskData:
    """Write the items of the data entry `name` that are scored to `path`, JSON lines; their counts and hash.

    `trained_on`: the questions of the training set; without one, `contaminated` is null: nobody knows. `fresh_seeds`:
    items are made anew for each, whose rows have it as `seed`.
    """
    rows: list[dict[str, Any]] = []
    held, available = [], 0
    prompt = prompt_of_items(catalog, name, template)
    seeds: Sequence[int | None] = fresh_seeds or [None]
    for fresh in seeds:
        source, items = read_reachable(catalog, name, fresh)
        check_subjects(items, f"data {source}")
        in_training = [] if trained_on is None else asked_in(items, trained_on)
        of_seed = {} if fresh is None else {"seed": fresh}
        for index in choose(len(items), in_training, policy, limit, seed):
            is_contaminated = None if trained_on is None else index in in_training
            rows.append(task_row(available + index, items[index], prompt, is_contaminated, columns) | of_seed)
        held += [available + index for index in in_training]
        available += len(items)
    write_jsonl(path, rows)
    return TaskData(source=source, sha256=sha256(path), available=available, contaminated=held, n=len(rows))


def read_reachable(catalog: Catalog, name: str, fresh: int | None = None) -> tuple[str, list[Example]]:
    """(data entry, its examples): the named one or, where that can't be obtained, the one that it names in its place.

    `fresh`: a run's seed, which is added to that of synthetic data. Raises Unreachable, naming both, where neither can
    be obtained.
    """
    entry = catalog.data[name]
    if fresh is not None and isinstance(entry, SyntheticData):
        entry = entry.model_copy(update={"seed": entry.seed + fresh})
    try:
        return name, read_examples(name, entry)
    except Unreachable as missing:
        other = getattr(entry, "otherwise", None)
        if other is None:
            raise
        try:
            return other, read_examples(other, catalog.data[other])
        except Unreachable as error:
            raise Unreachable(f"{missing}; nor {error}", missing.address) from None


def choose(available: int, in_training: list[int], policy: str, limit: int | None, seed: int) -> list[int]:
    """Which of `available` items are scored, in the order of the source: contaminated ones go first (policy drop),
    then a seeded draw takes `limit` of the rest."""
    dropped = set(in_training) if policy == "drop" else set()
    chosen = [index for index in range(available) if index not in dropped]
    if limit is not None and limit < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, limit))
    return chosen


def training_row(example: Example, prompt: Prompt) -> dict[str, Any]:
    """A row of a training set."""
    return prompt.columns(example) | {"response": example["output"]}


def task_row(
    index: int, example: Example, prompt: Prompt, in_training: bool | None, columns: Columns = PLAIN
) -> dict[str, Any]:
    """A row of a task: what every template reads, and the other columns of the source.

    Raises UserError where a template of one's own would read one of these and find the harness's own of that name.
    """
    made = {"id": index, **prompt.columns(example), "answer": example["answer"], "contaminated": in_training}
    if columns.gold:
        made |= {"gold": example["output"]} | labels_of(example)
    ours = {ARGUMENTS} | ({"gold", "labels"} if columns.gold else set()) | ({MESSAGES} & made.keys())
    if columns.whole and (taken := sorted(ours & example.keys())):
        raise UserError(
            f"item {index}: column {taken[0]}: the harness writes its own of that name, which a template can't tell"
            " from it; rename it"
        )
    return {key: example[key] for key in example if key not in ours and (columns.whole or key not in FIELDS)} | made


def label_place(text: str, label: str) -> int | None:
    """Where a label stands last in a text, as a word of its own if it does anywhere; None where it stands nowhere."""
    words = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", text)]
    place = words[-1] if words else text.rfind(label)
    return None if place < 0 else place


def labels_of(example: Example) -> dict[str, list[str]]:
    """The labels that a question of LLM-Adapters names, where its answer is one of them; else nothing."""
    formats = re.findall(r"Answer format: (\S+)", example["instruction"])
    labels = formats[-1].split("/") if formats else []
    return {"labels": labels} if example["answer"] in labels else {}
