"""Heat maps of what an adapter changes in its base's weights."""

from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import whole_file
from sbora_bench.report.plotting import STYLE
from sbora_bench.report.view import FIGURE_FORMATS

LAYER_TICKS = 8  # at most: a line a layer, and models have dozens
Heat = dict[str, dict[str, np.ndarray]]  # "columns" and "rows" -> kind of layer -> norms of the change, a line a layer


def heat_figure(shown: Heat) -> Figure:
    """A heat map a kind of layer: above by column, below by row, one line a layer; white is untouched, exactly."""
    kinds = list(shown["rows"])
    figure = Figure(figsize=(max(3.6, 2.2 * len(kinds)), 3.6), layout="constrained")
    axes = figure.subplots(2, max(1, len(kinds)), squeeze=False)
    colors = matplotlib.colormaps["viridis_r"].with_extremes(bad="white")
    highest = max((norms.max() for kind in shown.values() for norms in kind.values()), default=1.0)
    drawn = None
    for line, (axis, norms) in zip(axes, shown.items(), strict=True):
        for place, kind in zip(line, kinds, strict=False):
            values = np.ma.masked_equal(norms[kind], 0)
            drawn = place.imshow(values, aspect="auto", cmap=colors, vmin=0, vmax=highest, interpolation="nearest")
            place.set_title(kind)
            place.set_xlabel(axis.removesuffix("s").capitalize())
            place.set_ylabel("Layer")
            place.yaxis.set_major_locator(MaxNLocator(min(LAYER_TICKS, max(1, len(values))), integer=True))
            place.grid(False)
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, label="Norm of the change")
    return figure


def write_figure(shown: Heat, path: Path) -> None:
    """Write the heat maps; the ending says the format (svg or png). Raises UserError for one that can't be."""
    suffix = path.suffix.removeprefix(".")
    if suffix not in FIGURE_FORMATS:
        raise UserError(f"{path}: {one_of(suffix, FIGURE_FORMATS, 'format of figures')}")
    with matplotlib.style.context(["default", STYLE]), whole_file(path) as beside:
        heat_figure(shown).savefig(beside, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
