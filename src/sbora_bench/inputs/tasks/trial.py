"""A task tried on a few items before anything is trained: built by lm-eval, answered as if right, scored, averaged."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line, one_of
from sbora_bench.inputs.tasks.local import local_task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

ITEMS = 4  # of which a task is tried on, beyond its solved examples
SCORED = ("generate_until", "multiple_choice", "loglikelihood")


def try_task(config: dict[str, Any], items: list[dict[str, Any]], metrics: Iterable[str] = ()) -> None:
    """Raise UserError where lm-eval can't build the task on the first items, or can't score what is answered.

    `config`: of lm-eval; `items`: as prepare writes them; `metrics`: those of the catalog's entry, the first the score.
    """
    where = f"catalog: tasks.{config['task']}.template"
    if config.get("output_type", "generate_until") not in SCORED:
        raise UserError(f"{where}: output_type: found {config['output_type']!r}, allowed {', '.join(SCORED)}")
    shots = 0 if (config.get("fewshot_config") or {}).get("samples") else config.get("num_fewshot", 0)
    if len(items) <= shots:
        raise UserError(
            f"{where}: num_fewshot: found {shots}, and there are {len(items)} items, of which one is the question;"
            " lower it, or give fewshot_config samples"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task = local_task(config, items[: shots + ITEMS])
    try:
        task.build_all_requests()
        _answer(task)
        task.apply_filters()
        values = _scored(task)
    except Exception as error:  # whatever a template's expressions, filters and metrics raise
        raise UserError(f"{where}: lm-eval can't score its first items: {in_a_line(error)}") from None
    for metric in metrics:
        if metric not in values:
            raise UserError(
                f"catalog: tasks.{config['task']}.metrics: {one_of(metric, values, 'metric of the template')}"
            )
    metric = next(iter([*metrics, *task.aggregation()]))
    value = values.get(metric, [None])[0]
    if not isinstance(value, bool | int | float) and not hasattr(value, "__float__"):
        raise UserError(
            f"{where}: metric_list: {metric} gives no number for an item (found {type(value).__name__}), so no item can"
            " be marked and no spread be given; put a metric first that does, as exact_match, acc or acc_norm"
        )


def _answer(task: "ConfigurableTask") -> None:
    """Give each request the response that is right."""
    for request in task.instances:
        if task.OUTPUT_TYPE == "generate_until":
            target = task.doc_to_target(request.doc)
            choices = task.config.doc_to_choice and task.doc_to_choice(request.doc)
            if isinstance(target, list):
                target = target[0]
            elif choices and isinstance(target, int):
                target = choices[target]
            request.resps.append(str(target))
        else:
            request.resps.append((-1.0 - request.idx, request.idx == 0))


def _scored(task: "ConfigurableTask") -> dict[str, list[Any]]:
    """Metric -> its value of each item. Raises whatever lm-eval does, also in taking the average."""
    by_item: dict[int, list] = {}
    for request in task.instances:
        by_item.setdefault(request.doc_id, []).append(request)
    values: dict[str, list[Any]] = {}
    for requests in by_item.values():
        responses = [next(iter(request.filtered_resps.values())) for request in requests]
        for metric, value in task.process_results(requests[0].doc, responses).items():
            values.setdefault(metric, []).append(value)
    for metric, average in task.aggregation().items():
        if metric not in values:
            raise ValueError(f"metric {metric} is not computed for {task.OUTPUT_TYPE}")
        try:
            float(average(values[metric]))
        except Exception as error:
            raise ValueError(f"metric {metric}: {error}") from error
    return values
