"""What tuning changed of the form of answers, and of their content: `format-<table>`, on the page."""

from sbora_bench.analysis.answer_formats import AnswerShares, answer_shares, tasks_asked_both_ways
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import cell_titles, task_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import signed
from sbora_bench.report.view import RUN, TableView, of_tables, table_title
from sbora_bench.results.read import Results

SHARES = {
    "in_the_format": "Answer in the format",
    "right_by_likelihood": "Right by likelihood",
    "right_as_generated": "Right as generated",
}


def is_asked_both_ways(plan: Plan, table: str) -> bool:
    """Whether a table has choices that are generated and whose labels' likelihoods are taken too."""
    return bool(tasks_asked_both_ways(plan, table))


def format_table(results: Results, table: str) -> PrintedTable | None:
    """A row a cell: the shares of `AnswerShares` in per cent, below each the change over the untuned base."""
    plan, rows = results.plan, answer_shares(results, table)
    if not rows:
        return None
    bases = {row.cell.model: row for row in rows if row.cell.is_base}
    groups: dict[str, list[list[Text]]] = {}
    for row in rows:
        line = [*map(Text, cell_titles(plan, row.cell)), Text(str(row.seeds))]
        line += [_share_text(row, bases.get(row.cell.model), share) for share in SHARES]
        groups.setdefault(row.cell.model, []).append(line)
    tasks = ", ".join(task_titles(plan, table)[task] for task in tasks_asked_both_ways(plan, table))
    notes = [
        f"Per cent of the items of {tasks}, the mean over tasks and seeds; below, the change in points over the untuned"
        " base. In the format: the protocol reads an answer out of what was generated, right or wrong. By likelihood:"
        " the likeliest of all labels, each put in the words of the right answer, so that no format need be known.",
        "No test: where the first column rises and the second does not, tuning taught the form of an answer.",
    ]
    header = ["Model", "Method", "Seeds", *SHARES.values()]
    title = f"Format and content of answers: {table_title(plan, table)}"
    return PrintedTable(f"format-{table}", title, header, list(groups.values()), notes, text_columns=2)


def _share_text(row: AnswerShares, base: AnswerShares | None, share: str) -> Text:
    value = getattr(row, share)
    below = () if base is None or row.cell.is_base else (signed(100 * (value - getattr(base, share)), 1),)
    return Text(f"{100 * value:.1f}", below=below)


FORMATS = TableView(
    key="formats",
    subjects=of_tables("format-", is_asked_both_ways),
    make=format_table,
    formats=(),
    hints=(RUN, ("Which items", "less {results}/runs/RUN/samples/TASK.jsonl")),
)
