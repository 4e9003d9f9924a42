"""The paper's methods at its scales: memory at the peak of a training step, by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.report.plotting import draw_stack, first_above, panels
from sbora_bench.report.view import FigureView, of_experiment
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# kind of memory -> hatch and colour
KINDS = {"weights": ("", "#BBBBBB"), "adapter": ("\\\\", "#0072B2"), "gradients": ("xx", "#CC79A7")}
KINDS |= {"optimizer": ("///", "#E69F00"), "activations": ("...", "#009E73"), "logits": ("++", "#D55E00")}
KINDS |= {"temporaries": ("--", "#F0E442")}


def paper_memory_figure(results: Results, _: None = None) -> Figure:
    """A panel a table and model of the paper: a bar a method, its kinds stacked. Raises UserError without the file."""
    import pandas as pd

    plan, path = results.plan, results.folder / "paper_memory.csv"
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench footprint --paper-memory` first") from None
    rows = [
        {
            "panel": f"{plan.catalog.models[row['model']].title}, {row['micro_batch']} x {row['length']} tokens",
            "label": f"{plan.catalog.methods[row['method']].title} r = {row['rank']}",
            **{kind: row[kind] / 2**30 for kind in KINDS},
        }
        for row in frame.to_dict("records")
    ]

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        parts = {kind: ([row[kind] for row in shown], *drawn) for kind, drawn in KINDS.items()}
        draw_stack(axis, [row["label"] for row in shown], parts)
        first_above(axis, "Memory at the peak, GiB")

    return panels(rows, draw, height=1.7)


PAPER_MEMORY_BARS = FigureView(
    key="paper memory",
    subjects=of_experiment("paper_memory", lambda plan: plan.experiment.paper_footprint),
    caption=lambda plan, _: (
        "The paper's methods at its scales: memory at the peak of a training step on a GPU, by kind, estimated at the"
        " official protocol's micro-batch and longest example."
    ),
    draw=paper_memory_figure,
)
