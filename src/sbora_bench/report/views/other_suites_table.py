"""Every cell on the suites that a table names beside its own, against the untuned base: `also-<table>`."""

from typing import Any

from sbora_bench.analysis.forgetting import COLUMNS, LOSS, also_rows
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_titles, ranked_title
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.view import TableView, of_tables, table_title
from sbora_bench.results.read import Results

OTHER_SUITES_PREFIX, FORGETTING_PREFIX = "also-", "forgetting-"


def has_other_suites(plan: Plan, table: str) -> bool:
    """Whether a table scores suites beside its own."""
    return bool(plan.experiment.tables[table].also)


def measure_title(plan: Plan, measure: str) -> str:
    suite = measure.removesuffix(LOSS)
    title = plan.catalog.suites[suite].title
    return f"{title}, loss" if measure.endswith(LOSS) else title


def other_suites_table(results: Results, table: str) -> PrintedTable:
    """A row a cell: every suite's average, and the change over the base."""
    plan, rows = results.plan, also_rows(results, table)
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["method"], row["rank"]), {})[row["measure"]] = row
    groups: dict[str, list[list[Text]]] = {}
    for (model, method, rank), by_measure in cells.items():
        base = cells.get((model, "base", None), {})
        count = next(iter(by_measure.values()))["trainable_parameters"]
        name = ranked_title(plan, table, method, rank)
        line = [Text(model_titles(plan, table)[model]), Text(name), Text(f"{count:,}" if count else "–")]
        line += [
            _score_text(by_measure.get(measure), base.get(measure) if method != "base" else None)
            for measure in measures
        ]
        groups.setdefault(model, []).append(line)
    trained = plan.experiment.tables[table].train
    notes = [
        f"All tuned on {trained}; the first column of scores is the suite that this is for, the others are what the"
        " models were not tuned for. Scores are averages of a suite's tasks in per cent, a loss is in nats a token;"
        " mean ± standard deviation over the seeds. Below: the change over the untuned base.",
        f"Which of two methods keeps more: {FORGETTING_PREFIX}{table}.",
    ]
    header = ["Model", "Method", "Trainable parameters", *(measure_title(plan, measure) for measure in measures)]
    numbers = [COLUMNS, *([row[key] for key in COLUMNS] for row in rows)]
    title = f"What tuning forgets: {table_title(plan, table)}"
    return PrintedTable(
        f"{OTHER_SUITES_PREFIX}{table}", title, header, list(groups.values()), notes, numbers, text_columns=2
    )


def _score_text(row: dict[str, Any] | None, base: dict[str, Any] | None) -> Text:
    if row is None:
        return Text("–")
    scale, digits = (1, 3) if row["measure"].endswith(LOSS) else (100, 1)
    spread = "" if row["sd"] is None else f" ± {scale * row['sd']:.{digits}f}"
    below = () if base is None else (f"{scale * (row['mean'] - base['mean']):+.{digits}f}".replace("-", "−"),)
    return Text(f"{scale * row['mean']:.{digits}f}{spread}", below=below)


OTHER_SUITES = TableView(
    key="also",
    subjects=of_tables(OTHER_SUITES_PREFIX, has_other_suites),
    make=other_suites_table,
    caption="What tuning forgets: the suite tuned for beside others, and the change over the untuned base.",
)
