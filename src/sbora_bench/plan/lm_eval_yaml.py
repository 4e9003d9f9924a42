"""The YAML of one of lm-eval's own tasks by its name, and the data set that it names.

lm-eval's own registry reads some 14,000 files in ten seconds; here the one file is looked for by its text.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import LmEvalSource
from sbora_bench.strict_yaml import read_yaml

LOCAL = ("arrow", "csv", "json", "parquet", "text")  # values of dataset_path that read data_files


def shipped() -> Path:
    """The folder of the tasks that come with lm-eval. Raises UserError where it isn't installed."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("lm_eval: the package is not installed; install it with: pip install lm-eval")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def yaml_of(source: LmEvalSource) -> Path:
    """The file of a task. Raises UserError where no task has that name, a group has it, or its folder names code."""
    own = source.folder()
    if own is not None:
        _refuse_code(own)
    return _yaml_named(source.lm_eval, own or shipped())


@cache
def near_task(name: str, folder: Path) -> Path | None:
    """The file of a task below the subfolder that is called as its name begins, where nearly all are; or None."""
    pattern = re.compile(rf"""^["']?task["']?:\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    for path in sorted((folder / name.split("_")[0]).rglob("*.yaml")):
        if pattern.search(path.read_text(encoding="utf-8", errors="replace")):
            return path
    return None


@cache
def _yaml_named(name: str, folder: Path) -> Path:
    near = near_task(name, folder)
    if near is not None:
        return near
    pattern = re.compile(rf"""^["']?(task|group|tag)["']?:\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    listed = re.compile(rf"""^\s*-\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    kinds = set()
    for path in sorted(folder.rglob("*.y*ml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        kinds |= (of_file := {match[1] for match in pattern.finditer(text)})
        if "task" in of_file and path.suffix in (".yaml", ".yml"):
            return path
        kinds |= {"tag"} if "tag:" in text and listed.search(text) else set()
    where = f"lm_eval {name}"
    if kinds:
        raise UserError(f"{where}: names several tasks ({min(kinds)}), which only a suite may; name one of them")
    known = [path.stem for path in folder.rglob("*.y*ml") if not path.stem.startswith("_")]
    raise UserError(f"{where}: {one_of(name, known[:20_000], 'task')} (looked for in {folder})")


def _refuse_code(folder: Path) -> None:
    """Raise UserError where YAML of a user's own names code (a tag), or includes what isn't YAML of its folder."""
    for path in sorted(folder.rglob("*.y*ml")):
        included = read_yaml(path).get("include", [])
        for name in included if isinstance(included, list) else [included]:
            target = (path.resolve().parent / str(name)).resolve()
            if target.suffix not in (".yaml", ".yml") or folder.resolve() not in target.parents:
                raise UserError(
                    f"{path}: include: found {name}, allowed is a YAML file in {folder}, whose changes are noticed; put"
                    " it there"
                )


def data_set_of(source: LmEvalSource) -> str:
    """The hub's id of a task's data set, read without lm-eval; empty where it has data files of its own."""
    name = _data_set(yaml_of(source), frozenset())
    return "" if name in LOCAL else name


def _data_set(path: Path, above: frozenset[Path]) -> str:
    """What a file says, else the last of those that it includes which says anything: as lm-eval has it."""
    if path in above or not path.is_file():
        return ""
    named, included = (_stated_in(path, key) for key in ("dataset_path", "include"))
    of_included = (_data_set(path.parent / name, above | {path}) for name in reversed(included))
    return next(filter(None, (*named, *of_included)), "")


def _stated_in(path: Path, key: str) -> list[str]:
    """The value of a file's key, or those of a list; the rest isn't read, for lm-eval's own files name functions."""
    text = path.read_text(encoding="utf-8", errors="replace")
    pattern = rf"""^["']?{key}["']?:[ \t]*([^\n#]*)[^\n]*((?:\n[ \t]*-[ \t]+[^\n]*)*)"""
    line, below = next(iter(re.findall(pattern, text, re.MULTILINE)), ("", ""))
    listed = line.strip().removeprefix("[").removesuffix("]").split(",")
    listed += [item.partition(" #")[0].strip().removeprefix("-") for item in below.splitlines()]
    return [bare for value in listed if (bare := value.strip().strip("\"'"))]
