"""Heat maps of what the first run of each cell changes in its base's weights: `region-<run>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sbora_bench.analysis.regions import heat_data
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.titles import cell_titles
from sbora_bench.report.view import FigureView, table_title
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def first_runs(plan: Plan) -> dict[str, Run]:
    """Name of a figure -> its run: of each cell whose regions are shown, the one of the first seed."""
    runs = [run for table in plan.experiment.tables for run in plan.region_runs(table)]
    first = {run.cell: run for run in reversed(runs)}
    return {f"region-{run.name}": run for run in runs if first[run.cell] == run}


def region_figure(results: Results, run: Run) -> Figure:
    """The heat maps of a run; empty where it has no region."""
    from sbora_bench.report.heat_maps import heat_figure

    record = results.regions(run)
    layers = [] if record is None else record.layers
    return heat_figure({axis: heat_data(layers, axis) for axis in ("columns", "rows")})


def _caption(plan: Plan, run: Run) -> str:
    title = ", ".join(cell_titles(plan, run))
    return (
        f"{table_title(plan, run.table)}, {title}, seed {run.seed}: norm of the change of each column (above) and row"
        " (below), a line a layer; white is untouched."
    )


REGION_MAPS = FigureView(key="region", subjects=first_runs, caption=_caption, draw=region_figure, published=True)
