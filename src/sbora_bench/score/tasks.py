"""Tasks scored by lm-eval over prepared items, with a model in memory: a score and its samples each."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from sbora_bench import progress
from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, read_jsonl, sha256, write_jsonl
from sbora_bench.inputs.data.chat import written_out
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.plan.data_entries import Answering
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.aggregate import CUT, cut_prompts, gold_means, of_samples
from sbora_bench.results.folders import samples_file
from sbora_bench.results.records import TaskData, TaskScore

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

    from sbora_bench.score.lm_eval_model import Scorer


class WrongValue(UserError):
    """What an item's metric gave is none that its entry allows; another run's items may all be within."""


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
    item_values = {other: metric_values(name, other, metrics[other], examples) for other in metrics}
    values = item_values.pop(metric)
    mean = float(evaluated["results"][name][f"{metric},{pipeline}"])
    beside = [dict(zip(item_values, of, strict=True)) for of in zip(*item_values.values(), strict=True)]
    answers = [answered(task, example, scorer.tokens) for example in examples]
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
    over = "subjects" if macro and "subject" in items[0] else "items"
    value, stderr, extra = of_samples(rows, over, mean)
    score = TaskScore(
        metric=metric,
        mean_over=over,
        measured=measured,
        value=value,
        stderr=stderr,
        n=len(examples),
        task_version=str(task.VERSION),
        task_hash=hash_of(described),
        extra=extra,
    )
    return score, rows


def metric_values(task: str, name: str, metric: Metric, examples: list[dict]) -> list[float]:
    """The items' values of a metric. Raises WrongValue where there are none, or some that it doesn't allow."""
    where, values = f"catalog: tasks.{task}.metrics.{name}: an item", []
    for example in examples:
        given = example.get(name)
        if not isinstance(given, SupportsFloat):  # NumPy's truth values and PyTorch's numbers have it
            raise WrongValue(f"{where}: found {given!r}, allowed a number: a score is the mean of its items")
        value = float(given)
        if metric.right_or_wrong and value not in (0, 1):
            raise WrongValue(f"{where}: found {value:g}, allowed 0 or 1; for other values give it `items: values`")
        if not (math.isfinite(value) and metric.contains(value)):
            raise WrongValue(f"{where}: found {value:g}, allowed from {metric.low} to {metric.high}; correct its range")
        values.append(value)
    return values


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
