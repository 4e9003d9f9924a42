"""Which test items stand in the training set, task by task; on the page."""

from sbora_bench.plan.titles import task_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.read import Results


def contamination_table(results: Results, _: None = None) -> PrintedTable:
    """A row a table and task: how many of its items the training set holds."""
    groups, plan = [], results.plan
    for table, entry in plan.experiment.tables.items():
        record, lines = results.contamination(table), []
        for task in plan.tasks(table):
            items = record.tasks.get(task) if record else None
            numbers = ["not checked", "–", "–"]
            if items is not None and items.status == "ok":
                numbers = [f"{len(items.contaminated):,}", f"{items.available:,}", f"{items.n:,}"]
            elif items is not None:
                numbers = [f"{items.status} ({items.reason})", "–", "–"]
            lines.append([Text(text) for text in (table, entry.train, task_titles(plan, table)[task], *numbers)])
        groups.append(lines)
    header = ["Table", "Training set", "Task", "In the training set", "Items in the file", "Items scored"]
    return PrintedTable("contamination", "Test items in the training set", header, groups, [], text_columns=3)


CONTAMINATION = TableView(
    key="contamination",
    subjects=of_experiment("contamination"),
    make=contamination_table,
    section="contamination",
    formats=(),
    hints=(
        ("Compared anew", "{prepare} --table TABLE --output somewhere"),
        ("Which items", "less {results}/data/TABLE/contamination.json"),
    ),
)
