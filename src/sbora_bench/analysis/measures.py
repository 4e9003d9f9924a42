"""What is compared between cells: the score of a task, the average of a suite's tasks, a loss."""

from dataclasses import dataclass

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import LOSS, Metric

LIKELIHOOD = LOSS.model_copy(update={"higher_is_better": True})  # a loss turned: higher is less loss


@dataclass(frozen=True)
class Measure:
    """`name`: in files; `title`: in tables; `metric`: its direction, unit and range."""

    name: str
    title: str
    metric: Metric


def suite_measure(plan: Plan, suite: str, metric: Metric) -> Measure:
    """The average of a suite's tasks."""
    return Measure(suite, plan.catalog.suites[suite].title, metric)


def loss_measure(plan: Plan, suite: str, metric: Metric = LOSS) -> Measure:
    """The mean loss of a suite's continuations."""
    return Measure(f"{suite} loss", f"{plan.catalog.suites[suite].title}, loss", metric)
