"""Micro-batches in parts: which rows go together, how wide they are, and the largest part that there can be."""

import math

import pytest
import torch

from sbora_bench.inputs.parts import Parts


def padded(lengths: list[int], width: int, side: str = "right") -> dict[str, torch.Tensor]:
    """Rows of these lengths, whose tokens are the row's number and whose labels are their places."""
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    mask = mask if side == "right" else mask.flip(1)
    numbers = torch.arange(1, len(lengths) + 1)[:, None]
    return {"input_ids": mask * numbers, "labels": torch.arange(width).expand_as(mask), "attention_mask": mask}


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (Parts(8), [(5, 24)]),
        (Parts(8, tokens=120), [(5, 24)]),
        (Parts(8, tokens=119), [(4, 21), (1, 4)]),
        (Parts(8, tokens=119, multiple=8), [(4, 24), (1, 8)]),
        (Parts(3, tokens=119, multiple=8), [(3, 24), (2, 8)]),
        (Parts(3, multiple=8), [(3, 24), (2, 8)]),
        (Parts(8, tokens=48, multiple=8), [(2, 24), (2, 16), (1, 8)]),
        (Parts(8, tokens=7, multiple=8), [(1, 24), (1, 24), (1, 16), (1, 8), (1, 8)]),
        (Parts(8, tokens=64, multiple=8, width=32), [(2, 24), (2, 16), (1, 8)]),
    ],
)
def test_rows_stay_in_order_and_are_as_wide_as_the_longest_beside_them(parts, sizes):
    lengths = [21, 18, 9, 5, 4]
    made = parts.of(batch := padded(lengths, 24))
    assert [tuple(part["input_ids"].shape) for part in made] == sizes
    assert all({name: part[name].shape for name in part} == dict.fromkeys(batch, part["labels"].shape) for part in made)
    kept = [row[row > 0].tolist() for part in made for row in part["input_ids"]]
    assert kept == [[number + 1] * length for number, length in enumerate(lengths)]


def test_padding_at_the_left_stays_where_positions_are_counted_from():
    made = Parts(8, tokens=48).of(padded([9, 5, 4], 24, side="left"))
    assert [tuple(part["input_ids"].shape) for part in made] == [(2, 24), (1, 24)]


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("tokens", [0, 5, 40, 64, 100, 1000])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_largest_part_is_that_of_all_micro_batches(rows, tokens, multiple):
    """Of micro-batches whose longest row has each length up to the longest allowed."""
    parts, most = Parts(rows, tokens, multiple), 27
    seen = []
    for length in range(1, most + 1):
        width = math.ceil(length / multiple) * multiple
        seen += [tuple(part["input_ids"].shape) for part in parts.of(padded([length] * rows, width))]
    largest, shapes = parts.largest(rows, most), parts.shapes(rows, most)
    width = math.ceil(largest[1] / multiple) * multiple
    assert largest[0] * width == max(map(math.prod, seen)) and (largest[0], width) in seen
    assert largest in shapes and sum(rows_of * times for (rows_of, _), times in shapes.items()) == rows
    assert {length for (_, length), times in shapes.items() if times} == {most}
