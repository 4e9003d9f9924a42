"""LoRA at its top rank against the untuned base and the most frequent answer: `separation.csv`, and `separation.md`."""

from sbora_bench.analysis.separation import CLAIM_LEVEL, MARGIN, separation
from sbora_bench.plan.titles import model_titles, ranked_title, task_titles
from sbora_bench.report.counts import count_text
from sbora_bench.report.render import PrintedTable, Text, csv
from sbora_bench.report.texts import p_numbers, p_text
from sbora_bench.report.view import AGAIN, NUMBERS, PAIR, TableView, of_experiment
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
COLUMNS += ["most_frequent_answer", "most_frequent_rate", "p", "p_holm", "holds"]


def base_csv(results: Results) -> str:
    """`separation.csv`: a row a column."""
    return csv([COLUMNS, *(p_numbers(row, COLUMNS) for row in separation(results).claims)])


def base_table(results: Results, _: None = None) -> PrintedTable:
    """LoRA at its top rank against the base and the most frequent answer, column by column."""
    plan, claims = results.plan, separation(results).claims
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for row in claims:
        groups.setdefault((row["table"], row["model"]), []).append(
            [
                Text(row["table"]),
                Text(model_titles(plan, row["table"])[row["model"]]),
                Text(task_titles(plan, row["table"])[row["task"]]),
                Text(ranked_title(plan, row["table"], row["method"], row["rank"])),
                Text(f"{100 * row['score']:.1f}"),
                Text(f"{100 * row['base']:.1f}"),
                Text(f"{100 * row['most_frequent_rate']:.1f}"),
                Text(f"{row['pairs']:,}"),
                Text(p_text(row["p_holm"])),
                Text("yes" if row["holds"] else "no", bold=row["holds"]),
            ]
        )
    notes = [
        f"Holds on {count_text(plan, claims, 'holds')}. It holds where the score beats both by"
        f" {100 * MARGIN:.0f} points or more and p < {CLAIM_LEVEL} after Holm over all these columns (exact McNemar"
        " test against the base).",
        "Per cent of all items of all seeds. A pair is one item under one seed, so p speaks of the models trained here"
        " on these items, and not of how another draw of seeds would fall.",
    ]
    header = ["Table", "Model", "Task", "Method", "Score", "Base", "Most frequent answer", "Pairs", "p, Holm", "Holds"]
    title = "Does tuning show? LoRA at its top rank against the untuned base and the most frequent answer"
    return PrintedTable("separation", title, header, list(groups.values()), notes, text_columns=4)


REFERENCE_AGAINST_BASE = TableView(
    key="separation",
    subjects=of_experiment("separation"),
    make=base_table,
    section="tests",
    formats=(),
    data_files={"separation.csv": base_csv},
    hints=(AGAIN, PAIR, NUMBERS),
)
