"""From a catalog entry to an lm-eval task configuration: the template's YAML with its `$name`s filled in.

Reads YAML only: an experiment's templates can be checked before anything heavy is imported.
"""

from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.tasks.extraction import RULES
from sbora_bench.plan.catalog import Protocol, TaskEntry
from sbora_bench.plan.experiment import Plan
from sbora_bench.strict_yaml import read_yaml

BUILT_IN = Path(__file__).parent
NAMES = ("$answer", "$rule", "$extraction", "$strict", "$letters")


def template_path(task: str, entry: TaskEntry, folder: Path) -> Path:
    """The template's file: one of ours by name, or a `.yaml` path, taken from the catalog's `folder`.

    Raises UserError naming the templates that there are.
    """
    if entry.template.endswith((".yaml", ".yml")):
        return Path(folder) / entry.template
    path = BUILT_IN / f"{entry.template}.yaml"
    if not path.is_file():
        known = [found.stem for found in BUILT_IN.glob("*.yaml")]
        raise UserError(
            f"catalog: tasks.{task}.template: {one_of(entry.template, known, 'template')}; a template of your own is"
            " given as a .yaml path"
        )
    return path


def config_in(plan: Plan, table: str, task: str) -> dict[str, Any]:
    """`task_config` of a task that a table scores; templates of one's own stand in the experiment's catalog."""
    protocol = plan.protocol(table, plan.scored(table)[task])
    return task_config(task, plan.catalog.tasks[task], protocol, Path(plan.path).parent / "catalog")


def task_config(task: str, entry: TaskEntry, protocol: Protocol, folder: Path) -> dict[str, Any]:
    """The lm-eval configuration of a task under a protocol, without its data set.

    In a template, `$answer` stands for the entry's answer under the protocol's `extraction`, `$rule` for the rule of
    that name, `$extraction` for that word, `$strict` for whether it is strict, and `$letters` for what stands before a
    letter. Of a `filter_list` the one pipeline named after the extraction is kept. Raises UserError naming file, key.
    """
    path = template_path(task, entry, folder)
    config = _fill(read_yaml(path), task, entry, protocol, path)
    if "filter_list" in config:
        pipelines = {pipeline["name"]: pipeline for pipeline in config["filter_list"]}
        if protocol.extraction not in pipelines:
            raise UserError(f"{path}: filter_list: {one_of(protocol.extraction, pipelines, 'extraction')}")
        config["filter_list"] = [pipelines[protocol.extraction]]
    if config.get("output_type") == "generate_until":
        own = {} if entry.max_new_tokens is None else {"max_gen_toks": entry.max_new_tokens}
        given = {"max_gen_toks": protocol.max_new_tokens, "num_beams": protocol.num_beams}
        config["generation_kwargs"] = given | {"until": []} | config.get("generation_kwargs", {}) | own
    return config | {"task": task, "test_split": "test", "num_fewshot": 0}


def _fill(value: Any, task: str, entry: TaskEntry, protocol: Protocol, path: Path) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, task, entry, protocol, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, task, entry, protocol, path) for item in value]
    if not (isinstance(value, str) and value.startswith("$")):
        return value
    if value == "$extraction":
        return protocol.extraction
    if value == "$strict":
        return protocol.extraction == "strict"
    if value == "$letters":
        return {"bare": "", "spaced": " "}[protocol.letters]
    if value not in ("$answer", "$rule"):
        raise UserError(f"{path}: {one_of(value, NAMES, '$name')}")
    where = f"catalog: tasks.{task}.answer"
    if protocol.extraction not in entry.answer:
        raise UserError(f"{where}: {one_of(protocol.extraction, entry.answer, 'extraction')}")
    answer = entry.answer[protocol.extraction]
    if value == "$rule" and answer not in RULES:
        raise UserError(f"{where}.{protocol.extraction}: {one_of(answer, RULES, 'extraction rule')}")
    return dict(RULES[answer]) if value == "$rule" else answer
