"""A table's tuned cells against their bases, task by task: `gains.csv`."""

from sbora_bench.analysis.separation import DIFFERENCE_LEVEL, separation
from sbora_bench.plan.titles import model_titles, ranked_title, task_titles
from sbora_bench.report.render import PrintedTable, Text, csv
from sbora_bench.report.texts import p_numbers, p_text
from sbora_bench.report.view import AGAIN, PAIR, TableView, of_tables, table_title
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
COLUMNS += ["difference", "only_tuned", "only_base", "p", "p_holm", "differs"]


def gains_csv(results: Results) -> str:
    """`gains.csv`: a row a cell and task."""
    return csv([COLUMNS, *(p_numbers(row, COLUMNS) for row in separation(results).gains)])


def gain_table(results: Results, table: str) -> PrintedTable | None:
    """A table's tuned cells against their bases: the difference in points, and p."""
    plan, rows = results.plan, [row for row in separation(results).gains if row["table"] == table]
    if not rows:
        return None
    gains = {(row["model"], row["method"], row["rank"], row["task"]): row for row in rows}
    tasks = plan.tasks(table)
    groups: dict[str, list[list[Text]]] = {}
    for model, method, rank in dict.fromkeys(cell[:3] for cell in gains):
        line = [Text(model_titles(plan, table)[model]), Text(ranked_title(plan, table, method, rank))]
        for task in tasks:
            row = gains.get((model, method, rank, task))
            text = f"{100 * row['difference']:+.1f}".replace("-", "−") if row else "–"
            text = "0.0" if text in ("+0.0", "−0.0") else text
            below = (f"p {p_text(row['p_holm'])}",) if row else ()
            line.append(Text(text, bool(row and row["differs"]), below))
        groups.setdefault(model, []).append(line)
    notes = [
        f"Points over the base on the same items, all seeds pooled. Bold: p < {DIFFERENCE_LEVEL} after Holm over this"
        " table (exact McNemar test). Counts: gains.csv."
    ]
    header = ["Model", "Method", *(task_titles(plan, table)[task] for task in tasks)]
    title = f"What tuning changed: {table_title(plan, table)}"
    return PrintedTable(f"gains-{table}", title, header, list(groups.values()), notes, text_columns=2)


GAINS = TableView(
    key="gains",
    subjects=of_tables("gains-"),
    make=gain_table,
    section="tests",
    formats=(),
    data_files={"gains.csv": gains_csv},
    hints=(AGAIN, PAIR, ("The numbers", "less {results}/tables/gains.csv")),
)
