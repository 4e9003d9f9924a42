"""The methods of a table ranked, with intervals of the ranks; of few those that can't be told apart share a letter."""

from sbora_bench.analysis.ranking import Ranked, rankings
from sbora_bench.plan.titles import cell_titles
from sbora_bench.report.render import PrintedTable, Text, csv
from sbora_bench.report.texts import whole
from sbora_bench.report.verdicts import decided_otherwise
from sbora_bench.report.view import AGAIN, TableView, of_tables, table_title
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "method", "rank", "place", "first", "last", "letters", "seeds", "mean", "low", "high"]
COLUMNS += ["trainable_parameters"]


def leaderboard_csv(results: Results) -> str:
    """`leaderboard.csv`: a row a cell, best first within its table and model."""
    rows = []
    for table in results.plan.experiment.tables:
        for ranking in rankings(results, table):
            for place, one in enumerate(ranking.cells, start=1):
                cell, score = one.cell, one.score
                names = [cell.table, cell.model, cell.method, cell.rank, place, one.first, one.last, one.letters]
                rows.append([*names, score.n, score.mean, score.low, score.high, one.trainable_parameters])
    return csv([COLUMNS, *rows])


def leaderboard(results: Results, table: str) -> PrintedTable | None:
    """The cells of a table, best first; a block a model."""
    plan, ranked = results.plan, rankings(results, table)
    if not ranked:
        return None
    lettered = all(one.letters for ranking in ranked for one in ranking.cells)
    groups = [
        [
            [
                *map(Text, cell_titles(plan, one.cell)),
                Text(str(place)),
                Text(f"{one.first} to {one.last}" if one.first < one.last else str(one.first)),
                *([Text(one.letters)] if lettered else []),
                Text(_score(one)),
                Text(whole(one.trainable_parameters)),
                Text(str(one.score.n)),
            ]
            for place, one in enumerate(ranking.cells, start=1)
        ]
        for ranking in ranked
    ]
    unit = ranked[0].cells[0].metric.shown_unit
    letters = "Cells that share a letter can't be told apart" if lettered else "Two cells are told apart by a test"
    notes = [
        "Place: by the mean of the table's own tasks, each a mean over its items, also where the table of scores has"
        " the mean over subjects. Its interval: from one more than the number of cells shown to be better, to as many"
        f" as are not shown to be worse, all at once at 95 %. {letters} (over seeds and items; Holm over all pairs of a"
        " table and model). In brackets: the 95 % interval of the score over the seeds.",
        *decided_otherwise(plan, [table]),
    ]
    header = ["Model", "Method", "Place", "Interval of the place", *(["Letters"] if lettered else [])]
    header += [f"Score{f', {unit}' if unit else ''}", "Trainable parameters", "Seeds"]
    title = f"Ranked: {table_title(plan, table)}"
    return PrintedTable(f"leaderboard-{table}", title, header, groups, notes, text_columns=2)


def _score(one: Ranked) -> str:
    metric, score = one.metric, one.score
    ends = "" if score.low is None or score.high is None else f" {metric.interval_text(score.low, score.high)}"
    return metric.text(score.mean) + ends


LEADERBOARD = TableView(
    key="leaderboard",
    subjects=of_tables("leaderboard-"),
    make=leaderboard,
    section="ranked",
    formats=(),
    data_files={"leaderboard.csv": leaderboard_csv},
    hints=(AGAIN, ("The numbers", "less {results}/tables/leaderboard.csv")),
)
