"""What an adapter changes in its base's weights, as `sbora-bench regions` writes it: `regions/<run>.json`."""

from pydantic import Field

from sbora_bench.plan.entry import Strict
from sbora_bench.results.records import RunRecord


class LayerChange(Strict):
    """The change of one layer's weight (rows x columns). A row or column whose norm is 0 is untouched as a whole."""

    layer: str
    rows: int
    columns: int
    untouched: int = Field(description="entries whose change is exactly 0")
    norm: float = Field(description="Frobenius'")
    row_norms: list[float] = Field(description="Euclid's")
    column_norms: list[float] = Field(description="Euclid's")

    @property
    def size(self) -> int:
        return self.rows * self.columns

    def touched(self, axis: str) -> set[int]:
        """Which `rows` or `columns` changed."""
        norms = self.row_norms if axis == "rows" else self.column_norms
        return {index for index, norm in enumerate(norms) if norm}


class RegionsRecord(RunRecord):
    """The layers that a run's adapter changes, in the model's order; none where it has no region, for the `reason`."""

    adapter_sha256: dict[str, str] = Field(default_factory=dict, description="file name -> SHA-256, as in train.json")
    layers: list[LayerChange] = Field(default_factory=list)
