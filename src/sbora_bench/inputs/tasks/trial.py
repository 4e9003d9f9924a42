"""A task tried on a few items before anything is trained: built by lm-eval, answered as if right, scored, averaged."""

import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line, one_of
from sbora_bench.inputs.data.lm_eval_own import check_names
from sbora_bench.inputs.data.lm_eval_tasks import no_choice
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.inputs.tasks.named_columns import check_choices, check_columns, is_constant
from sbora_bench.plan.metric import SHARE, Metric

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

ITEMS = 4  # of which a task is tried on, beyond its solved examples
HALF = " perhaps"  # behind a right answer, which is half right then
VALUES = " (values from 0 to 1: metrics: {token_f1: {items: values}})"
SCORED = ("generate_until", "multiple_choice", "loglikelihood")


def try_task(config: dict[str, Any], items: list[dict[str, Any]], metrics: Mapping[str, Metric] | None = None) -> None:
    """Raise UserError where lm-eval can't put the items as questions, or can't score what is answered to the first.

    `config`: of lm-eval; `items`: as prepare writes them; `metrics`: those of the catalog's entry, the first the score.
    """
    named = config.get("lm_eval")
    where = f"lm_eval {named['lm_eval']}" if named else f"catalog: tasks.{config['task']}.template"
    if config["output_type"] not in SCORED:
        raise UserError(f"{where}: output_type: found {config['output_type']!r}, allowed {', '.join(SCORED)}")
    shots = 0 if (config.get("fewshot_config") or {}).get("samples") else config.get("num_fewshot", 0)
    if len(items) <= shots:
        raise UserError(
            f"{where}: num_fewshot: found {shots}, and there are {len(items)} items, of which one is the question;"
            " lower it, or give fewshot_config samples"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if not named:  # lm-eval's own are as they are
        from sbora_bench.inputs import lm_eval_plugins  # noqa: F401  (registers ours)

        check_names(config, where)
        check_columns(config, items, where)
        _check_questions(local_task(config, items), {column for item in items for column in item}, where)
    elif named["include_path"]:
        check_columns(config, [json.loads(item["doc"]) for item in items], where)
    task = local_task(config, items[: shots + ITEMS])
    try:
        _answer(task)
        values = _scored(task)
    except Exception as error:  # whatever a template's expressions, filters and metrics raise
        raise UserError(f"{where}: lm-eval can't score its first items: {in_a_line(error)}") from None
    place = f"{where}: metrics" if named else f"catalog: tasks.{config['task']}.metrics"
    for metric in metrics or ():
        if metric not in values:
            raise UserError(f"{place}: {one_of(metric, values, 'metric of the template')}")
    for metric in task.aggregation():
        if metric not in values:
            raise UserError(f"{where}: metric_list: {metric} is not computed for {task.OUTPUT_TYPE}; take it out")
    scores = metrics or {next(iter(task.aggregation())): SHARE}
    for metric, measured in scores.items():
        _check_metric(task, metric, measured, values[metric][0], where)
    _average(task, values, where)
    if task.OUTPUT_TYPE == "generate_until":
        half = local_task(config, items[: shots + ITEMS])
        _answer(half, HALF)
        with suppress(Exception):  # a metric may take right answers alone
            values = {name: values[name] + half_right for name, half_right in _scored(half).items()}
    for metric, measured in scores.items():
        _check_values(task, metric, measured, values[metric])


def _check_questions(task: "ConfigurableTask", columns: set[str], where: str) -> None:
    """Raise UserError, naming the item, where its prompt, its choices or its answer can't be made."""
    for doc in task.test_docs():
        try:
            task.doc_to_text(doc)
            target = task.doc_to_target(doc)
            choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None
        except Exception as error:
            raise UserError(f"{where}: item {doc['id']} can't be put as a question: {in_a_line(error)}") from None
        if choices is None:
            continue
        check_choices(choices, f"{where}: doc_to_choice: item {doc['id']}")
        if problem := no_choice(target, choices):
            text = task.config.doc_to_target
            typo = isinstance(text, str) and is_constant(text, columns)
            column = f"; or a column: {one_of(text, columns, 'column')}" if typo else ""
            raise UserError(f"{where}: doc_to_target: item {doc['id']}: found {problem}{column}")


def _check_metric(task: "ConfigurableTask", name: str, measured: Metric, value: Any, where: str) -> None:
    """Raise UserError where a score can't be the mean of this metric over the items, or is better the other way."""
    from lm_eval.api.metrics import mean

    if not isinstance(value, bool | int | float) and not hasattr(value, "__float__"):
        raise UserError(
            f"{where}: metric_list: {name} gives no number for an item (found {type(value).__name__}): it is counted"
            " over all items at once, so no item can be marked and no spread be given; put a metric first that does, as"
            f" exact_match, acc, acc_norm or token_f1{VALUES}"
        )
    if task.aggregation()[name] is not mean:
        raise UserError(
            f"{where}: metric_list: {name}: aggregation: allowed is mean: a score is the mean of its items, from which"
            " it is counted again and two runs are compared; say aggregation: mean, or put another metric first"
        )
    if task.higher_is_better().get(name, True) not in (measured.higher_is_better, None):
        wanted = "false" if measured.higher_is_better else "true"
        raise UserError(
            f"catalog: tasks.{task.config.task}.metrics.{name}: higher_is_better: the template says {wanted}; give the"
            f" entry metrics: {{{name}: {{higher_is_better: {wanted}}}}}"
        )


def _check_values(task: "ConfigurableTask", name: str, measured: Metric, values: list[Any]) -> None:
    """Raise UserError for an item's value that its metric doesn't allow, as scoring would after the training."""
    where = f"catalog: tasks.{task.config.task}.metrics.{name}: an item"
    for value in map(float, values):
        if measured.right_or_wrong and value not in (0, 1):
            raise UserError(
                f"{where}: found {value:.2g}, allowed 0 or 1; for other values give the entry metrics:"
                f" {{{name}: {{items: values}}}}"
            )
        written = task.OUTPUT_TYPE == "generate_until"  # of the others the likelihoods are made up
        if written and math.isfinite(value) and not measured.contains(value):
            raise UserError(f"{where}: found {value:g}, allowed from {measured.low} to {measured.high}; correct these")


def _answer(task: "ConfigurableTask", more: str = "") -> None:
    """Make a task's requests, give each the right response, with `more` behind one that is written, and filter."""
    task.build_all_requests()
    for request in task.instances:
        if task.OUTPUT_TYPE == "generate_until":
            target = task.doc_to_target(request.doc)
            choices = task.config.doc_to_choice and task.doc_to_choice(request.doc)
            if isinstance(target, list):
                target = target[0]
            elif choices and isinstance(target, int):
                target = choices[target]
            request.resps.append(f"{target}{more}")
        else:
            request.resps.append((-1.0 - request.idx, request.idx == 0))
    task.apply_filters()


def _scored(task: "ConfigurableTask") -> dict[str, list[Any]]:
    """Metric -> its value of each item. Raises whatever lm-eval does."""
    by_item: dict[int, list] = {}
    for request in task.instances:
        by_item.setdefault(request.doc_id, []).append(request)
    values: dict[str, list[Any]] = {}
    for requests in by_item.values():
        responses = [next(iter(request.filtered_resps.values())) for request in requests]
        if task.OUTPUT_TYPE == "generate_until" and not isinstance(responses[0], str):
            raise ValueError(f"the filters leave a {type(responses[0]).__name__} of an item; end them with take_first")
        for metric, value in task.process_results(requests[0].doc, responses).items():
            values.setdefault(metric, []).append(value)
    return values


def _average(task: "ConfigurableTask", values: dict[str, list[Any]], where: str) -> None:
    """Raise UserError where lm-eval can't take the average of a metric, those beside the score too."""
    for metric, average in task.aggregation().items():
        try:
            float(average(values[metric]))
        except Exception as error:
            raise UserError(f"{where}: metric_list: {metric} can't be averaged: {in_a_line(error)}") from None
