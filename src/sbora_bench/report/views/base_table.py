"""LoRA at its top rank against the untuned base and the most frequent answer: `separation.csv`, and `separation.md`."""

from typing import Any

from sbora_bench.analysis.separation import MARGIN, REFERENCE_LEVEL, ReferenceGain, separation
from sbora_bench.plan.titles import model_title, ranked_title, task_titles
from sbora_bench.report.counts import count_text, references_shown
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import p_csv, p_text
from sbora_bench.report.view import AGAIN, NUMBERS, PAIR, TableView, of_experiment
from sbora_bench.report.views.gain_table import gain_values
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
COLUMNS += ["most_frequent_answer", "most_frequent_rate", "p", "p_holm", "holds"]


def base_csv(results: Results) -> str:
    """`separation.csv`: a row a column."""
    return p_csv(COLUMNS, map(_values, separation(results).references))


def base_table(results: Results, _: None = None) -> PrintedTable:
    """LoRA at its top rank against the base and the most frequent answer, column by column."""
    plan, tested = results.plan, separation(results)
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for one in tested.references:
        gain, cell = one.gain, one.gain.cell
        groups.setdefault((cell.table, cell.model), []).append(
            [
                Text(cell.table),
                Text(model_title(plan, cell)),
                Text(task_titles(plan, cell.table)[gain.task]),
                Text(ranked_title(plan, cell)),
                Text(f"{100 * gain.score:.1f}"),
                Text(f"{100 * gain.base:.1f}"),
                Text(f"{100 * one.most_frequent_rate:.1f}"),
                Text(f"{gain.pairs:,}"),
                Text(p_text(one.p_holm)),
                Text("yes" if one.holds else "no", bold=one.holds),
            ]
        )
    notes = [
        f"Holds on {count_text(plan, references_shown(tested))}. It holds where the score is shown to beat both by more"
        f" than {100 * MARGIN:.0f} points: p < {REFERENCE_LEVEL} after Holm over all these columns (one-sided, over"
        " seeds and items together; the larger of the two).",
        "Per cent of all items of all seeds. A pair is one item under one seed.",
    ]
    header = ["Table", "Model", "Task", "Method", "Score", "Base", "Most frequent answer", "Pairs", "p, Holm", "Holds"]
    title = "Does tuning show? LoRA at its top rank against the untuned base and the most frequent answer"
    return PrintedTable("separation", title, header, list(groups.values()), notes, text_columns=4)


def _values(one: ReferenceGain) -> dict[str, Any]:
    answer = {"most_frequent_answer": one.most_frequent_answer, "most_frequent_rate": one.most_frequent_rate}
    return gain_values(one.gain) | answer | {"p": one.p, "p_holm": one.p_holm, "holds": one.holds}


REFERENCE_AGAINST_BASE = TableView(
    key="separation",
    subjects=of_experiment("separation"),
    make=base_table,
    section="tests",
    formats=(),
    data_files={"separation.csv": base_csv},
    hints=(AGAIN, PAIR, NUMBERS),
)
