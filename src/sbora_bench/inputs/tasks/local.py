"""An lm-eval task over items in memory."""

import contextlib
import copy
import io

from sbora_bench.errors import UserError


def local_task(config: dict, items: list[dict]):
    """An lm-eval task over items in memory. Raises UserError where lm-eval doesn't take the configuration."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    from sbora_bench.inputs.tasks import plugins  # noqa: F401  (registers our filters and metric)

    class LocalTask(ConfigurableTask):
        """Without the progress bar that lm-eval draws while it writes prompts down."""

        def build_all_requests(self, **arguments) -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                super().build_all_requests(**arguments)

    dataset = {"test": Dataset.from_list(items)}
    try:
        return LocalTask(config={**copy.deepcopy(config), "custom_dataset": lambda **_: dataset})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"catalog: tasks.{config['task']}.template: lm-eval does not take it: {error}") from None
