"""Training runs in Weights & Biases, where WANDB_MODE is `online` or `offline`; otherwise nothing is logged or sent."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import training_hash, training_settings
from sbora_bench.train import distributed as processes


def is_enabled() -> bool:
    """Whether WANDB_MODE is set to `online` or `offline`."""
    return os.environ.get("WANDB_MODE") in ("online", "offline") and processes.is_first()


@contextlib.contextmanager
def tracked(plan: Plan, run: Run) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The block is one wandb run with the run's name and settings, grouped by experiment and cell.

    Its id is the hash of the settings: a run that resumes goes on in the wandb run that it began. Yields a function
    that writes the summary; transformers' own callback logs the steps. An error in the block marks it as failed.
    """
    if not is_enabled():
        yield lambda summary: None
        return
    import wandb

    online = os.environ["WANDB_MODE"] == "online"
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sbora"),
        id=training_hash(plan, run)[:16],
        name=run.name,
        group=f"{plan.name}/{run.group}",
        tags=[plan.name, run.table, run.method],
        config=training_settings(plan, run),
        resume="allow" if online else None,
    ) as session:
        yield session.summary.update
