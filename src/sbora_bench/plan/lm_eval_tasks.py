"""lm-eval's own tasks by name in a suite, `tasks: [{lm_eval: gsm8k}]`: each made an entry of tasks and one of data.

A group or tag of lm-eval stands for its tasks.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import hash_of
from sbora_bench.plan.data_entries import LmEvalTask
from sbora_bench.plan.lm_eval_groups import members
from sbora_bench.plan.metric import Metric

LONGEST = 48  # characters of a name (plan/entry.py)


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
        name = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{hash_of(words)[:8]}"

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
            ids = [
                name
                for place, task in enumerate(tasks)
                for name in _entered(task, entries, f"{where}.{place}", path.parent)
            ]
            suite = suite | {"tasks": list(dict.fromkeys(ids))}
        made[name] = suite
    return sections | {"suites": made}, entries


def _entered(task: Any, entries: dict[str, dict[str, Any]], where: str, beside: Path) -> list[Any]:
    """The ids of the tasks that a suite's line names, entered in `entries` where they are lm-eval's."""
    if not isinstance(task, dict):
        return [task]
    for key in task.keys() - NamedTask.model_fields.keys():
        raise UserError(f"{where}: {one_of(str(key), NamedTask.model_fields, 'key')}")
    try:
        line = NamedTask.model_validate(task)
        line._beside = beside
        tasks = _tasks_of(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {{lm_eval: gsm8k}}, say"
        ) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for named in tasks:
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
    return [named.id for named in tasks]


def _tasks_of(line: NamedTask) -> list[NamedTask]:
    """The tasks of a group, each as the line says; the line itself where it names one task.

    Raises UserError for a title of several.
    """
    try:
        own = line.folder()
    except UserError:  # raised where the task is used
        return [line]
    if own is None and find_spec("lm_eval") is None:
        return [line]
    of_group = members(line.lm_eval, own)
    if of_group and line.title:
        raise UserError(f"title: found {line.title!r}, and {line.lm_eval} is {len(of_group)} tasks; take it out")
    return [
        line.model_copy(
            update={
                "lm_eval": member.task,
                "shots": member.shots if line.shots is None else line.shots,
                "include_path": line.include_path if member.own else "",
            }
        )
        for member in of_group
    ] or [line]
