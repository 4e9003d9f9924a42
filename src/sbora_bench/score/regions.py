"""What an adapter changes in its base's weights: which rows and columns of which layers, how much, and how much not.

`sbora-bench regions RUN [RUN]`. The change is the merged weight less the base's, both in float32, entry by entry: an
entry is untouched where it is exactly 0. A 4-bit base is read before its quantisation.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import read_json, write_json
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.records import TrainRecord, read_record

DIGITS = 5  # of a norm that is written


@dataclass(frozen=True)
class Region:
    """The change of one layer's weight (rows x columns). `untouched`: entries; norms are Frobenius' and, a row and a
    column each, Euclid's; a row or column whose norm is 0 is untouched as a whole.
    """

    layer: str
    rows: int
    columns: int
    untouched: int
    norm: float
    row_norms: list[float]
    column_norms: list[float]

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def touched(self, axis: str) -> set[int]:
        """Which `rows` or `columns` changed."""
        norms = self.row_norms if axis == "rows" else self.column_norms
        return {index for index, norm in enumerate(norms) if norm}


def region(layer: str, change: np.ndarray) -> Region:
    """The region of one layer from its change, a matrix."""
    norms = [_short(np.linalg.norm(change, axis=axis)) for axis in (1, 0)]
    rows, columns = change.shape
    (norm,) = _short(np.array([np.linalg.norm(change)]))
    return Region(layer, rows, columns, int((change == 0).sum()), norm, *norms)


def _short(norms: np.ndarray) -> list[float]:
    return [float(f"{norm:.{DIGITS}g}") for norm in norms]


def regions_of(folder: Path, resources: Path) -> list[Region]:
    """The regions of a run: of each layer that its adapter changes, in the model's order.

    Raises UserError for the untuned base, for a run whose training failed, and for a method that changes no weight of
    its base (prompts, say).
    """
    if not (folder / "train.json").is_file():
        raise UserError(f"{folder / 'train.json'}: no such file; name a tuned run: the untuned base has no region")
    record = read_record(folder / "train.json", TrainRecord)
    if record.status != "ok":
        raise UserError(f"{folder}: its training failed ({record.reason}); name another run")
    from sbora_bench.inputs.models.load import load_adapter, load_base, load_tokenizer

    scoring = {"title": "", "score_prompt": "plain", "extraction": "strict"}  # a record of training lacks these
    settings = {**scoring, **record.asked["protocol"], "weights_dtype": "float32"}
    protocol, entry = Protocol.model_validate(settings), record.asked["model_entry"]
    tokenizer = load_tokenizer(resources, record.model, protocol, entry["pad_token"])
    base = load_base(resources, record.model, protocol, None, tokenizer)
    before = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    try:
        after = dict(load_adapter(base, folder / "adapter", merge=True).named_parameters())
    except (AttributeError, NotImplementedError, ValueError) as error:  # PEFT's own ways to say that it can't
        raise UserError(
            f"{folder}: {record.method} can't be merged into the base's weights, so it has no region there"
            f" ({in_a_line(error)}); name a run of a method that changes weights"
        ) from None
    changes = {
        name: as_matrix((after[name] - weight).detach().numpy()) for name, weight in before.items() if name in after
    }
    return [region(name.removesuffix(".weight"), change) for name, change in changes.items() if change.any()]


def as_matrix(change: np.ndarray) -> np.ndarray:
    """The change of a weight as rows x columns: a vector (a norm's weight, a bias) is one column, experts follow each
    other by rows.
    """
    return change.reshape(-1, 1) if change.ndim < 2 else change.reshape(-1, change.shape[-1])


def overlap(a: list[Region], b: list[Region], axis: str) -> float | None:
    """Rows or columns that both change, as a share of those that either changes, over all layers; None of nothing."""
    ours, theirs = ({(part.layer, i) for part in regions for i in part.touched(axis)} for regions in (a, b))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else None


def as_text(name: str, regions: list[Region]) -> str:
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
    norm, share = float(np.sqrt(sum(part.norm**2 for part in regions))), 100 * untouched / size
    lines.append(f"all of these layers: {untouched:,} of {size:,} weights untouched, {share:.2f} %; norm {norm:.4f}")
    return "\n".join(lines)


def overlap_text(a: list[Region], b: list[Region]) -> str:
    """The overlap of two runs' regions, rows and columns."""
    shares = {axis: overlap(a, b, axis) for axis in ("rows", "columns")}
    parts = [f"{axis} {100 * share:.1f} %" for axis, share in shares.items() if share is not None]
    return f"changed by both, of what either changes: {', '.join(parts) or 'nothing is changed'}"


def write(name: str, regions: list[Region], path: Path) -> None:
    """Write the regions as JSON, to be read back by `read`."""
    write_json(path, {"run": name, "layers": [asdict(part) for part in regions]})


def read(path: Path) -> list[Region]:
    """What `write` wrote. Raises UserError where it isn't that."""
    value: Any = read_json(path)
    try:
        return [Region(**layer) for layer in value["layers"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the regions of a run ({error!r}); make it with: sbora-bench regions") from None


def heat_data(regions: list[Region], axis: str) -> dict[str, np.ndarray]:
    """Kind of layer (`q_proj`) -> norms of the change, (layers, rows or columns)."""
    kinds: dict[str, list[list[float]]] = {}
    for part in regions:
        norms = part.row_norms if axis == "rows" else part.column_norms
        kinds.setdefault(part.layer.rpartition(".")[2], []).append(norms)
    return {kind: np.array(lines) for kind, lines in kinds.items()}
