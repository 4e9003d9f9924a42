"""An lm-eval task over items in memory."""

import copy
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.data.lm_eval_own import sandbox
from sbora_bench.inputs.data.lm_eval_tasks import SHOTS_SEED, quietly
from sbora_bench.inputs.tasks.named import named_task
from sbora_bench.inputs.tasks.named_columns import read_by
from sbora_bench.plan.data_entries import LmEvalTask

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def local_task(config: dict, items: list[dict]) -> "ConfigurableTask":
    """An lm-eval task over items in memory, its solved examples drawn from a seed of their own.

    Raises UserError where lm-eval doesn't take the configuration.
    """
    sandbox()
    if "lm_eval" in config:
        return _named(config, items)
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from sbora_bench.inputs import lm_eval_plugins  # noqa: F401  (registers our filters and metric)

    class LocalTask(ConfigurableTask):
        def build_all_requests(self, **arguments: Any) -> None:
            with quietly():
                super().build_all_requests(**arguments)

    dataset = {"test": Dataset.from_list(read_by(config, items))}
    try:
        task = LocalTask(config={**copy.deepcopy(config), "custom_dataset": lambda **_: dataset})
    except Exception as error:  # whatever a template's settings, expressions and names make lm-eval raise
        raise UserError(
            f"catalog: tasks.{config['task']}.template: lm-eval does not take it: {in_a_line(error)}"
        ) from None
    task.set_fewshot_seed(SHOTS_SEED)
    return task


def _named(config: dict, items: list[dict]) -> "ConfigurableTask":
    source = LmEvalTask.model_validate(config["lm_eval"])
    try:
        return named_task(config, items, source)
    except UserError:
        raise
    except Exception as error:  # whatever a task's expressions and functions raise
        raise UserError(f"lm_eval {source.lm_eval}: lm-eval does not take its items: {in_a_line(error)}") from None
