"""lm-eval's own tasks: the keys of one by its name, and its items with the prompts that lm-eval makes of them."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.hub import Unreachable, answers, offline
from sbora_bench.inputs.data.lm_eval_own import check_own, sandbox
from sbora_bench.plan.data_entries import LmEvalSource
from sbora_bench.plan.hub_copies import copy_of
from sbora_bench.plan.lm_eval_yaml import LOCAL, shipped, yaml_of

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

SHOTS_SEED = 1234  # lm-eval's own
SHOWN = 6  # choices in a message
NOT_TAKEN = {  # keys of a task that can't be scored here, and why
    "class": "is written in Python beside YAML",
    "unsafe_code": "runs the code that a model writes",
    "doc_to_image": "shows images",
    "doc_to_audio": "plays sounds",
}


def quietly() -> contextlib.AbstractContextManager[Any]:
    """Without the progress bars that lm-eval draws."""
    return contextlib.redirect_stderr(io.StringIO())


def task_keys(source: LmEvalSource, functions: bool = False) -> dict[str, Any]:
    """The keys of a task's YAML with what it includes; functions as text, relative to lm-eval, unless they are wanted.

    Raises UserError for a task that can't be scored here.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = yaml_of(source)
    try:
        keys = load_yaml(path, resolve_func=functions, recursive=True)
    except Exception as error:  # YAML's own, a missing include, a package that a function needs
        raise UserError(f"{path}: lm-eval can't read it: {in_a_line(error)}") from None
    for key, reason in NOT_TAKEN.items():
        if keys.get(key):
            raise UserError(f"lm_eval {source.lm_eval}: the task {reason} ({key} in {path}), which is not done here")
    kept = {key: value for key, value in keys.items() if key not in ("tag", "group", "task_list")}
    if source.folder() is not None:
        check_own(kept, path)
    return kept if functions else json.loads(json.dumps(kept, default=str).replace(f"{shipped()}{os.sep}", ""))


def with_data(source: LmEvalSource, keys: dict[str, Any]) -> dict[str, Any]:
    """A task's keys, its data set taken from SBORA_DATA_ROOT where it lies there; own files are looked for in its
    folder.

    Raises UserError for a file that isn't in that folder, and Unreachable where the data are not at hand and the hub
    can't be asked.
    """
    name, arguments = str(keys.get("dataset_path")), dict(keys.get("dataset_kwargs") or {})
    arguments.pop("trust_remote_code", None)
    own = source.folder()
    if name in LOCAL:
        if own is not None:
            where = f"lm_eval {source.lm_eval}: data_files"
            arguments["data_files"] = _inside(arguments["data_files"], own, Path.is_file, where)
        return keys | {"dataset_kwargs": arguments}
    if own is not None and (name[0] in "./~" or (own / name).is_dir()):
        folder = _inside(name, own, Path.is_dir, f"lm_eval {source.lm_eval}: dataset_path")
        return keys | {"dataset_path": folder, "dataset_kwargs": arguments}
    if copy := copy_of(name):
        return keys | {"dataset_path": str(copy), "dataset_kwargs": arguments}
    reason = (
        "" if cached(name) else "HF_HUB_OFFLINE is set" if offline() else "" if answers() else "the hub doesn't answer"
    )
    if reason:
        instead = f"put a copy at {Path(os.environ.get('SBORA_DATA_ROOT') or '$SBORA_DATA_ROOT') / name}"
        raise Unreachable(
            f"lm_eval {source.lm_eval}: its data set {name} can't be fetched here ({reason}); {instead}",
            f"https://huggingface.co/datasets/{name}",
        )
    return keys | {"dataset_kwargs": arguments}


def _inside(paths: Any, folder: Path, is_there: Callable[[Path], bool], where: str) -> Any:
    """Paths of a task's data as they lie in its folder. Raises UserError for one that doesn't."""
    if isinstance(paths, dict):
        return {split: _inside(of_split, folder, is_there, where) for split, of_split in paths.items()}
    if isinstance(paths, list):
        return [_inside(path, folder, is_there, where) for path in paths]
    path = (folder / str(paths)).resolve()
    if not is_there(path) or folder.resolve() not in path.parents:
        raise UserError(
            f"{where}: found {paths}, allowed is what lies in {folder}, whose changes are noticed; put it there"
        )
    return str(path)


def cached(name: str) -> bool:
    """Whether `datasets` has a set of the hub from before."""
    from datasets import config

    return (Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")).is_dir()


def data_at_hand(source: LmEvalSource) -> bool:
    """Whether a task's data can be read without a download. Raises as `with_data`."""
    keys = task_keys(source)
    now = with_data(source, keys)
    return now["dataset_path"] != keys["dataset_path"] or keys["dataset_path"] in LOCAL or cached(keys["dataset_path"])


def task_rows(name: str, source: LmEvalSource) -> list[dict[str, Any]]:
    """The items of a task: `prompt`, as lm-eval puts it with the solved examples before; `contexts`, where each choice
    has one of its own; `instruction`, the question alone; `output`, the right answer with what stands before it;
    `answer`, that answer; `doc`, lm-eval's own row as JSON.

    Raises UserError where lm-eval can't make them, Unreachable where the data can't be obtained.
    """
    from datasets.exceptions import DatasetGenerationError
    from lm_eval.api.task import ConfigurableTask

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    sandbox()
    where = f"data {name}: lm_eval {source.lm_eval}"
    keys = with_data(source, task_keys(source, functions=True))
    shots = keys.get("num_fewshot") or 0 if source.shots is None else source.shots
    try:
        with quietly():
            task = ConfigurableTask(config=keys | {"num_fewshot": shots})
            task.set_fewshot_seed(SHOTS_SEED)
            _check_answers(task, where)
            return [_row(task, doc, shots) for doc in task.eval_docs]
    except (UserError, KeyboardInterrupt):
        raise
    except (ConnectionError, OSError) as error:
        address = f"https://huggingface.co/datasets/{keys.get('dataset_path')}"
        raise Unreachable(f"{where}: its data set can't be obtained: {in_a_line(error)}", address) from None
    except Exception as error:  # whatever a task's expressions and functions raise
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None  # which itself says nothing
        reason = cause if isinstance(cause, Exception) else error
        raise UserError(f"{where}: lm-eval can't make its items: {in_a_line(reason)}") from None


def _check_answers(task: "ConfigurableTask", where: str) -> None:
    """Raise UserError for an item of which no choice is right: lm-eval marks each answer to it as wrong."""
    own_marks = task.multiple_input or callable(task.config.process_results)
    for index, doc in enumerate(() if task.OUTPUT_TYPE != "multiple_choice" or own_marks else task.eval_docs):
        if problem := no_choice(task.doc_to_target(doc), task.doc_to_choice(doc)):
            raise UserError(
                f"{where}: item {index}: its right answer is {problem}; take a split that has right answers, or leave"
                " the item out"
            )


def no_choice(target: Any, choices: list[Any]) -> str:
    """A right answer, of one or of a list, that is none of an item's choices, and what is allowed; else empty."""
    for answer in target if isinstance(target, list) else [target]:
        if answer not in (range(len(choices)) if isinstance(answer, int) else choices):
            shown = ", ".join(map(repr, choices[:SHOWN]))
            return f"{answer!r}, allowed one of its choices, {shown}, or its place from 0 to {len(choices) - 1}"
    return ""


def _row(task: "ConfigurableTask", doc: dict[str, Any], shots: int) -> dict[str, Any]:
    context = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
    target, question = task.doc_to_target(doc), task.doc_to_text(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None
    target = target[0] if isinstance(target, list) and target else target
    answer = str(choices[target] if choices and isinstance(target, int) else target)
    several = not isinstance(context, str)
    return {
        "prompt": context[0] if several else context,
        "instruction": question if isinstance(question, str) else context[0],
        "output": f"{task.config.target_delimiter}{answer}",
        "answer": answer,
        "doc": json.dumps(doc, sort_keys=True),
        **({"contexts": context} if several else {}),
    }
