"""Every file that tables, figures, audit and page leave, known from the plan alone; imports nothing heavy."""

from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.figures import FIGURES
from sbora_bench.report.tables import TABLES
from sbora_bench.report.view import TABLE_FORMATS

PAGE = "report.html"
COLLECTED = ("scores.csv", "footprint.csv", "budget.csv")
PUBLISHED_FORMATS = ("md", "csv", "svg")


def table_files(plan: Plan) -> list[str]:
    """Every file that `tables` writes, relative to the results folder. Raises UserError where two would be one."""
    return _different(plan, [file for view in TABLES for file in view.files(plan)])


def figure_files(plan: Plan) -> list[str]:
    """Every file that `figures` writes, relative to the results folder. Raises UserError where two would be one."""
    return _different(plan, [file for view in FIGURES for file in view.files(plan)])


def audit_files() -> list[str]:
    """Every file that `audit` writes, relative to the results folder."""
    return ["audit.json", *(f"audit.{suffix}" for suffix in TABLE_FORMATS)]


def published_files(plan: Plan) -> list[str]:
    """What `make publish` copies: the collected files, and Markdown, CSV and SVG of the views that are published."""
    files = [file for table in TABLES if table.published for file in table.files(plan)]
    files += [file for figure in FIGURES if figure.published for file in figure.files(plan)]
    return [*COLLECTED, *(file for file in files if file.rpartition(".")[2] in PUBLISHED_FORMATS)]


def figure_captions(plan: Plan) -> dict[str, str]:
    """Name of every figure -> what it shows."""
    return {name: view.caption(plan, subject) for view in FIGURES for name, subject in view.subjects(plan).items()}


def timed_figures(plan: Plan) -> set[str]:
    """Names of the figures that show what a machine's clock said."""
    return {name for view in FIGURES if view.timed for name in view.subjects(plan)}


def figure_sections(plan: Plan) -> dict[str, str]:
    """Name of every figure -> the section of the page that shows it."""
    return {name: view.section for view in FIGURES for name in view.subjects(plan)}


def _different(plan: Plan, files: list[str]) -> list[str]:
    twice = next((file for place, file in enumerate(files) if file in files[:place]), None)
    if twice is not None:
        name = twice.rpartition("/")[2].partition(".")[0]
        raise UserError(f"{plan.path}: tables.{name}: this name is taken by a file of results; choose another")
    return files
