"""Collected files to the experiment's tables, `tables/`: the views listed here, each a module of `views/`.

`sbora-bench tables -e EXPERIMENT`. Their order is that of the page.
"""

from pathlib import Path

from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.render import markdown, write_table
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.report.views.base_table import REFERENCE_AGAINST_BASE
from sbora_bench.report.views.cell_runs import CELL_RUNS
from sbora_bench.report.views.difference_table import DIFFERENCES
from sbora_bench.report.views.forgetting_table import FORGETTING
from sbora_bench.report.views.format_table import FORMATS
from sbora_bench.report.views.gain_table import GAINS
from sbora_bench.report.views.index_seed_table import INDEX_SEEDS
from sbora_bench.report.views.leaderboard import LEADERBOARD
from sbora_bench.report.views.method_table import METHODS
from sbora_bench.report.views.other_suites_table import OTHER_SUITES
from sbora_bench.report.views.paper_footprint_table import PAPER_FOOTPRINT
from sbora_bench.report.views.rate_table import RATES
from sbora_bench.report.views.region_table import OVERLAPS, REGIONS
from sbora_bench.report.views.score_table import SCORES
from sbora_bench.report.views.verdict_table import VERDICTS
from sbora_bench.results.read import Results


def tests_markdown(results: Results) -> str:
    """`separation.md`: all tables of tests, one below the other."""
    shown = [table for view in TABLES if view.section == "tests" for table in view.tables(results)]
    return "# What this experiment can tell apart\n\n" + "\n".join(map(markdown, shown))


TESTS = TableView(
    key="tests",
    subjects=of_experiment("tests"),
    formats=(),
    data_files={"separation.md": tests_markdown},
)
TABLES: list[TableView] = [
    VERDICTS,
    LEADERBOARD,
    SCORES,
    RATES,
    FORMATS,
    OTHER_SUITES,
    FORGETTING,
    INDEX_SEEDS,
    REGIONS,
    OVERLAPS,
    PAPER_FOOTPRINT,
    CELL_RUNS,
    METHODS,
    REFERENCE_AGAINST_BASE,
    GAINS,
    DIFFERENCES,
    TESTS,
]


def tables(plan: Plan, results: Path) -> None:
    """Write every file of `outputs.table_files`. Raises UserError where `collect` has not run."""
    read, folder = Results(plan, results), results / "tables"
    for view in TABLES:
        for table in view.tables(read) if view.formats else ():
            write_table(table, folder, view.formats)
        for name, text in view.data_files.items() if view.subjects(plan) else ():
            write_text(folder / name, text(read))
