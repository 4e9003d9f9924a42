"""lm-eval's own tasks as they are scored here: by their own filters and metrics, over items that are prepared."""

import json
import logging
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.data.lm_eval_tasks import quietly, task_keys
from sbora_bench.plan.data_entries import LmEvalTask, TaskEntry

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

NEW_TOKENS = 256  # of an answer where neither task nor entry says: lm-eval's own
CONTEXT = "sbora_context"  # column of the prompt beside lm-eval's own
# Keys that have done their part once items are prepared.
PREPARED = {
    *("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "fewshot_split"),
    *("fewshot_config", "process_docs", "num_fewshot", "metadata", "include"),
}


def named_config(task: str, entry: TaskEntry, source: LmEvalTask) -> dict[str, Any]:
    """What scoring depends on of such a task, as JSON; functions by their names. `task`: the catalog's id.

    Raises UserError for a filter that the task doesn't have.
    """
    keys = {key: value for key, value in task_keys(source).items() if key not in PREPARED}
    where = f"lm_eval {source.lm_eval}"
    if keys.get("filter_list"):
        keys["filter_list"] = [_filter(keys["filter_list"], source.filter, where)]
    elif source.filter:
        raise UserError(f"{where}: filter: found {source.filter}, and the task has none; take it out")
    if keys.setdefault("output_type", "generate_until") == "generate_until":
        given = dict(keys.get("generation_kwargs") or {})
        if not given.get("do_sample"):
            given = {key: value for key, value in given.items() if key not in ("temperature", "top_p", "top_k")}
        own = {} if entry.max_new_tokens is None else {"max_gen_toks": entry.max_new_tokens}
        stop = {"until": [keys.get("fewshot_delimiter", "\n\n")]}  # lm-eval's own, where a task says nothing
        keys["generation_kwargs"] = stop | {"max_gen_toks": NEW_TOKENS, "do_sample": False} | given | own
    folder = source.folder()
    named = source.model_dump() | ({} if folder is None else {"include_path": str(folder)})
    return keys | {"task": task, "test_split": "test", "lm_eval": named}


def named_task(config: dict[str, Any], items: list[dict[str, Any]], source: LmEvalTask) -> "ConfigurableTask":
    """lm-eval's task of a `named_config` over prepared items."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class NamedTask(ConfigurableTask):
        """With the prompts that were prepared."""

        def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> str | list[str]:
            return json.loads(doc[CONTEXT])

        def build_all_requests(self, **arguments: Any) -> None:
            with quietly():
                super().build_all_requests(**arguments)

        def dump_config(self) -> dict[str, Any]:
            return config

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    functions = {key: value for key, value in task_keys(source, functions=True).items() if key not in PREPARED}
    docs = [json.loads(item["doc"]) | {CONTEXT: json.dumps(item.get("contexts") or item["prompt"])} for item in items]
    same = ("task", "test_split", "filter_list", "generation_kwargs", "output_type")
    of_run = {key: config[key] for key in same if key in config}
    dataset = {"test": Dataset.from_list(docs)}
    return NamedTask(config=functions | of_run | {"num_fewshot": 0, "custom_dataset": lambda **_: dataset})


def _filter(filters: list[dict[str, Any]], name: str, where: str) -> dict[str, Any]:
    by_name = {named_filter["name"]: named_filter for named_filter in filters}
    if name and name not in by_name:
        raise UserError(f"{where}: filter: {one_of(name, by_name, 'filter')}")
    return by_name[name] if name else filters[0]
