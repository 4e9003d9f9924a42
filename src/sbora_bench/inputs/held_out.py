"""Which training rows are held out to pick a learning rate by, and which task scores each.

A row is scored by the first task of its table's suite that marks the row's own response as right, by that task's own
extraction and metric: so the rate is picked by the very scoring of the table, and never by a test item.
"""

import random
from typing import TYPE_CHECKING

from sbora_bench.errors import UserError
from sbora_bench.inputs.data.contamination import contaminated
from sbora_bench.inputs.data.examples import Example
from sbora_bench.inputs.tasks.local import local_task

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def held_out(configs: dict[str, dict], rows: list[Example], most: int, seed: int) -> dict[str, list[int]]:
    """Task -> indices of the rows held out for it, `most` together: drawn by `seed` from those that a task can score.

    A drawn row whose question stands in a row that is left goes back to training. Raises UserError where none is held.
    `configs`: of lm-eval, by task.
    """
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    held: dict[int, str] = {}
    for start in range(0, len(order), most):
        chunk = order[start : start + most]
        tasks = scoring_task(configs, [rows[i] for i in chunk])
        held |= {i: task for i, task in zip(chunk, tasks, strict=True) if task is not None}
        if len(held) >= most:
            break
    chosen = list(held)[:most]
    rest = [row for i, row in enumerate(rows) if i not in set(chosen)]
    back = {chosen[i] for i in contaminated([rows[i] for i in chosen], rest)}
    kept = sorted(set(chosen) - back)
    if not kept:
        raise UserError(
            f"learning_rates: none of {len(rows):,} training rows can be held out: no task of {', '.join(configs)}"
            " scores a row whose question stands once; choose another training set"
        )
    return {task: [i for i in kept if held[i] == task] for task in configs}


def scoring_task(configs: dict[str, dict], rows: list[Example]) -> list[str | None]:
    """For each row the first task that marks its own response as right; None where there is none."""
    scoring: list[str | None] = [None] * len(rows)
    items = [row | {"prompt": row["instruction"] + row["input"]} for row in rows]
    for name, config in configs.items():
        if "lm_eval" in config:
            continue  # its questions are rows of lm-eval's own
        task = local_task(config | {"num_fewshot": 0}, items)  # the prompt is not read
        for i, right in enumerate(marked(task, [row["output"] for row in rows])):
            scoring[i] = scoring[i] or (name if right else None)
    return scoring


def marked(task: "ConfigurableTask", responses: list[str]) -> list[bool]:
    """Whether lm-eval's `task` marks each response as right, item by item; a choice among labels has none to read."""
    if task.OUTPUT_TYPE == "multiple_choice":
        docs = list(task.test_docs())
        choices = [task.doc_to_choice(doc) for doc in docs]
        return [doc["answer"] in labels for doc, labels in zip(docs, choices, strict=True)]
    if task.OUTPUT_TYPE != "generate_until":
        return [False] * len(responses)
    task.build_all_requests()
    metric, requests = next(iter(task.aggregation())), sorted(task.instances, key=lambda request: request.doc_id)
    for request, response in zip(requests, responses, strict=True):
        request.resps.append(response)
    task.apply_filters()
    read = [next(iter(request.filtered_resps.values())) for request in requests]
    return [
        task.process_results(request.doc, [text])[metric] == 1.0  # never true of what is averaged otherwise
        for request, text in zip(requests, read, strict=True)
    ]
