"""An lm-eval task over items in memory."""

import contextlib
import copy
import io
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

SHOTS_SEED = 1234  # lm-eval's own


def local_task(config: dict, items: list[dict]) -> "ConfigurableTask":
    """An lm-eval task over items in memory, its solved examples drawn from a seed of their own.

    Raises UserError where lm-eval doesn't take the configuration.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from sbora_bench.inputs.tasks import plugins  # noqa: F401  (registers our filters and metric)

    class LocalTask(ConfigurableTask):
        """Without the progress bar that lm-eval draws while it writes prompts down."""

        def build_all_requests(self, **arguments: Any) -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                super().build_all_requests(**arguments)

    dataset = {"test": Dataset.from_list(items)}
    try:
        task = LocalTask(config={**copy.deepcopy(config), "custom_dataset": lambda **_: dataset})
    except Exception as error:  # whatever a template's settings, expressions and names make lm-eval raise
        raise UserError(
            f"catalog: tasks.{config['task']}.template: lm-eval does not take it: {in_a_line(error)}"
        ) from None
    task.set_fewshot_seed(SHOTS_SEED)
    return task
