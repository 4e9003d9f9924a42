"""What picking a learning rate did: the table `rates-<table>`.

The choice itself is made in learning_rates.py, without the test items that are read here.
"""

import math
from collections.abc import Sequence
from typing import Any

from sbora_bench.analysis.learning_rates import by_loss, edge_of
from sbora_bench.analysis.rate_gains import RateScore, rate_scores
from sbora_bench.analysis.statistics import Summary
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, rate_text
from sbora_bench.plan.titles import cell_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import difference_text, p_text
from sbora_bench.report.view import TableView, of_tables, table_title
from sbora_bench.results.read import Results

RATES_PREFIX = "rates-"
COLUMNS = ["table", "model", "method", "rank", "learning_rate", "picked", "default", "seeds", "validation_items"]
COLUMNS += ["validation", "validation_sd", "score", "score_sd"]
GAIN = ["difference", "items_low", "items_high", "p", "low", "high", "p_seeds"]


def varies_rate(plan: Plan, table: str) -> bool:
    """Whether a table picks its learning rates."""
    return bool(plan.experiment.tables[table].learning_rates)


def rate_table(results: Results, table: str) -> PrintedTable:
    """A row a cell: its score on the held-out rows at each rate, the rate picked, and what that gains."""
    plan = results.plan
    rates, default = plan.experiment.tables[table].learning_rates, plan.protocol(table).learning_rate
    rows = rate_scores(results, table)
    by_cell: dict[Cell, dict[float, RateScore]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, {})[row.learning_rate] = row
    if plan.experiment.tables[table].picking_seeds:
        return _picked_first(results, table, by_cell)
    groups: dict[str, list[list[Text]]] = {}
    for cell, by_rate in by_cell.items():
        best = next(row for row in by_rate.values() if row.picked)
        line = [Text(title) for title in cell_titles(plan, cell)]
        line += [_rate_cell(by_rate[rate]) for rate in rates]
        line += [Text(rate_text(best.learning_rate)), Text(_percent(best.score))]
        groups.setdefault(cell.model, []).append([*line, Text(_percent(by_rate[default].score)), _gain_cell(best)])
    n = max((row.validation_items for row in rows), default=0)
    tested = "average of the table's tasks" if len(plan.tasks(table)) > 1 else "table's task"
    notes = [
        f"Per cent right of {n:,} training rows held out of training, mean ± standard deviation over the seeds; test:"
        f" the {tested} at the same rate, which has no part in the choice. Bold: the rate picked, the highest on the"
        " held-out rows and of equals the lowest; a failed run has nothing right. All other tables show that rate.",
        f"Gain: points on the test items over the protocol's rate, {rate_text(default)}. In brackets the 95 % interval"
        " over seeds and items (one seed: none); p, items: would these very models differ on other items; p, seeds:"
        " would other seeds differ on these. Not corrected for the number of rows.",
    ]
    header = ["Model", "Method", *map(rate_text, rates), "Picked", "Score", f"At {rate_text(default)}", "Gain"]
    numbers = [[*COLUMNS, *GAIN], *(_numbers(row) for row in rows)]
    title = f"Learning rate by held-out training rows: {table_title(plan, table)}"
    return PrintedTable(f"{RATES_PREFIX}{table}", title, header, list(groups.values()), notes, numbers, text_columns=2)


def _picked_first(results: Results, table: str, by_cell: dict[Cell, dict[float, RateScore]]) -> PrintedTable:
    """The same of rates that were picked before the table's own runs were made: there is no other rate's test score."""
    plan, entry, loss = results.plan, results.plan.experiment.tables[table], by_loss(results.plan, table)
    further = {rate for by_rate in by_cell.values() for rate in by_rate} - {*entry.learning_rates}
    rates = sorted({*entry.learning_rates, *further}) if further else entry.learning_rates
    groups: dict[str, list[list[Text]]] = {}
    for cell, by_rate in by_cell.items():
        best = next(row for row in by_rate.values() if row.picked)
        line = [Text(title) for title in cell_titles(plan, cell)]
        tried = [by_rate.get(rate) for rate in rates]
        line += [Text(_held(row, loss), row.picked) if row else Text("") for row in tried]
        edge = edge_of(best.learning_rate, by_rate)
        line.append(Text(rate_text(best.learning_rate), below=(f"the {edge} tried",) if edge else ()))
        groups.setdefault(cell.model, []).append(line)
    rows = [row for by_rate in by_cell.values() for row in by_rate.values()]
    n = max((row.validation_items for row in rows), default=0)
    notes = [
        f"{'Loss of the gold answer, nats a token,' if loss else 'Per cent right'} of {n:,} training rows held out of"
        f" training, {_of_seeds(entry.picking_seeds)}. Bold: the rate picked, the best on the held-out rows and of"
        " equals the lowest; a rate at which a run failed is none. Every other table is of runs at that rate with"
        " other seeds. Where it is the lowest or the highest tried, a better one may lie beyond."
        + (" Empty: tried by those alone whose best rate till then ended their grid." if further else ""),
    ]
    header = ["Model", "Method", *map(rate_text, rates), "Picked"]
    numbers = [[*COLUMNS, *GAIN], *(_numbers(row) for row in rows)]
    title = f"Learning rate by held-out training rows: {table_title(plan, table)}"
    return PrintedTable(f"{RATES_PREFIX}{table}", title, header, list(groups.values()), notes, numbers, text_columns=2)


def _of_seeds(seeds: Sequence[int]) -> str:
    """What a score on held-out rows is over the seeds that only pick."""
    if len(seeds) == 1:
        return f"of the one seed that only picks ({seeds[0]}): another might pick a rate beside"
    return f"mean ± standard deviation over the seeds that only pick ({', '.join(map(str, seeds))})"


def _numbers(row: RateScore) -> list[Any]:
    cell, score = row.cell, row.score
    names = [cell.table, cell.model, cell.method, cell.rank, row.learning_rate, row.picked, row.default, row.seeds]
    scores = [row.validation_items, row.validation.mean, row.validation.sd]
    scores += [score.mean, score.sd] if score else [None, None]
    return names + scores + [None if row.gain is None else getattr(row.gain, key) for key in GAIN]


def _percent(score: Summary | None) -> str:
    return "failed" if score is None else f"{100 * score.mean:.1f}"


def _held(row: RateScore, loss: bool = False) -> str:
    """On the held-out rows: per cent right, or the loss, which less itself is what a rate is picked by."""
    mean, sd = row.validation.mean, row.validation.sd
    if not math.isfinite(mean):
        return "failed"
    if loss:
        return f"{-mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}")
    return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def _rate_cell(row: RateScore) -> Text:
    return Text(_held(row), row.picked, (f"test {_percent(row.score)}",))


def _gain_cell(best: RateScore) -> Text:
    gain = best.gain
    if best.default:
        return Text("0, the protocol's")
    if gain is None:
        return Text("–")
    below = [f"p, items {p_text(gain.p)}"] + ([] if gain.p_seeds is None else [f"p, seeds {p_text(gain.p_seeds)}"])
    return Text(difference_text(gain), below=tuple(below))


RATES = TableView(
    key="rates",
    subjects=of_tables(RATES_PREFIX, varies_rate),
    make=rate_table,
    caption="Learning rates by held-out training rows, and what picking one gained.",
)
