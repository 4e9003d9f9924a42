"""How long examples really are: deciles of tokens that `prepare` measured on the set at hand, else the catalog's
`lengths`, deciles of the real files or a published mean.

What an experiment costs is estimated from them; where a set has none, every example counts as long as is allowed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sbora_bench.errors import UserError
from sbora_bench.files import content_sha256, hash_of, read_json, write_json
from sbora_bench.plan.data_entries import DataEntry, OwnData
from sbora_bench.plan.entry import Strict

MEASURED = Path("resources/lengths")  # a file a data entry


class Lengths(Strict):
    """Deciles of tokens, the shortest and the longest among them: eleven numbers each; empty where not measured."""

    example: tuple[int, ...] = Field(default=(), description="of prompt and response, as trained on")
    example_mean: int | None = Field(default=None, ge=1, description="the mean of those, where no more is published")
    prompt: tuple[int, ...] = Field(default=(), description="of a prompt, as scored")
    answer: tuple[int, ...] = Field(default=(), description="of a response with its end")
    source: str

    @field_validator("example", "prompt", "answer")
    @classmethod
    def _deciles(cls, deciles: tuple[int, ...]) -> tuple[int, ...]:
        if deciles and (len(deciles) != 11 or list(deciles) != sorted(deciles) or deciles[0] < 1):
            raise ValueError(f"found {list(deciles)}, allowed eleven whole numbers from 1, none below the one before")
        return deciles

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.example and self.example_mean:
            raise ValueError("example and example_mean say the same; keep the deciles")
        return self


def deciles(counts: list[int]) -> tuple[int, ...]:
    """The shortest, the longest, and nine between them; of no token as of one."""
    ordered = sorted(max(1, count) for count in counts)
    return tuple(ordered[round(place * (len(ordered) - 1) / 10)] for place in range(11))


def keep_measured(name: str, entry: DataEntry, lengths: Lengths) -> Path:
    """Write the lengths of a data set as measured here; the file. Raises UserError where it can't be written."""
    path = MEASURED / f"{name}.json"
    write_json(path, {"data_sha256": _identity(entry), "lengths": lengths.model_dump(mode="json")})
    return path


def lengths_of(name: str, data: Mapping[str, DataEntry], catalog: Mapping[str, Lengths]) -> Lengths | None:
    """The lengths of a data entry: as measured here, unless of another set of that name; else the catalog's, if any."""
    path = MEASURED / f"{name}.json"
    try:
        measured = read_json(path) if path.is_file() and name in data else {}
        if measured and measured["data_sha256"] == _identity(data[name]):
            return Lengths.model_validate(measured["lengths"])
    except (UserError, KeyError, TypeError, ValidationError):  # a spoilt file measures nothing
        pass
    return catalog.get(name)


def _identity(entry: DataEntry) -> str:
    """Hash of an entry and, of data of one's own, of their content."""
    content = content_sha256(entry.file()) if isinstance(entry, OwnData) else ""
    return hash_of([entry.model_dump(mode="json"), content])
