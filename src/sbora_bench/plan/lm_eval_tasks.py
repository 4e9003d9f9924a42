"""lm-eval's own tasks by name in a suite, `tasks: [{lm_eval: gsm8k}]`: each made an entry of tasks and one of data."""

import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import LmEvalTask
from sbora_bench.plan.entry import NAME
from sbora_bench.plan.metric import Metric


class NamedTask(LmEvalTask):
    """One such line of a suite."""

    title: str = Field(default="", description="empty: lm-eval's name, and what differs from its own")
    max_new_tokens: int | None = Field(default=None, ge=1, description="in the place of the task's own")
    metrics: dict[str, Metric] = Field(default_factory=dict, description="the first is the score, as in `tasks`")

    @property
    def id(self) -> str:
        """`lm-eval-gsm8k`, and what differs from the task's own: solved examples, filter."""
        shots = "" if self.shots is None else f"-{self.shots}-shot"
        words = f"lm-eval-{self.lm_eval}{shots}{self.filter and f'-{self.filter}'}"
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")

    @property
    def shown(self) -> str:
        shots = "" if self.shots is None else f", {self.shots}-shot"
        return self.title or f"{self.lm_eval}{shots}{self.filter and f', {self.filter}'}"


def spelled_out(sections: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A catalog file's sections with every such line of a suite as the id of a task; and those entries, by section.

    Raises UserError naming file and key.
    """
    entries: dict[str, dict[str, Any]] = {"tasks": {}, "data": {}}
    suites = sections.get("suites")
    if not isinstance(suites, dict):
        return sections, entries
    made = {}
    for name, suite in suites.items():
        tasks = suite.get("tasks") if isinstance(suite, dict) else None
        if isinstance(tasks, list) and any(isinstance(task, dict) for task in tasks):
            where = f"{path}: suites.{name}.tasks"
            ids = [_entered(task, entries, f"{where}.{place}") for place, task in enumerate(tasks)]
            suite = suite | {"tasks": ids}
        made[name] = suite
    return sections | {"suites": made}, entries


def _entered(task: Any, entries: dict[str, dict[str, Any]], where: str) -> Any:
    """The id of a suite's task, entered in `entries` where it is one of lm-eval's."""
    if not isinstance(task, dict):
        return task
    for key in task.keys() - NamedTask.model_fields.keys():
        raise UserError(f"{where}: {one_of(str(key), NamedTask.model_fields, 'key')}")
    try:
        named = NamedTask.model_validate(task)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {{lm_eval: gsm8k}}, say"
        ) from None
    if not re.fullmatch(NAME, named.id):
        raise UserError(
            f"{where}: the task's id would be {named.id}, of more than 48 characters; no such task can be had"
        )
    entry = {
        "title": named.shown,
        "lm_eval": named.model_dump(include=set(LmEvalTask.model_fields)),
        "max_new_tokens": named.max_new_tokens,
        "metrics": {name: metric.model_dump() for name, metric in named.metrics.items()},
    }
    if entries["tasks"].setdefault(named.id, entry) != entry:
        raise UserError(f"{where}: {named.id} stands twice, with other settings; give it the same everywhere")
    source = {"kind": "lm-eval", **named.model_dump(include={"lm_eval", "include_path", "shots"})}
    entries["data"][named.id] = source
    return named.id
