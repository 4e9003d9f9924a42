"""Grids of an experiment: at given ranks, or at one size, for which each method's own rank is chosen.

The chosen ranks stand in a file beside the experiment, `sizes/NAME.json`, that `sbora-bench sizes NAME` writes: so
names of runs are stable, and a plan counts nothing. What an entry was counted from is hashed into it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from sbora_bench.errors import UserError
from sbora_bench.files import content_sha256, hash_of, read_json
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.model_entry import FolderSource, GgufSource, ModelEntry
from sbora_bench.plan.protocol import Protocol

Rank = Annotated[int, Field(ge=1, strict=True)]
COUNTED = {"max_length", "target_modules", "weights_dtype"}  # all of a protocol that a count depends on


class Size(Strict):
    """How large the adapters of a grid are: trained parameters, or bytes of the file."""

    parameters: int | None = Field(default=None, ge=1, strict=True)
    bytes: int | None = Field(default=None, ge=1, strict=True)

    @model_validator(mode="after")
    def _one(self) -> "Size":
        if (self.parameters is None) == (self.bytes is None):
            raise ValueError("give either parameters or bytes")
        return self

    @property
    def wanted(self) -> tuple[str, int]:
        """(the count that is meant, its number)."""
        if self.parameters is not None:
            return "trainable_parameters", self.parameters
        return "adapter_bytes", self.bytes or 0


class Grid(Strict):
    models: list[str] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    ranks: list[Rank] = Field(
        default_factory=list, min_length=1, description="what a method's entry says that its rank means"
    )
    at: Size | None = Field(default=None, description="in place of ranks: each method's rank that comes closest")

    @model_validator(mode="after")
    def _ranks_or_size(self) -> "Grid":
        if bool(self.ranks) == (self.at is not None):
            raise ValueError("give either ranks or at")
        return self


def sizes_file(experiment: Path) -> Path:
    """Where the chosen ranks of an experiment's file stand."""
    return experiment.parent / "sizes" / f"{experiment.stem}.json"


def size_hash(catalog: Catalog, model: str, method: str, protocol: Protocol) -> str:
    """Hash of all that the size of a cell depends on beside its rank."""
    entry = catalog.models[model]
    shape = entry.architecture or entry.source.model_dump(mode="json")
    arguments = catalog.methods[method].model_dump(mode="json", exclude={"title"})
    return hash_of([shape, arguments, protocol.model_dump(mode="json", include=COUNTED)])


def own_config(entry: ModelEntry) -> str:
    """Hash of the file that says the shape of a model of one's own; empty where it isn't at hand."""
    if not isinstance(entry.source, FolderSource | GgufSource):
        return ""
    path = Path(entry.source.path)
    file = path / "config.json" if path.is_dir() else path
    return content_sha256(file) if file.is_file() else ""


def stands(row: dict[str, Any], catalog: Catalog, protocol: Protocol) -> bool:
    """Whether a chosen rank was counted from these entries, and from this file of the model where that is at hand."""
    config = own_config(catalog.models[row["model"]])
    same = row["settings"] == size_hash(catalog, row["model"], row["method"], protocol)
    return same and (not config or row.get("config", "") == config)


def sized(grids: list[Grid], catalog: Catalog, protocol: Protocol, experiment: Path, where: str) -> list[Grid]:
    """The grids, those of a size as one a model and method at its chosen rank; each cell once.

    Raises UserError where a rank was not chosen yet, or from other entries.
    """
    if all(grid.at is None for grid in grids):
        return grids
    path = sizes_file(experiment)
    chosen = {_key(row): row for row in (read_json(path) if path.is_file() else [])}
    made: list[Grid] = []
    cells = {(m, x, rank) for grid in grids for m in grid.models for x in grid.methods for rank in grid.ranks}
    for index, grid in enumerate(grids):
        if grid.at is None:
            made.append(grid)
            continue
        for model, method in _known(catalog, grid, f"{where}.grids.{index}"):
            row = chosen.get((model, method, *grid.at.wanted))
            if row is None or not stands(row, catalog, protocol):
                raise UserError(
                    f"{where}.grids.{index}.at: no rank of {method} on {model} is chosen for this size"
                    f"{' with these entries' if row else ''}; run: sbora-bench sizes {experiment}"
                )
            cell = (model, method, row["rank"])
            if cell not in cells:
                cells.add(cell)
                made.append(Grid.model_construct(models=[model], methods=[method], ranks=[row["rank"]], at=grid.at))
    return made


def _known(catalog: Catalog, grid: Grid, where: str) -> Iterator[tuple[str, str]]:
    for model in grid.models:
        catalog.find("models", model, f"{where}.models")
        for method in grid.methods:
            catalog.find("methods", method, f"{where}.methods")
            yield model, method


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["model"], row["method"], row["of"], row["wanted"]
