"""Which of two methods is better, at equal rank and at equal trainable parameters: `averages.csv`."""

from sbora_bench.analysis.pairs import Pair, redrawn
from sbora_bench.analysis.separation import separation
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.comparison import PARAMETERS_WITHIN
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.titles import model_title, ranked_title
from sbora_bench.report.collected import scores
from sbora_bench.report.many_methods import compared
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import difference_text, difference_units, p_csv, p_text
from sbora_bench.report.verdicts import outcome_text, pair_values
from sbora_bench.report.view import AGAIN, PAIR, TableView, of_tables, table_title
from sbora_bench.results.read import Results

MANY_PAIRS = 100  # pairs that a reader looks through
PAIR_COLUMNS = ["table", "model", "task", "method_a", "rank_a", "method_b", "rank_b", "equal", "parameters_ratio"]
SEED_COLUMNS = ["p", "q", "differs", "seeds", "sd", "low", "high", "p_seeds", "p_both", "q_both", "word"]
AVERAGE_COLUMNS = [*PAIR_COLUMNS, "tasks", "items", "score_a", "score_b", "difference", "items_low", "items_high"]
AVERAGE_COLUMNS += SEED_COLUMNS


def averages_csv(results: Results) -> str:
    """`averages.csv`: a row a pair of cells, on the average of a table's tasks."""
    return p_csv(AVERAGE_COLUMNS, map(pair_values, redrawn(separation(results).averages)))


def method_table(results: Results, table: str) -> PrintedTable | None:
    """Which method of a table is better, at equal rank and at equal trainable parameters: a row a pair."""
    plan, tested = results.plan, separation(results)
    pairs = tested.method_pairs(table)
    if not pairs:
        return None
    shown = shown_pairs(plan, table, pairs)
    groups: dict[str, list[list[Text]]] = {}
    for pair in shown:
        ratio = pair.parameters_ratio
        groups.setdefault(pair.model, []).append(
            [
                Text(model_title(plan, pair)),
                Text(ranked_title(plan, pair.a)),
                Text(outcome_text(pair), bold=pair.shown),
                Text(ranked_title(plan, pair.b)),
                Text(pair.equal),
                Text("–" if ratio is None else f"{ratio:.2f}"),
                Text(difference_text(pair)),
                Text(p_text(pair.q)),
                Text("–" if pair.q_both is None else p_text(pair.q_both)),
            ]
        )
    averaged = any(pair.table == table for pair in tested.averages)
    family = sum(pair.table == table for pair in (tested.averages if averaged else tested.differences))
    notes = [
        f"Exploratory: which pairs these are was not declared before. {_unit(pairs[0].metric)} of the first over the"
        " second, with the 95 % interval over seeds and items. q, items: would these very models differ on other items"
        " (signs of the items flipped, each averaged over its seeds); q, both: would models of other seeds differ on"
        " other items (one standard error of both). Both after Benjamini and Hochberg over the"
        f" {family} pairs of this table: of what is shown below {LEVEL} one in twenty may be false. The interval is"
        " not corrected so: it may leave out 0 where no difference is shown. One seed shows nothing of other seeds.",
        f"Equal parameters: within {100 * PARAMETERS_WITHIN:.0f} %. Pairs of ranks of one method, and all numbers:"
        " averages.csv and differences.csv.",
    ]
    if len(shown) < len(pairs):
        notes.insert(
            0,
            f"{len(shown)} of {len(pairs)} pairs: those of methods that a comparison was planned for; all are in"
            " averages.csv, and the ranking tests every two cells.",
        )
    frame = scores(results)
    if (frame[frame.table == table].mean_over == "subjects").any():
        notes.append("Every item counts alike here; the table of scores has the mean over subjects.")
    header = [
        "Model",
        "Method",
        "is",
        "than",
        "Equal",
        "Parameters, ratio",
        difference_units([pairs[0].metric]),
        "q, items",
        "q, both",
    ]
    title = f"Which method is better, exploratory: {table_title(plan, table)}"
    return PrintedTable(f"methods-{table}", title, header, list(groups.values()), notes, text_columns=5)


def shown_pairs(plan: Plan, table: str, pairs: list[Pair]) -> list[Pair]:
    """All pairs of a table; of many those of two methods of planned comparisons, and of too many still, as where none
    is planned, those with the smallest p over seeds and items, in their order.
    """
    if len(pairs) <= MANY_PAIRS:
        return pairs
    methods = set(compared(plan, [table]))
    among = [pair for pair in pairs if {pair.a.method, pair.b.method} <= methods] or pairs
    surest = sorted(among, key=lambda pair: 1.0 if pair.p_both is None else pair.p_both)[:MANY_PAIRS]
    return [pair for pair in among if pair in surest]


def _unit(metric: Metric) -> str:
    direction = "" if metric.higher_is_better else ", where less is better,"
    return f"{difference_units([metric])}{direction}"


METHODS = TableView(
    key="methods",
    subjects=of_tables("methods-"),
    make=method_table,
    section="tests",
    formats=(),
    data_files={"averages.csv": averages_csv},
    hints=(AGAIN, PAIR, ("The numbers", "less {results}/tables/averages.csv")),
)
