"""Column by column, how many pairs of methods and ranks differ: `differences.csv`."""

from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.separation import DIFFERENCE_LEVEL, separation
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_titles, ranked_title, task_titles
from sbora_bench.report.counts import count_text, differences_shown
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import difference_units, p_csv, p_text
from sbora_bench.report.verdicts import pair_values
from sbora_bench.report.view import AGAIN, NUMBERS, PAIR, TableView, of_experiment
from sbora_bench.report.views.method_table import PAIR_COLUMNS, SEED_COLUMNS
from sbora_bench.results.read import Results

COLUMNS = [*PAIR_COLUMNS, "pairs", "score_a", "score_b", "difference", "only_a", "only_b", *SEED_COLUMNS]


def differences_csv(results: Results) -> str:
    """`differences.csv`: a row a tested pair and task."""
    return p_csv(COLUMNS, map(pair_values, separation(results).differences))


def difference_table(results: Results, _: None = None) -> PrintedTable:
    """Column by column: how many of the tested pairs differ, and the widest that does."""
    plan, tested = results.plan, separation(results)
    columns: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in tested.differences:
        columns.setdefault((pair.table, pair.model, pair.column), []).append(pair)
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for (table, model, task), pairs in columns.items():
        differing = [pair for pair in pairs if pair.differs]
        widest = max(differing, key=lambda pair: abs(pair.difference), default=None)
        groups.setdefault((table, model), []).append(
            [
                Text(table),
                Text(model_titles(plan, table)[model]),
                Text(task_titles(plan, table)[task]),
                Text(_pair(plan, widest) if widest else "no difference shown"),
                Text(widest.metric.text(abs(widest.difference)) if widest else "–"),
                Text(p_text(widest.q) if widest else "–"),
                Text(f"{len(differing)} of {len(pairs)}"),
            ]
        )
    undecided = [
        f"{task_titles(plan, table)[task]} ({table}, {model_titles(plan, table)[model]})"
        for table, model, task in tested.undecided()
    ]
    notes = [
        "Columns in which two methods of equal rank or parameters, or two ranks of one method, differ,"
        f" q < {DIFFERENCE_LEVEL} after Benjamini and Hochberg over all pairs of a table (signs of the items flipped,"
        " each averaged over its seeds):"
        f" {count_text(plan, differences_shown(tested))}.",
        f"Columns that show no difference: {', '.join(undecided) or 'none'}.",
        "All pairs: differences.csv.",
    ]
    units = difference_units(pair.metric for pair in tested.differences)
    header = ["Table", "Model", "Task", "Widest difference shown", units, "q", "Pairs that differ"]
    title = "Do methods and ranks differ?"
    return PrintedTable("differences", title, header, list(groups.values()), notes, text_columns=4)


def _pair(plan: Plan, pair: Pair) -> str:
    better, worse = (pair.a, pair.b) if pair.gain > 0 else (pair.b, pair.a)
    return " over ".join(ranked_title(plan, cell) for cell in (better, worse))


DIFFERENCES = TableView(
    key="differences",
    subjects=of_experiment("differences"),
    make=difference_table,
    section="tests",
    formats=(),
    data_files={"differences.csv": differences_csv},
    hints=(AGAIN, PAIR, NUMBERS),
)
