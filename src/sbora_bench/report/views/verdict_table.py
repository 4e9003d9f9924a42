"""The verdict on each planned comparison: `verdicts.csv`, and in words on the page."""

from typing import Any

from sbora_bench.analysis.judged import Judgement, judgements
from sbora_bench.plan.comparison import ranked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import model_title, ranked_title
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.verdicts import interval_text, measured
from sbora_bench.report.view import AGAIN, NUMBERS, TableView, of_experiment, table_title
from sbora_bench.results.read import Results

VERDICTS_NAME = "verdicts"
COLUMNS = ["table", "model", "a", "b", "equal", "metric", "verdict", "seeds", "difference", "low", "high", "margin"]
COLUMNS += ["seeds_run", "seeds_planned"]
OWN_SCORE = "score"  # of the tasks, where a comparison names no metric


def has_comparisons(plan: Plan) -> bool:
    """Whether an experiment plans any."""
    return any(table.comparisons for table in plan.experiment.tables.values())


def verdict_table(results: Results, _: None = None) -> PrintedTable:
    """A row a planned comparison; blocks of a table and model."""
    plan = results.plan
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for one in judgements(results):
        planned, decision = one.planned, one.decision
        a, b = (_cell(results, one, cell) for cell in planned.cells)
        failed = (f"{one.failed} failed",) if one.failed else ()
        line = [Text(table_title(plan, planned.table)), Text(model_title(plan, planned)), a]
        line += [Text(decision.verdict.value, bold=decision.decided, tone=decision.verdict.value), b]
        line += [Text(planned.equal), Text(interval_text(one)), Text(planned.metric.text(planned.margin))]
        line += [Text(f"{decision.seeds} of {one.seeds_planned}", below=failed), Text(measured(one))]
        groups.setdefault((planned.table, planned.model), []).append(line)
    notes = [
        "Planned before anything ran, and decided by these tests alone: a table's comparisons share 5 %, each over all"
        " its looks (the interval is the repeated one: it holds wherever training stopped). Better and worse: of the"
        " first, the interval lies on one side of 0; that a difference matters is shown where it lies beyond the margin"
        " too. Equivalent: it lies within the margin, the difference that"
        " doesn't matter. Undecided: neither, with all the seeds planned or run so far.",
        "The mean of a comparison that stopped early leans away from 0; its interval allows for it. Where all seeds"
        " share their items the interval allows for other items too.",
    ]
    header = ["Table", "Model", "Method", "is", "than", "Equal", "Difference", "Margin", "Seeds", "Measured in"]
    numbers: list[list[Any]] = [COLUMNS, *map(_numbers, judgements(results))]
    title = "Planned comparisons, decided"
    return PrintedTable(VERDICTS_NAME, title, header, list(groups.values()), notes, numbers, text_columns=6)


def _cell(results: Results, one: Judgement, cell: Cell) -> Text:
    end = one.rate_ends.get(cell)
    name = ranked_title(results.plan, cell)
    return Text(name, below=(f"{end} learning rate tried",) if end else ())


def _numbers(one: Judgement) -> list[Any]:
    planned, decision = one.planned, one.decision
    names = [planned.table, planned.model, ranked(planned.a), ranked(planned.b), planned.equal]
    names += [planned.metric_name or OWN_SCORE, decision.verdict.value]
    ends = [decision.difference, decision.low, decision.high, planned.margin]
    return [*names, decision.seeds, *ends, one.seeds_run, one.seeds_planned]


VERDICTS = TableView(
    key="verdicts",
    subjects=of_experiment(VERDICTS_NAME, has_comparisons),
    make=verdict_table,
    caption="Which of two planned cells is better, worse or equivalent, with the repeated interval of the difference.",
    hints=(AGAIN, NUMBERS),
)
