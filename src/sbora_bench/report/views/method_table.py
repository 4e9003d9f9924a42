"""Which of two methods is better, at equal rank and at equal trainable parameters: `averages.csv`."""

from sbora_bench.analysis.pairs import PARAMETERS_WITHIN
from sbora_bench.analysis.separation import separation
from sbora_bench.analysis.statistics import LEVEL, POWER
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.titles import model_titles, ranked_title
from sbora_bench.report.render import PrintedTable, Text, csv
from sbora_bench.report.texts import difference_text, p_numbers, p_text
from sbora_bench.report.verdicts import pair_values, verdict_text
from sbora_bench.report.view import AGAIN, PAIR, TableView, of_tables, table_title
from sbora_bench.results.read import Results

PAIR_COLUMNS = ["table", "model", "task", "method_a", "rank_a", "method_b", "rank_b", "equal", "parameters_ratio"]
SEED_COLUMNS = ["p", "p_holm", "differs", "seeds", "sd", "low", "high", "p_seeds", "p_both_holm"]
SEED_COLUMNS += ["seeds_for_1_point", "word"]
AVERAGE_COLUMNS = [*PAIR_COLUMNS, "tasks", "items", "score_a", "score_b", "difference", "items_low", "items_high"]
AVERAGE_COLUMNS += SEED_COLUMNS


def averages_csv(results: Results) -> str:
    """`averages.csv`: a row a pair of cells, on the average of a table's tasks."""
    rows = [pair_values(pair) for pair in separation(results).averages]
    return csv([AVERAGE_COLUMNS, *(p_numbers(row, AVERAGE_COLUMNS) for row in rows)])


def method_table(results: Results, table: str) -> PrintedTable | None:
    """Which method of a table is better, at equal rank and at equal trainable parameters: a row a pair."""
    plan, tested = results.plan, separation(results)
    pairs = tested.method_pairs(table)
    if not pairs:
        return None
    groups: dict[str, list[list[Text]]] = {}
    for pair in pairs:
        ratio = pair.parameters_ratio
        groups.setdefault(pair.model, []).append(
            [
                Text(model_titles(plan, table)[pair.model]),
                Text(ranked_title(plan, table, pair.a.method, pair.a.rank)),
                Text(verdict_text(pair), bold=pair.verdict.shown),
                Text(ranked_title(plan, table, pair.b.method, pair.b.rank)),
                Text(pair.equal),
                Text("–" if ratio is None else f"{ratio:.2f}"),
                Text(difference_text(pair)),
                Text(p_text(pair.p_holm)),
                Text("–" if pair.p_seeds is None else p_text(pair.p_seeds)),
                Text("–" if pair.verdict.p is None else p_text(pair.verdict.p)),
            ]
        )
    averaged = any(pair.table == table for pair in tested.averages)
    family = sum(pair.table == table for pair in (tested.averages if averaged else tested.differences))
    test = "exact McNemar test" if pairs[0].metric.right_or_wrong else "bootstrap of the items"
    over = "the average of the tasks (bootstrap of the items)" if averaged else f"the task ({test})"
    notes = [
        f"{_unit(pairs[0].metric)} of the first over the second, with the 95 % t interval over the seeds. p, items:"
        f" would these very models differ on other items, in {over}; after Holm. p, seeds: would other seeds differ on"
        f" these items (paired t test). p, both: the larger of the two, Holm over the {family} pairs of this table;"
        f" better or worse where it is below {LEVEL}. How many more seeds would show 1 point: with a power of"
        f" {POWER}, by the spread found here, without Holm. One seed gives no interval over seeds.",
        f"Equal parameters: within {100 * PARAMETERS_WITHIN:.0f} %. Pairs of ranks of one method, and all numbers:"
        " averages.csv and differences.csv.",
    ]
    header = [
        "Model",
        "Method",
        "is",
        "than",
        "Equal",
        "Parameters, ratio",
        "Points",
        "p, items",
        "p, seeds",
        "p, both",
    ]
    title = f"Which method is better: {table_title(plan, table)}"
    return PrintedTable(f"methods-{table}", title, header, list(groups.values()), notes, text_columns=5)


def _unit(metric: Metric) -> str:
    if metric.is_share:
        return "Points"
    direction = "" if metric.higher_is_better else ", where less is better,"
    return f"{metric.unit or 'Difference'}{direction}"


METHODS = TableView(
    key="methods",
    subjects=of_tables("methods-"),
    make=method_table,
    section="tests",
    formats=(),
    data_files={"averages.csv": averages_csv},
    hints=(AGAIN, PAIR, ("The numbers", "less {results}/tables/averages.csv")),
)
