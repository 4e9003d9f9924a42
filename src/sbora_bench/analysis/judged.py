"""The verdict on each planned comparison of an experiment, as far as its runs have come."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sbora_bench.analysis.learning_rates import picked, rate_ends
from sbora_bench.analysis.look import decided, runs_compared
from sbora_bench.analysis.sequential import Decision
from sbora_bench.plan.comparison import Planned
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.stages import End
from sbora_bench.results.read import Results


@dataclass(frozen=True)
class Judgement:
    """A planned comparison and its verdict. `seeds_run`: that the verdict could rest on, of `seeds_planned` at most; in
    the others of `decision.seeds` one of the two cells has failed. `rate_ends`: of its cells, those whose learning rate
    was picked at an end of the rates tried.
    """

    planned: Planned
    decision: Decision
    seeds_run: int
    seeds_planned: int
    rate_ends: Mapping[Cell, End] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return self.seeds_run - self.decision.seeds

    @property
    def stopped_early(self) -> bool:
        """Whether it was decided before all seeds that are planned, so that its mean leans away from 0."""
        return self.decision.decided and self.seeds_run < self.seeds_planned

    @property
    def beyond_margin(self) -> bool:
        """Whether the whole interval lies beyond the margin: the difference is shown to matter, not just to be."""
        low, high, margin = self.decision.low, self.decision.high, self.planned.margin
        return low is not None and high is not None and (low > margin or high < -margin)

    @property
    def shown(self) -> tuple[float | None, float | None, float | None]:
        """Difference, and the ends of its interval, as they are shown."""
        decision, scale = self.decision, self.planned.metric.scale
        difference, low, high = (
            None if value is None else scale * value for value in (decision.difference, decision.low, decision.high)
        )
        return difference, low, high


def judgements(results: Results) -> list[Judgement]:
    """Every planned comparison of every table, in the order of the file. Raises UserError for damaged samples."""
    return results.once("judgements", lambda: _judgements(picked(results)))


def _judgements(results: Results) -> list[Judgement]:
    judged = []
    for table, entry in results.plan.experiment.tables.items():
        ends = rate_ends(results, table)
        for planned in results.plan.comparisons(table):
            seeds_run, decision = decided(results, planned, _looks_made(results, planned))
            at_ends = {cell: ends[cell] for cell in planned.cells if cell in ends}
            judged.append(Judgement(planned, decision, seeds_run, len(entry.seeds), at_ends))
    return judged


def _looks_made(results: Results, planned: Planned) -> int:
    """At how many looks both cells have a record of every run; of one that failed too."""
    runs = runs_compared(results, planned)

    def has_record(count: int) -> bool:
        whole = all(len(of_cell) >= count for of_cell in runs.values())
        scores = (results.task_scores(run) for of_cell in runs.values() for run in of_cell[:count])
        return whole and all(None not in by_task.values() for by_task in scores)

    return sum(has_record(count) for count in results.plan.experiment.tables[planned.table].looks_planned)
