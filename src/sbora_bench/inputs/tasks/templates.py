"""From a catalog entry to an lm-eval task configuration: the template's YAML with its `$name`s filled in.

Reads YAML only: an experiment's templates can be checked before anything heavy is imported.
"""

from pathlib import Path
from typing import Any, get_args

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.extraction import RULES
from sbora_bench.inputs.tasks.named import named_config
from sbora_bench.inputs.tasks.template_keys import check_keys
from sbora_bench.plan.data_entries import TaskEntry
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.strict_yaml import read_yaml

BUILT_IN = Path(__file__).parent
EXTRACTIONS = set(get_args(Protocol.model_fields["extraction"].annotation))
NAMES = ("$answer", "$rule", "$extraction", "$strict", "$letters")


def template_path(task: str, entry: TaskEntry) -> Path:
    """The template's file: one of ours by name, or one of the user's by its path.

    Raises UserError naming the templates that there are, or the places where there is none.
    """
    try:
        own = entry.own_template()
    except UserError as error:
        raise UserError(f"catalog: tasks.{task}.template: {error}") from None
    if own is not None:
        return own
    path = BUILT_IN / f"{entry.template}.yaml"
    if not path.is_file():
        built_in = [yaml_file.stem for yaml_file in BUILT_IN.glob("*.yaml")]
        raise UserError(
            f"catalog: tasks.{task}.template: {one_of(entry.template, built_in, 'template')}; a template of your own is"
            " given as a .yaml path"
        )
    return path


def config_in(plan: Plan, table: str, task: str) -> dict[str, Any]:
    """`task_config` of a task that a table scores."""
    protocol = plan.protocol(table, plan.scored(table)[task])
    return task_config(task, plan.catalog.tasks[task], protocol)


def task_config(task: str, entry: TaskEntry, protocol: Protocol) -> dict[str, Any]:
    """The lm-eval configuration of a task under a protocol, without its data set.

    In a template, `$answer` stands for the entry's answer under the protocol's `extraction`, `$rule` for the rule of
    that name, `$extraction` for that word, `$strict` for whether it is strict, and `$letters` for what stands before a
    letter. Of a `filter_list` the one pipeline named after the extraction is kept. Raises UserError naming file, key.
    """
    if entry.lm_eval is not None:
        return named_config(task, entry, entry.lm_eval)
    path = template_path(task, entry)
    config = _fill(read_yaml(path), task, entry, protocol, path)
    check_keys(config, path)
    _check_splits(config, path)
    if config.get("filter_list"):
        config["filter_list"] = [_pipeline(config["filter_list"], protocol.extraction, path)]
    if config.setdefault("output_type", "generate_until") == "generate_until":  # lm-eval's default
        own = {} if entry.max_new_tokens is None else {"max_gen_toks": entry.max_new_tokens}
        given = {"max_gen_toks": protocol.max_new_tokens, "num_beams": protocol.num_beams}
        config["generation_kwargs"] = given | {"until": []} | config.get("generation_kwargs", {}) | own
    return {"num_fewshot": 0} | config | {"task": task, "test_split": "test"} | _shots(config, path)


def _check_splits(config: dict[str, Any], path: Path) -> None:
    """Raise UserError for a split that there is not: the items are one."""
    for key in ("test_split", "fewshot_split"):
        if config.get(key, "test") != "test":
            raise UserError(
                f"{path}: {key}: found {config[key]!r}, allowed test: the items are one split; solved examples of"
                " another source go into fewshot_config, as {samples: [{prompt: ..., answer: ...}]}"
            )


def _shots(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Where the solved examples before an item come from: the template's own samples, else the other items."""
    shots = config.get("num_fewshot", 0)
    if type(shots) is not int or shots < 0:
        raise UserError(f"{path}: num_fewshot: found {shots!r}, allowed a whole number from 0")
    settings = config.get("fewshot_config") or {}
    if not isinstance(settings, dict):
        raise UserError(f"{path}: fewshot_config: found {settings!r}, allowed a mapping such as {{samples: [...]}}")
    if settings.get("split", "test") != "test":
        raise UserError(f"{path}: fewshot_config.split: found {settings['split']!r}, allowed test")
    samples = settings.get("samples")
    if samples is not None and (not isinstance(samples, list) or len(samples) < shots):
        count = len(samples) if isinstance(samples, list) else samples
        raise UserError(f"{path}: fewshot_config.samples: found {count}, and num_fewshot is {shots}; add samples")
    return {"fewshot_split": "test"} if shots and samples is None else {}


def _pipeline(pipelines: list[dict[str, Any]], extraction: str, path: Path) -> dict[str, Any]:
    """The filters named after the protocol's extraction, or the only ones that there are, by a name of their own."""
    named = {pipeline["name"]: pipeline for pipeline in pipelines}
    if extraction not in named and (len(named) > 1 or named.keys() & EXTRACTIONS):
        raise UserError(f"{path}: filter_list: {one_of(extraction, named, 'extraction')}; name one of them so")
    return named.get(extraction, pipelines[0])


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
