"""A micro-batch in parts of whole rows: fewer tokens are in the model at a time, and gradients add up to the same."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sbora_bench.plan.protocol import Protocol


@dataclass(frozen=True)
class Parts:
    """How micro-batches are parted: `rows` a part at most and, where `tokens` isn't 0, no more tokens than that.

    A part has one row at least. `multiple`: padded rows are a multiple of it long. `width`: a row's tokens, by which
    rows are counted, where they aren't the micro-batch's own.
    """

    rows: int
    tokens: int = 0
    multiple: int = 1
    width: int = 0

    def rows_of(self, width: int) -> int:
        """The most rows of a part of a micro-batch whose rows, padded, have `width` tokens."""
        return min(self.rows, max(1, self.tokens // (self.width or width))) if self.tokens else self.rows

    def of(self, batch: "Mapping[str, torch.Tensor]") -> "list[dict[str, torch.Tensor]]":
        """The parts of a padded micro-batch, whose tensors (rows, tokens) hold an `attention_mask`; in the same order.

        What all rows of a part pad at the right is cut off. At the left it stays: positions are counted from there.
        """
        rows, width = batch["attention_mask"].shape
        most = self.rows_of(width)
        if rows <= most:
            return [dict(batch)]
        parts = zip(*(tensor.split(most) for tensor in batch.values()), strict=True)
        return [self._cut(dict(zip(batch, tensors, strict=True))) for tensors in parts]

    def _cut(self, part: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        end = self._padded(int(part["attention_mask"].any(0).nonzero().max()) + 1)
        return {name: tensor[:, :end] for name, tensor in part.items()}

    def _padded(self, length: int) -> int:
        return math.ceil(length / self.multiple) * self.multiple

    def shapes(self, rows: int, length: int) -> dict[tuple[int, int], int]:
        """(rows, tokens of a row) of parts, and how many of them a micro-batch of `rows` times `length` tokens has.

        The largest part that one of shorter rows can have is among them, 0 times where it is none of those.
        """
        most = min(rows, self.rows_of(self._padded(length)))
        counts = {(most, length): rows // most, (rows % most, length): 1}
        counts[self.largest(rows, length)] = counts.get(self.largest(rows, length), 0)
        return {shape: times for shape, times in counts.items() if shape[0]}

    def largest(self, rows: int, length: int) -> tuple[int, int]:
        """(rows, tokens of a row) of the part of most tokens, of micro-batches of `rows` times up to `length` tokens.

        Fewer rows than more often have more tokens: three rows of 300 make 900, four of 256 make 1,024.
        """
        widths = range(self.multiple, self._padded(length) + 1, self.multiple)
        parts = [(min(rows, self.rows_of(width)), min(width, length)) for width in widths]
        return max(parts, key=lambda shape: (math.prod(shape), shape[1]))


def parts_of(protocol: "Protocol", rows: int) -> Parts:
    """How micro-batches of `rows` rows are parted by a protocol."""
    return Parts(rows, protocol.tokens_at_once, protocol.pad_to_multiple_of)
