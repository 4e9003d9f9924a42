"""Which of two methods is better, at equal rank and at equal trainable parameters: `averages.csv`."""

from sbora_bench.analysis.pairs import PARAMETERS_WITHIN
from sbora_bench.analysis.separation import separation
from sbora_bench.analysis.statistics import LEVEL, POWER
from sbora_bench.plan.titles import model_titles, ranked_title
from sbora_bench.report.render import PrintedTable, Text, csv
from sbora_bench.report.texts import difference_text, p_numbers, p_text
from sbora_bench.report.verdicts import method_rows
from sbora_bench.report.view import AGAIN, PAIR, TableView, of_tables, table_title
from sbora_bench.results.read import Results

PAIR_COLUMNS = ["table", "model", "task", "method_a", "rank_a", "method_b", "rank_b", "equal", "parameters_ratio"]
SEED_COLUMNS = ["p", "p_holm", "differs", "seeds", "sd", "low", "high", "p_seeds", "p_both_holm"]
SEED_COLUMNS += ["seeds_for_1_point", "word"]
AVERAGE_COLUMNS = [*PAIR_COLUMNS, "tasks", "items", "score_a", "score_b", "difference", "items_low", "items_high"]
AVERAGE_COLUMNS += SEED_COLUMNS


def averages_csv(results: Results) -> str:
    """`averages.csv`: a row a pair of cells, on the average of a table's tasks."""
    return csv([AVERAGE_COLUMNS, *(p_numbers(row, AVERAGE_COLUMNS) for row in separation(results).averages)])


def method_table(results: Results, table: str) -> PrintedTable | None:
    """Which method of a table is better, at equal rank and at equal trainable parameters: a row a pair."""
    plan, tested = results.plan, separation(results)
    rows = method_rows(tested, table)
    if not rows:
        return None
    groups: dict[str, list[list[Text]]] = {}
    for row in rows:
        ratio = row["parameters_ratio"]
        groups.setdefault(row["model"], []).append(
            [
                Text(model_titles(plan, row["table"])[row["model"]]),
                Text(ranked_title(plan, row["table"], row["method_a"], row["rank_a"])),
                Text(row["word"], bold=row["word"] in ("better", "worse")),
                Text(ranked_title(plan, row["table"], row["method_b"], row["rank_b"])),
                Text(row["equal"]),
                Text("–" if ratio is None else f"{ratio:.2f}"),
                Text(difference_text(row)),
                Text(p_text(row["p_holm"])),
                Text("–" if row["p_seeds"] is None else p_text(row["p_seeds"])),
                Text("–" if row["p_both_holm"] is None else p_text(row["p_both_holm"])),
            ]
        )
    averaged = any(row["table"] == table for row in tested.averages)
    family = sum(row["table"] == table for row in (tested.averages if averaged else tested.differences))
    over = "the average of the tasks (bootstrap of the items)" if averaged else "the task (exact McNemar test)"
    notes = [
        f"Points of the first over the second, with the 95 % t interval over the seeds. p, items: would these very"
        f" models differ on other items, in {over}; after Holm. p, seeds: would other seeds differ on these items"
        f" (paired t test). p, both: the larger of the two, Holm over the {family} pairs of this table; better or worse"
        f" where it is below {LEVEL}. How many more seeds would show 1 point: with a power of {POWER}, by the spread"
        " found here, without Holm. One seed gives no interval over seeds.",
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


METHODS = TableView(
    key="methods",
    subjects=of_tables("methods-"),
    make=method_table,
    section="tests",
    formats=(),
    data_files={"averages.csv": averages_csv},
    hints=(AGAIN, PAIR, ("The numbers", "less {results}/tables/averages.csv")),
)
