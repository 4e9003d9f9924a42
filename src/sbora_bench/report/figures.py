"""Collected files and records to figures, PNG and SVG, `figures/`: the views listed here, each a module of `views/`.

`sbora-bench figures -e EXPERIMENT`. The same files, the same bytes. What is plotted comes from `*_data`, plain rows;
drawing adds no numbers. Their order is that of the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.files import whole_file
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.view import FIGURE_FORMATS, FigureView
from sbora_bench.report.views.footprint_figure import FOOTPRINT_BARS
from sbora_bench.report.views.index_seed_figure import INDEX_SEED_LINES
from sbora_bench.report.views.other_suites_figure import OTHER_SUITES_PANELS
from sbora_bench.report.views.paper_footprint_figure import PAPER_FOOTPRINT_BARS
from sbora_bench.report.views.paper_memory_figure import PAPER_MEMORY_BARS
from sbora_bench.report.views.pareto_figure import PARETO_FRONTS
from sbora_bench.report.views.rate_figure import RATE_CURVES
from sbora_bench.report.views.region_figure import REGION_MAPS
from sbora_bench.report.views.score_figure import SCORE_POINTS
from sbora_bench.report.views.training_figure import TRAINING_CURVES
from sbora_bench.report.views.verdict_figure import FOREST
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: list[FigureView] = [
    FOREST,
    SCORE_POINTS,
    RATE_CURVES,
    PARETO_FRONTS,
    FOOTPRINT_BARS,
    TRAINING_CURVES,
    OTHER_SUITES_PANELS,
    INDEX_SEED_LINES,
    REGION_MAPS,
    PAPER_MEMORY_BARS,
    PAPER_FOOTPRINT_BARS,
]
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def figures(plan: Plan, results: Path) -> None:
    """Write every file of `outputs.figure_files`. Raises UserError where `collect` has not run."""
    import matplotlib.style

    from sbora_bench.report.plotting import STYLE

    read = Results(plan, results)
    with matplotlib.style.context(["default", STYLE]):  # not the user's own matplotlibrc
        for view in FIGURES:
            for name, subject in view.subjects(plan).items():
                _write(view.draw(read, subject), results / "figures" / name)


def _write(figure: Figure, path: Path) -> None:
    for suffix in FIGURE_FORMATS:
        with whole_file(path.with_name(f"{path.name}.{suffix}")) as beside:
            figure.savefig(beside, format=suffix, metadata=METADATA[suffix])
            if suffix == "png":
                _with_palette(beside)


def _with_palette(path: Path) -> None:
    """The PNG with 256 colours in place of four channels, near enough to its own, in a quarter of the bytes."""
    from PIL import Image

    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(path, format="png", optimize=True, dpi=drawn.info["dpi"])
