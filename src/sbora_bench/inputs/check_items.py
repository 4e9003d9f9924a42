"""What of a task's items doesn't fit how they are scored, an item at a time; each says what, or nothing."""

import math
import re
from collections.abc import Iterable
from typing import Any

from sbora_bench.errors import one_of
from sbora_bench.inputs.data.examples import Example
from sbora_bench.inputs.extraction import extract, number
from sbora_bench.inputs.prepare import label_place, labels_of

LETTERS = {"A", "B", "C", "D"}


def built_in_problem(config: dict[str, Any], rows: list[dict[str, Any]], metrics: Iterable[str]) -> str:
    """What of the catalog's entry, its `metrics` among it, or of the items does not fit one of our own templates."""
    known = [entry["metric"] for entry in config["metric_list"]]
    for metric in metrics:
        if metric not in known:
            return f"catalog: tasks.{config['task']}.metrics: {one_of(metric, known, 'metric of the template')}"
    for step in (step for pipeline in config.get("filter_list", []) for step in pipeline["filter"]):
        try:
            re.compile(step.get("regex_pattern", ""))
        except (re.error, TypeError) as error:
            return f"answer: {step['regex_pattern']!r} is no regular expression: {error}"
    if config.get("doc_to_choice") == sorted(LETTERS):
        for row in rows:
            if row["answer"] not in LETTERS:
                return f"item {row['id']}: answer: found {row['answer']!r}, allowed A, B, C or D"
    return ""


def never_right(config: dict[str, Any], items: list[Example]) -> str:
    """Which item's answer no response to one of our own templates can be marked as right for; empty where none is."""
    metrics = [entry["metric"] for entry in config.get("metric_list", [])]
    steps = [step for pipeline in config.get("filter_list", []) for step in pipeline["filter"]]
    steps = [step for step in steps if not _asks_for_more(step.get("regex_pattern", ""), items)]
    for index, item in enumerate(items):
        answer, problem = item["answer"], f"item {index}: answer: found {item['answer'][:80]!r}, allowed"
        if "within_tolerance" in metrics and not math.isfinite(number(answer)):
            return f"{problem} a number as 12, -3.5 or 3/4, alone; give it in a column `answer`"
        if not answer.strip():
            return f"{problem} a text: a response of which nothing is read would be right; give the item an answer"
        for step in steps if "exact_match" in metrics else ():
            texts = (answer, item["output"])
            if "rule" in step and answer not in [extract(text, step["rule"]) for text in texts]:
                return f"{problem} what the task's extraction rule can read, as one letter; correct it"
            if "regex_pattern" in step and answer not in [_read(step["regex_pattern"], text) for text in texts]:
                return f"{problem} what `answer: {step['regex_pattern']}` reads of a response; correct one of them"
    return ""


def asks_nothing(items: list[Example]) -> str:
    """Which item has neither an instruction nor an input; empty where all have one."""
    for index, item in enumerate(items):
        if not (item["instruction"] + item["input"]).strip():
            return f"item {index}: instruction and input are empty; give the item a question, or leave it out"
    return ""


def no_gold(items: list[Example], own: bool) -> str:
    """Which item's output can't be the answer whose likelihood is taken; empty where all can. An empty one is
    reported of one's `own` data alone: an item of the paper's GSM8K has none.
    """
    for index, item in enumerate(items):
        shown = f"item {index}: output: found {item['output'][:80]!r}, allowed"
        if own and not item["output"].strip():
            return f"{shown} a text, whose likelihood is taken; give the item an answer, or leave it out"
        if labels_of(item) and label_place(item["output"], item["answer"]) is None:
            return f"{shown} a text that names the item's answer {item['answer']!r}; correct one of them"
    return ""


def _asks_for_more(expression: str, items: list[Example]) -> bool:
    """Whether a task's expression asks for words around the answer, which none of the items has."""
    pattern = re.compile(expression)
    texts = (item[field] for item in items for field in ("answer", "output"))
    return bool(pattern.groups or "(?<" in expression) and not any(map(pattern.search, texts))


def _read(expression: str, text: str) -> str:
    """What a task's expression reads out of a text, as lm-eval's filter does."""
    match = next(iter(re.findall(expression, text)), "")
    return (match if isinstance(match, str) else next(filter(None, match), "")).strip()
