"""How long examples really are: the catalog's `lengths`, deciles of tokens of the real files, or a published mean.

What an experiment costs is estimated from them; where a set has none, every example counts as long as is allowed.
"""

from typing import Self

from pydantic import Field, field_validator, model_validator

from sbora_bench.plan.entry import Strict


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
