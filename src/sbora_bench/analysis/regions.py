"""Regions of runs beside each other: what is shared, what is untouched, and the norms that are drawn."""

import numpy as np

from sbora_bench.results.regions import LayerChange


def overlap(a: list[LayerChange], b: list[LayerChange], axis: str) -> float | None:
    """Rows or columns that both change, as a share of those that either changes, over all layers; None of nothing."""
    ours, theirs = ({(part.layer, i) for part in regions for i in part.touched(axis)} for regions in (a, b))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else None


def share_touched(regions: list[LayerChange], axis: str) -> float | None:
    """Rows or columns that change, as a share of all of these layers'; None of no layer."""
    lines = sum(getattr(part, axis) for part in regions)
    return sum(len(part.touched(axis)) for part in regions) / lines if lines else None


def norm(regions: list[LayerChange]) -> float:
    """Frobenius' norm of the change of all layers together."""
    return float(np.sqrt(sum(part.norm**2 for part in regions)))


def as_text(name: str, regions: list[LayerChange]) -> str:
    """A line a layer: rows and columns changed, share untouched, norm of the change."""
    if not regions:
        return f"{name}\nno weight differs from the base's"
    width = max(len(part.layer) for part in regions)
    lines = [name, f"{'layer':{width}}     rows changed  columns changed  untouched, %  norm of the change"]
    for part in regions:
        rows, columns = (f"{len(part.touched(axis)):,} of {getattr(part, axis):,}" for axis in ("rows", "columns"))
        share = 100 * part.untouched / part.size
        lines.append(f"{part.layer:{width}} {rows:>16} {columns:>16} {share:13.2f} {part.norm:19.4f}")
    size, untouched = sum(part.size for part in regions), sum(part.untouched for part in regions)
    share = 100 * untouched / size
    lines.append(
        f"all of these layers: {untouched:,} of {size:,} weights untouched, {share:.2f} %; norm {norm(regions):.4f}"
    )
    return "\n".join(lines)


def overlap_text(a: list[LayerChange], b: list[LayerChange]) -> str:
    """The overlap of two runs' regions, rows and columns."""
    shares = {axis: overlap(a, b, axis) for axis in ("rows", "columns")}
    parts = [f"{axis} {100 * share:.1f} %" for axis, share in shares.items() if share is not None]
    return f"changed by both, of what either changes: {', '.join(parts) or 'nothing is changed'}"


def heat_data(regions: list[LayerChange], axis: str) -> dict[str, np.ndarray]:
    """Kind of layer (`q_proj`) -> norms of the change, (layers, rows or columns)."""
    kinds: dict[str, list[list[float]]] = {}
    for part in regions:
        norms = part.row_norms if axis == "rows" else part.column_norms
        kinds.setdefault(part.layer.rpartition(".")[2], []).append(norms)
    return {kind: np.array(lines) for kind, lines in kinds.items()}
