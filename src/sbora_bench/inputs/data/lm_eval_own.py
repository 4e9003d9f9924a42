"""What a task in YAML of one's own may say to lm-eval: keys, metrics and splits that there are, and no code.

lm-eval runs what YAML names: functions, metrics that it fetches, and Python that Jinja can reach.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.lm_eval_yaml import LOCAL

CALLED = ("process_docs", "process_results", "custom_dataset", "use_prompt")
SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
OWN_KEYS = ("until", "max_gen_toks", "skip_special_tokens")  # of generation_kwargs, beside transformers' own


def sandbox() -> None:
    """Have lm-eval fill its templates in Jinja's sandbox."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    env = SandboxedEnvironment(
        loader=utils.env.loader,
        undefined=utils.env.undefined,
        keep_trailing_newline=utils.env.keep_trailing_newline,
    )
    env.filters.update(utils.env.filters)
    utils.env = env


def check_own(keys: Mapping[str, Any], where: str | Path) -> None:
    """Raise UserError for what a task's YAML says that lm-eval doesn't know, or that would run code."""
    from lm_eval.api.task import TaskConfig

    for key in keys:
        if key not in TaskConfig.__dataclass_fields__:
            raise UserError(f"{where}: {one_of(key, TaskConfig.__dataclass_fields__, 'key of a task')}")
    for key in CALLED:
        if keys.get(key) is not None:
            raise UserError(f"{where}: {key}: names code to run, which a task of one's own may not; take it out")
    for pipeline in keys.get("filter_list") or ():
        if isinstance(pipeline, Mapping) and (more := sorted(pipeline.keys() - {"name", "filter"})):
            raise UserError(
                f"{where}: filter_list: {more[0]}: not read by lm-eval: the metrics of metric_list are those of"
                " every filter; take it out"
            )
    check_names(keys, where)
    _check_splits(keys, where)


def check_names(keys: Mapping[str, Any], where: str | Path) -> None:
    """Raise UserError for a metric that neither lm-eval nor the harness has, for two filters of one name, of which
    lm-eval keeps the last, and for a key of generation that means nothing.
    """
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from transformers import GenerationConfig

    from sbora_bench.inputs import lm_eval_plugins  # noqa: F401  (registers ours and lm-eval's)

    filters: set[str] = set()
    for pipeline in keys.get("filter_list") or ():
        name = pipeline.get("name") if isinstance(pipeline, Mapping) else None
        if not name or not pipeline.get("filter"):
            raise UserError(f"{where}: filter_list: found {pipeline!r:.80}, allowed {{name: NAME, filter: [...]}}")
        if name in filters:
            raise UserError(f"{where}: filter_list: {name}: stands twice; rename one")
        filters.add(name)
    for entry in keys.get("metric_list") or ():
        if not isinstance(entry, Mapping) or "metric" not in entry:
            raise UserError(f"{where}: metric_list: found {entry!r:.80}, allowed {{metric: NAME}}, with what it takes")
        if entry["metric"] not in METRIC_REGISTRY or entry.get("hf_evaluate"):
            raise UserError(f"{where}: metric_list: {one_of(entry['metric'], METRIC_REGISTRY, 'metric')}")
        if entry.get("aggregation", "mean") not in AGGREGATION_REGISTRY:
            raise UserError(
                f"{where}: metric_list: {one_of(entry['aggregation'], AGGREGATION_REGISTRY, 'aggregation')}"
            )
    known = {*GenerationConfig().to_dict(), *OWN_KEYS}
    generates = keys.get("output_type", "generate_until") == "generate_until"
    for key in (keys.get("generation_kwargs") or {}).keys() - known if generates else ():
        raise UserError(f"{where}: generation_kwargs: {one_of(key, known, 'key')}")


def _check_splits(keys: Mapping[str, Any], where: str | Path) -> None:
    """Raise UserError where items are of a split that the task's own files don't have."""
    if keys.get("dataset_path") not in LOCAL:
        return
    arguments = keys.get("dataset_kwargs") or {}
    files = arguments.get("data_files")
    if "data_dir" in arguments:
        raise UserError(f"{where}: dataset_kwargs: data_dir: not read here; name the files in data_files")
    if not files:
        raise UserError(
            f"{where}: dataset_kwargs: data_files: missing; name them, as {{data_files: {{test: my.jsonl}}}}"
        )
    splits = list(files) if isinstance(files, Mapping) else ["train"]
    for key in SPLITS:
        if keys.get(key) not in (None, *splits):
            raise UserError(f"{where}: {key}: found {keys[key]}, allowed {', '.join(splits)}, by its data_files")
    if not (keys.get("test_split") or keys.get("validation_split")):
        raise UserError(f"{where}: test_split: missing; say which split is asked, of {', '.join(splits)}")
