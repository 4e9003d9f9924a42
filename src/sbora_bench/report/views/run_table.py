"""Every run: its mean score, how training went, what it took; on the page."""

from sbora_bench.plan.runs import Run
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import fraction, whole
from sbora_bench.report.view import RUN, TableView, of_experiment
from sbora_bench.results.read import Results
from sbora_bench.results.records import Training


def run_table(results: Results, _: None = None) -> PrintedTable:
    """A line a run: its mean score, how training went, what it ran on; or why it has none."""
    groups: dict[tuple, list[list[Text]]] = {}
    for run in results.plan.runs:
        groups.setdefault((run.table, run.model), []).append([Text(text) for text in _run_line(results, run)])
    header = ["Run", "Status", "Mean score, %", "Updates", "Last loss", "Seconds", "Tokens a second", "Peak, MiB"]
    notes = ["Mean over the run's tasks. Seconds and memory are this machine's, and differ between reproductions."]
    return PrintedTable("runs", "Every run", header, list(groups.values()), notes, text_columns=2)


def _run_line(results: Results, run: Run) -> list[str]:
    scores = results.task_scores(run)
    values = [score.value for score in scores.values() if score and score.status == "ok" and score.value is not None]
    bad = dict.fromkeys(
        f"{score.status} ({score.reason})" if score else "not run"
        for score in scores.values()
        if score is None or score.status != "ok"
    )
    metric = results.plan.common_metric(run.table, list(scores))
    record = results.training(run)
    happened = record.happened if record else Training()
    losses = happened.losses()
    return [
        run.name,
        "; ".join(bad) or "ok",
        f"{metric.scale * sum(values) / len(values):.{metric.digits}f}" if values and metric else "–",
        whole(happened.steps),
        f"{losses[-1]:.3f}" if losses else "–",
        fraction(happened.seconds, 1),
        fraction(happened.tokens_per_second, 0),
        fraction(happened.peak_memory_bytes, 0, 2**20),
    ]


RUNS = TableView(
    key="runs",
    subjects=of_experiment("runs"),
    make=run_table,
    section="runs",
    timed=True,
    formats=(),
    hints=(RUN, ("One run again", "{finetune} RUN; {evaluate} RUN")),
)
