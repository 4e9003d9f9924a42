"""Score runs on their suite with lm-eval: `sbora-bench evaluate RUN...`.

Each run leaves `samples/<task>.jsonl` and `scores.json`; where its table picks a learning rate, the same again of the
held-out training rows in `validation/`. The base is loaded anew for each run, so a run's bytes do not depend on which
others share the process.
"""

import gc
import logging
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench import progress, provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import hash_of, read_jsonl, sha256, write_jsonl
from sbora_bench.heavy_imports import settle
from sbora_bench.inputs.data.chat import written_out
from sbora_bench.inputs.models.host import host_adapter
from sbora_bench.inputs.models.load import load_adapter, load_base, load_tokenizer, positions_of, prepared_for
from sbora_bench.inputs.models.logits import Comparison
from sbora_bench.inputs.models.scored_rows import by_memory
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.data_entries import Answering
from sbora_bench.plan.experiment import Plan, Run
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results import store
from sbora_bench.results.aggregate import (
    CUT,
    clean_mean,
    cut_prompts,
    gold_means,
    macro_average,
    mean_loss,
    mean_of,
    other_means,
)
from sbora_bench.results.folders import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONTAMINATION,
    MODEL_CARD,
    SCORES,
    TRAINING,
    VALIDATION,
    run_folder,
    samples_file,
    scored_parts,
)
from sbora_bench.results.other_settings import other_setting
from sbora_bench.results.records import (
    ContaminationRecord,
    ScoresRecord,
    TaskData,
    TaskScore,
    TrainRecord,
    read_record,
    record_at,
    write_record,
)
from sbora_bench.results.table_data import table_data

if TYPE_CHECKING:
    import torch
    from lm_eval.api.task import ConfigurableTask

    from sbora_bench.score.lm_eval_model import Scorer


class WrongValue(UserError):
    """What an item's metric gave is none that its entry allows; another run's items may all be within."""


def evaluate(plan: Plan, runs: list[Run], resources: Path, results: Path) -> None:
    """Score `runs`, one after the other; a finished one is taken from the store.

    A run whose scoring crashes leaves a `scores.json` that says so, and doesn't stop the others.
    """
    for run in runs:
        try:
            identity = hash_of(depends_on(plan, run, resources, results))
            folder = store.entry_folder(results, run.name, "evaluate", identity)
            if not store.is_whole(folder):
                _score_or_tell(plan, run, resources, results, folder)
            store.take(folder, run_folder(results, run))
        finally:
            gc.collect()  # a model's cycles hold its memory until then


def _score_or_tell(plan: Plan, run: Run, resources: Path, results: Path, folder: Path) -> None:
    """Make the store's entry `folder` of a run: its scores, or why there are none."""
    try:
        with store.new_entry(folder) as made:
            score_run(plan, run, resources, results, made)
    except Exception as error:
        explained = isinstance(error, WrongValue)
        if isinstance(error, UserError) and not explained:
            raise
        if not explained:
            traceback.print_exc()
        reason = str(error) if explained else in_a_line(error)
        print(f"{run.name}: failed: {reason}", file=sys.stderr, flush=True)
        with store.new_entry(folder) as made:
            score_run(plan, run, resources, results, made, f"scoring: {reason}")


def depends_on(plan: Plan, run: Run, resources: Path, results: Path) -> dict[str, Any]:
    """All that a run's scores depend on, as JSON. Raises UserError where a part of it is missing."""
    data, adapter = table_data(plan, results, run.table), adapter_folder(plan, results, run)
    contamination = read_record(data / CONTAMINATION, ContaminationRecord)
    held = {}
    if VALIDATION in scored_parts(plan, run):
        record = read_record(data / VALIDATION / CONTAMINATION, ContaminationRecord)
        held = {"validation": {task: entry.model_dump(mode="json") for task, entry in record.tasks.items()}}
    return held | {
        "settings": plan.settings(run),
        "code": code_hash("sbora_bench.score.evaluate"),
        "packages": provenance.versions(),
        "templates": task_configs(plan, run.table),
        "data": {task: entry.model_dump(mode="json") for task, entry in contamination.tasks.items()},
        "base": prepared_for(plan, run.model, resources),
        "training": training_failure(results, run),
        "adapter": {
            path.name: sha256(path) for path in sorted(adapter.iterdir()) if path.is_file() and path.name != MODEL_CARD
        }
        if adapter
        else None,
    }


def adapter_folder(plan: Plan, results: Path, run: Run) -> Path | None:
    """The run's adapter; None for the untuned base and for a run whose training failed.

    Raises UserError where there is none, where `train.json` says that it was trained under other settings, and where a
    file differs from the SHA-256 that stands there.
    """
    if run.is_base or training_failure(results, run):
        return None
    folder = run_folder(results, run) / ADAPTER
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: no adapter here; make it with: {plan.command('finetune', run.name)}")
    record = training_record(results, run)
    if record is not None and record.asked != plan.training_settings(run):
        reason = other_setting(record.asked, plan.training_settings(run))
        raise UserError(
            f"{folder.parent / TRAINING}: {reason}; train it again with: {plan.command('finetune', run.name)}"
        )
    for name, expected in (record.happened.adapter_sha256 if record else {}).items():
        digest = sha256(folder / name) if (folder / name).is_file() else "no file"
        if digest != expected:
            raise UserError(
                f"{folder / name}: SHA-256 {digest}, train.json says {expected}: damaged; delete {folder.parent} and"
                " run the experiment again"
            )
    return folder


def training_record(results: Path, run: Run) -> TrainRecord | None:
    """How the run was trained; None for the untuned base, and for an adapter from elsewhere."""
    return None if run.is_base else record_at(run_folder(results, run) / TRAINING, TrainRecord)


def training_failure(results: Path, run: Run) -> str:
    """Why the run's training failed, as its `train.json` tells; empty where it did not."""
    record = training_record(results, run)
    return record.reason or "training failed" if record is not None and record.status == "failed" else ""


def task_configs(plan: Plan, table: str) -> dict[str, dict[str, Any]]:
    """Task -> its lm-eval configuration, of all that a table scores."""
    return {task: config_in(plan, table, task) for task in plan.scored(table)}


def score_run(plan: Plan, run: Run, resources: Path, results: Path, made: Path, failure: str = "") -> None:
    """Score one run into the folder `made`: `samples/<task>.jsonl` for every task, then `scores.json`;
    before that the held-out training rows into `validation/`, where the table picks a learning rate by them.

    `failure`: why there is nothing to score; a failed training is one too.
    """
    protocol, catalog = plan.protocol(run.table), plan.catalog
    data = table_data(plan, results, run.table)
    failure = failure or training_failure(results, run)
    method = None if run.is_base else catalog.methods[run.method]

    @cache
    def scorer() -> "Scorer":
        return load_scorer(
            catalog, run.model, resources, protocol, method, adapter_folder(plan, results, run), run.seed or 0
        )

    table, configs = plan.experiment.tables[run.table], task_configs(plan, run.table)
    own = {task: configs[task] for task in plan.tasks(run.table)}
    metrics = {task: catalog.tasks[task].metrics for task in configs}
    for part in scored_parts(plan, run):
        to_ask = own if part == VALIDATION else configs
        task_data = read_record(data / part / CONTAMINATION, ContaminationRecord).tasks
        of_seed = run.seed if table.fresh_items and not part else None
        scores = score_tasks(
            to_ask,
            metrics,
            task_data,
            data / part,
            protocol,
            scorer,
            run.name,
            made / part,
            failure,
            {task: plan.answer_by(run.table, task) for task in to_ask} if plan.gold(run.table) else None,
            of_seed,
        )
        record = ScoresRecord(
            **{key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")},
            experiment=plan.name,
            run=run.name,
            status="failed" if failure else "ok",
            reason=failure,
            suite=table.suite,
            train=None if run.is_base else table.train,
            protocol=table.protocol,
            settings_sha256=plan.settings_hash(run),
            algorithms=provenance.algorithms() if any(score.status == "ok" for score in scores.values()) else "",
            model_check=scorer().model_check if any(score.status == "ok" for score in scores.values()) else None,
            tasks=scores,
        )
        write_record(made / part / SCORES, record)


def score_tasks(
    configs: dict[str, dict],
    metrics: dict[str, dict[str, Metric]],
    task_data: dict[str, TaskData],
    data: Path,
    protocol: Protocol,
    load: Callable[[], Any],
    label: str,
    made: Path,
    failure: str = "",
    answered: Mapping[str, Answering] | None = None,
    seed: int | None = None,
) -> dict[str, TaskScore]:
    """Task -> its score; `samples/<task>.jsonl` in `made` for each.

    `configs`: of lm-eval; `metrics`: of a task by name, the first the score; `task_data`: what `data` holds of each;
    `load` gives the model (a Scorer) once a task needs it; `failure`: why there is none, every score says so but those
    of tasks without items.
    `answered`: of a task whose items have a gold answer; `seed`: items made for other seeds are not scored.
    """
    scorer, answered, macro = None, answered or {}, protocol.macro_average
    scores: dict[str, TaskScore] = {}
    for task, config in configs.items():
        entry = task_data[task]
        items = prepared_items(data / f"{task}.jsonl", entry.sha256) if entry.status == "ok" else []
        items = [item for item in items if seed is None or item.get("seed", seed) == seed]
        rows: list[dict] = []
        if not items:
            reason = entry.reason or "no item is left to score"
            score = TaskScore(status="not available", reason=reason)
        elif failure:
            score = TaskScore(status="failed", reason=failure)
        else:
            scorer = scorer or load()
            scorer.label = f"{label} {task}"
            items = written_out(scorer.tokenizer, items)
            with progress.loop("evaluate", label, task=task, step=len(scores), steps=len(configs), items=len(items)):
                score, rows = score_items(scorer, config, items, macro, metrics[task], answered.get(task))
        samples = samples_file(made, task)
        write_jsonl(samples, rows)
        scores[task] = score.model_copy(update={"samples_sha256": sha256(samples)})
    return scores


def prepared_items(path: Path, expected: str) -> list[dict]:
    """The items of a task, checked against the SHA-256 that contamination.json gives, if it gives one.

    Raises UserError where the file has another.
    """
    items = read_jsonl(path)
    if expected and sha256(path) != expected:
        raise UserError(
            f"{path}: SHA-256 {sha256(path)}, expected {expected} (contamination.json); delete {path.parent} and"
            " prepare it again"
        )
    return items


def load_scorer(
    catalog: Catalog,
    name: str,
    resources: Path,
    protocol: Protocol,
    method: MethodEntry | None,
    adapter: Path | None,
    seed: int,
) -> "Scorer":
    """A prepared model, with the adapter of a folder on it, as lm-eval asks it: threads and precision by the protocol.

    `method` says how the base is quantised. Raises WrongModel where the model is not the one that was trained.
    """
    settle("peft", "lm_eval.evaluator", "lm_eval.models.huggingface", "datasets")
    import torch
    from transformers import GenerationConfig, set_seed

    from sbora_bench.score.lm_eval_model import Scorer

    torch.set_num_threads(protocol.threads)
    provenance.use_deterministic_algorithms()
    set_seed(seed)
    tokenizer = load_tokenizer(resources, name, protocol, catalog.models[name].pad_token)
    model = load_base(resources, name, protocol, method, tokenizer)
    model.generation_config = GenerationConfig()  # decoding is the protocol's alone
    comparison = None
    if adapter is not None:
        comparison = Comparison(model, adapter)
        model = host_adapter(load_adapter(model, adapter, protocol.merge), protocol)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    length = min(protocol.score_max_length, room_of(model))
    batch, rows_at = (1, by_memory(model)) if protocol.score_batch == "auto" else (protocol.score_batch, None)
    scorer = Scorer(model, tokenizer, batch, length, protocol.shared_prefixes, rows_at)
    if comparison is not None:
        scorer.model_check = comparison.check(model, protocol, method)
    return scorer


def room_of(model: "torch.nn.Module") -> int:
    """How many tokens go through the model at most: its positions, without those of an adapter's virtual tokens."""
    positions = positions_of(model)
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0
    return sys.maxsize if positions is None else positions - virtual


def score_items(
    scorer: "Scorer",
    config: dict,
    items: list[dict],
    macro: bool,
    metrics: dict[str, Metric],
    answered: Answering | None,
) -> tuple[TaskScore, list[dict]]:
    """What `score_task` gives, and beside it the likelihood of the gold answer where there is one; or that alone,
    where the task is not answered as its template has it. `answered` is None where the gold answer isn't asked.
    """
    if answered is None:
        return score_task(scorer, config, items, macro, metrics)
    from sbora_bench.score.likelihood import by_likelihood, gold_answers

    answers = gold_answers(scorer, items)
    if answered == "template":
        score, rows = score_task(scorer, config, items, macro, metrics)
    else:
        score, rows = by_likelihood(config, items, answers, choice=answered == "label")
    rows = [row | answer for row, answer in zip(rows, answers, strict=True)]
    return score.model_copy(update={"extra": score.extra | gold_means(rows) | cut_prompts(rows)}), rows


def score_task(
    scorer: "Scorer", config: dict, items: list[dict], macro: bool, metrics: dict[str, Metric] | None = None
) -> tuple[TaskScore, list[dict]]:
    """The score of one task and its samples, in the order of the items.

    `items` have id, prompt, answer, contaminated and, for a macro average, subject. The value is lm-eval's mean of the
    first of `metrics`, where there are none of the template's first; where items have subjects and `macro` is set, the
    mean of the subjects' means. Means of the other metrics stand in `extra`. Raises UserError where lm-eval doesn't
    take the template, WrongValue for an item's value that the metric doesn't allow.
    """
    from lm_eval.evaluator import evaluate as run_lm_eval

    task = local_task(config, items)
    name = config["task"]
    described = {key: value for key, value in task.dump_config().items() if key != "custom_dataset"}
    scorer.tokens.clear()
    scorer.cut.clear()
    evaluated = run_lm_eval(
        scorer, {"tasks": {name: task}, "groups": {}}, bootstrap_iters=0
    )  # no 100,000 of each metric
    metrics = metrics or {next(iter(task.aggregation())): SHARE}
    metric, measured = next(iter(metrics.items()))
    examples = sorted(evaluated["samples"][name], key=lambda example: example["doc_id"])
    pipeline = examples[0]["filter"]
    item_values = {other: values_of(name, other, metrics[other], examples) for other in metrics}
    values = item_values.pop(metric)
    value = evaluated["results"][name][f"{metric},{pipeline}"]
    stderr = mean_of(values)[1]
    beside = [dict(zip(item_values, of, strict=True)) for of in zip(*item_values.values(), strict=True)]
    extra = clean_mean(values, items) | other_means(beside)
    if "subject" in items[0]:
        average, spread = macro_average(values, [item["subject"] for item in items])
        extra |= {"micro": float(value), "macro": average}
        if macro:
            value, stderr = average, spread
    answers = [answered(task, example, scorer.tokens) for example in examples]
    if task.OUTPUT_TYPE == "loglikelihood":
        extra |= mean_loss(answers)
    score = TaskScore(
        metric=metric,
        mean_over="subjects" if macro and "subject" in items[0] else "items",
        measured=measured,
        value=float(value),
        stderr=stderr,
        n=len(examples),
        task_version=str(task.VERSION),
        task_hash=hash_of(described),
        extra=extra,
    )
    rows = [
        {
            "id": item["id"],
            "prompt": item["prompt"],
            "answer": item["answer"],
            "contaminated": item["contaminated"],
            **({"correct": value == 1.0} if measured.right_or_wrong else {"value": value}),
            **({"subject": item["subject"]} if "subject" in item else {}),
            **({"metrics": beside[place]} if beside else {}),
            **({CUT: True} if example["arguments"][0][0] in scorer.cut else {}),
            **answer,
        }
        for place, (item, example, value, answer) in enumerate(zip(items, examples, values, answers, strict=True))
    ]
    return score.model_copy(update={"extra": score.extra | cut_prompts(rows)}), rows


def values_of(task: str, name: str, metric: Metric, examples: list[dict]) -> list[float]:
    """The items' values of a metric. Raises WrongValue where there are none, or some that it doesn't allow."""
    where = f"catalog: tasks.{task}.metrics.{name}: an item"
    for example in examples:
        value = example.get(name)
        if not isinstance(value, numbers.Real):
            raise WrongValue(f"{where}: found {value!r}, allowed a number: a score is the mean of its items")
        if metric.right_or_wrong and value not in (0, 1):
            raise WrongValue(f"{where}: found {value:g}, allowed 0 or 1; for other values give it `items: values`")
        if not (math.isfinite(value) and metric.contains(float(value))):
            raise WrongValue(f"{where}: found {value:g}, allowed from {metric.low} to {metric.high}; correct its range")
    return [float(example[name]) for example in examples]


def answered(task: "ConfigurableTask", example: dict, tokens: dict[str, int]) -> dict[str, Any]:
    """What a sample says of the answer: the text, what was extracted, and how many tokens were generated."""
    if task.OUTPUT_TYPE == "loglikelihood":
        likelihood, _ = example["filtered_resps"][0]
        context, continuation = example["arguments"][0]
        return {"loss": -likelihood, "tokens": tokens[context + continuation]}
    if task.OUTPUT_TYPE != "generate_until":
        likelihoods = [likelihood for likelihood, _ in example["filtered_resps"]]
        choice = task.doc_to_choice(example["doc"])[likelihoods.index(max(likelihoods))]
        return {"response": choice, "extracted": choice, "tokens": 1}
    context = example["arguments"][0][0]
    return {
        "response": example["resps"][0][0],
        "extracted": str(example["filtered_resps"][0]),
        "tokens": tokens[context],
    }
