"""The tasks that a group or a tag of lm-eval stands for, in its own order, read from YAML without lm-eval.

lm-eval's own index parses some 14,000 files in ten seconds; here four keys of each are read from its text, in one.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sbora_bench.errors import UserError
from sbora_bench.plan.lm_eval_yaml import near_task, shipped
from sbora_bench.strict_yaml import read_yaml

STATED = re.compile(
    r"""^["']?(task|group|tag|include|class)["']?:[ \t]*([^\n#]*)[^\n]*((?:\n[ \t]*-[ \t]+[^\n]*)*)""", re.MULTILINE
)
SHOTS = "num_fewshot"
# Keys of a group, and of its lines, that say nothing of how a task is asked.
SHOWN = {"group", "group_alias", "task", "task_alias", "aggregate_metric_list", "metadata", "tag"}


class Member(NamedTuple):
    """A task of a group: lm-eval's name, the solved examples that the group gives it, and whether its YAML is own."""

    task: str
    shots: int | None
    own: bool


@dataclass
class Index:
    """Tasks, and the files of groups and names of tagged tasks, of a folder of YAML."""

    tasks: set[str] = field(default_factory=set)
    groups: dict[str, Path] = field(default_factory=dict)
    tags: dict[str, set[str]] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.tasks or name in self.groups or name in self.tags


def members(name: str, own: Path | None) -> list[Member]:
    """The tasks of a group or tag, nested ones too, each once; none where the name is a task's or unknown.

    `own`: a folder with YAML of one's own, whose groups may name lm-eval's tasks too; None: lm-eval's. Raises UserError
    for a group whose tasks can't be named by a line each.
    """
    if own is None and near_task(name, shipped()):
        return []
    first = index_of(own) if own else _shipped_index()
    if name in first.tasks or name not in first:
        return []
    return list(dict.fromkeys(_Expansion(name, own, first).of(name, {}, ())))


def known_to_lm_eval(name: str) -> bool:
    """Whether a task, a group or a tag that comes with lm-eval has that name."""
    if find_spec("lm_eval") is None or not re.fullmatch(r"\w[\w.-]*", name):
        return False
    return near_task(name, shipped()) is not None or name in _shipped_index()


class _Expansion:
    def __init__(self, name: str, own: Path | None, first: Index) -> None:
        self.where, self.own, self.first = f"lm_eval {name}", own, first

    def of(self, name: str, given: dict[str, Any], above: tuple[str, ...]) -> list[Member]:
        """The tasks of a name; `given`: keys that the groups `above` give them."""
        if name in above:
            raise UserError(f"{self.where}: its group {name} holds itself ({' -> '.join([*above, name])})")
        index = self._index(name)
        if name in index.groups:
            return self._of_group(name, read_yaml(index.groups[name]), given, (*above, name))
        tasks = sorted(index.tags.get(name, {name}) if name not in index.tasks else {name})
        return [member for task in tasks for member in self._task(task, given)]

    def _of_group(self, name: str, keys: dict[str, Any], given: dict[str, Any], above: tuple[str, ...]) -> list[Member]:
        lines, given = keys.get("task"), _of_tasks(keys) | given
        if not isinstance(lines, list) or not lines:
            raise UserError(f"{self.where}: group {name} has no list of tasks (`task`); name each task")
        made = []
        for line in lines:
            stated = line if isinstance(line, dict) else {"task": line}
            named = stated.get("group", stated.get("task"))
            if "group" in stated and not self._knows(named):  # defined where it stands
                made += self._of_group(str(named), stated, given, (*above, str(named)))
            else:
                made += self.of(str(named), given | _of_tasks(stated), above)
        return made

    def _task(self, name: str, given: dict[str, Any]) -> list[Member]:
        more = sorted(given.keys() - {SHOTS})
        if more or not self._knows(name):
            reason = f"is given {more[0]} there" if more else "is defined inside of the group"
            raise UserError(
                f"{self.where}: task {name} {reason}, which a suite can't say; name the other tasks, as {{lm_eval:"
                " gsm8k, shots: 5}, or write this one as YAML of your own (include_path)"
            )
        return [Member(name, given.get(SHOTS), self.own is not None and name in self.first.tasks)]

    def _knows(self, name: Any) -> bool:
        return name in self._index(name)

    def _index(self, name: Any) -> Index:
        return self.first if name in self.first else _shipped_index()


def _of_tasks(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in SHOWN}


@cache
def _shipped_index() -> Index:
    return index_of(shipped())


def index_of(folder: Path) -> Index:
    """The tasks, groups and tags of the YAML in a folder, of one name the first file's, as lm-eval has it."""
    index = Index()
    texts: dict[Path, dict[str, list[str]]] = {}
    for path in sorted(folder.rglob("*.yaml"), key=Path.as_posix):
        stated = _stated(path, texts)
        (name,) = stated.get("group", stated.get("task", []))[:1] or [""]
        if not name or name in index:
            continue
        if "group" in stated and "class" not in stated:
            index.groups[name] = path
            continue
        index.tasks.add(name)
        for tag in stated.get("tag", []):
            if tag not in index.tasks and tag not in index.groups:
                index.tags.setdefault(tag, set()).add(name)
    return index


def _stated(path: Path, texts: dict[Path, dict[str, list[str]]]) -> dict[str, list[str]]:
    """The values of a file's keys task, group, tag and class, with those of the files that it includes."""
    if path not in texts:
        texts[path] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        own = {key: _values(line, below) for key, line, below in STATED.findall(text)}
        for included in own.pop("include", []):
            own = _stated(path.parent / included, texts) | own
        texts[path] = own
    return texts[path]


def _values(line: str, below: str) -> list[str]:
    listed = line.strip().removeprefix("[").removesuffix("]").split(",")
    listed += [item.partition(" #")[0].strip().removeprefix("-") for item in below.splitlines()]
    return [bare for value in listed if (bare := value.strip().strip("\"'"))]
