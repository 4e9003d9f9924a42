"""Log-probabilities after rows of tokens that begin alike: what they share is read once, its keys and values reused.

So MMLU's five shots of a subject are read once for its questions, and a question once for its answers.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from sbora_bench.inputs.out_of_memory import is_out_of_memory

WORTH = 8  # shared tokens from which on a pass of their own pays
T = TypeVar("T")
R = TypeVar("R")


class Row(NamedTuple):
    """Token ids, of whose last `needed` places the log-probabilities of the next token are wanted."""

    ids: tuple[int, ...]
    needed: int


@dataclass(frozen=True)
class Group:
    """Rows, by their numbers, that begin with the same `shared` tokens."""

    shared: int
    members: list[int]


def groups(rows: Sequence[Row]) -> list[Group]:
    """The rows in groups that share a beginning, so that few tokens are read; no needed place lies in what is shared.

    In the tree of common beginnings each branch takes a part of it in where that saves more than the part by itself.
    """
    order = sorted(range(len(rows)), key=lambda number: rows[number].ids)
    if not order:
        return []
    common = [_common(rows[a], rows[b]) for a, b in zip(order, order[1:], strict=False)]
    branches = [_Branch(0, [])]
    for number, shared in zip(order, [*common, 0], strict=True):
        part = _Part(0, [number], [Group(0, [number])])
        while branches[-1].shared > shared:
            branch = branches.pop()
            branch.parts.append(part)
            part = branch.closed()
        if branches[-1].shared < shared:
            branches.append(_Branch(shared, []))
        branches[-1].parts.append(part)
    return [group for part in branches[0].parts for group in part.groups]


class _Part(NamedTuple):
    """Rows of a part of the tree, and its groups with the tokens that they save."""

    saved: int
    members: list[int]
    groups: list[Group]


class _Branch(NamedTuple):
    """Parts of the tree whose rows begin with the same `shared` tokens."""

    shared: int
    parts: list[_Part]

    def closed(self) -> _Part:
        members = [number for part in self.parts for number in part.members]
        gains = [max(len(part.members) * self.shared - part.saved, 0) for part in self.parts]
        gain = sum(gains) - self.shared
        if self.shared < WORTH or gain <= 0:
            gains, gain = [0] * len(self.parts), 0
        taken = [part for part, more in zip(self.parts, gains, strict=True) if more]
        left = [group for part, more in zip(self.parts, gains, strict=True) if not more for group in part.groups]
        own = [Group(self.shared, [number for part in taken for number in part.members])] * bool(taken)
        return _Part(sum(part.saved for part in self.parts) + gain, members, own + left)


def _common(one: Row, other: Row) -> int:
    most = min(len(row.ids) - row.needed for row in (one, other))
    for place in range(most):
        if one.ids[place] != other.ids[place]:
            return place
    return max(most, 0)


class PrefixReader:
    """Reads rows through `model`. `pad`: left-padded tensors of rows; `budget`: tokens that are held at a time;
    `shares`: whether the model `keeps_all`, else rows are read one by one.

    `read`: tokens that went through the model, padding among them.
    """

    def __init__(
        self, model: torch.nn.Module, pad: Callable[[list[list[int]]], dict[str, Any]], budget: int, shares: bool
    ) -> None:
        self.model, self.pad, self.budget, self.shares, self.read = model, pad, budget, shares, 0

    def each_row(
        self,
        rows: Sequence[Row],
        take: Callable[[int, torch.Tensor], Any],
        report: Callable[[int], Any] = lambda _: None,
    ) -> None:
        """`take` gets each row's number and log-probabilities (needed, vocabulary) in float64 on the CPU when they are
        made, none are kept; `report` hears of how many rows are done.
        """
        prefix_groups = groups(rows) if self.shares else [Group(0, [number]) for number in range(len(rows))]
        with torch.inference_mode():
            for pack in in_packs(prefix_groups, rows, self.budget):
                for part, read in halving(lambda part: self._read(part, rows), pack):
                    for number, values in read.items():
                        take(number, values)
                    report(sum(len(group.members) for group in part))

    def _read(self, pack: list[Group], rows: Sequence[Row]) -> dict[int, torch.Tensor]:
        """The rows of groups that share at most something each: first what they share, then what is their own."""
        cache, mask = None, None
        if pack[0].shared:
            inputs = self.pad([list(rows[group.members[0]].ids[: group.shared]) for group in pack])
            mask = inputs["attention_mask"]
            self.read += mask.numel()
            cache = self.model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
        places = [(place, number) for place, group in enumerate(pack) for number in group.members]
        places.sort(key=lambda pair: -(len(rows[pair[1]].ids) - pack[pair[0]].shared))
        size = max(1, self.budget // max(len(rows[number].ids) for _, number in places))
        results = {}
        parts = (places[start : start + size] for start in range(0, len(places), size))
        for part in parts:
            for done, logits in halving(lambda part: self._own(part, pack, rows, cache, mask), part):
                for (_, number), of_row in zip(done, logits, strict=True):
                    results[number] = of_row
        return results

    def _own(
        self, places: list[tuple[int, int]], pack: list[Group], rows: Sequence[Row], cache: Any, mask: Any
    ) -> list[torch.Tensor]:
        """The log-probabilities of (place of the group in the pack, number of the row) each."""
        inputs = self.pad([list(rows[number].ids[pack[place].shared :]) for place, number in places])
        self.read += inputs["input_ids"].numel()
        if cache is not None:
            index = torch.tensor([place for place, _ in places], device=mask.device)
            before = mask[index]
            inputs["position_ids"] = inputs["position_ids"] + before.sum(-1, keepdim=True)
            inputs["attention_mask"] = torch.cat([before, inputs["attention_mask"]], dim=-1)
            inputs["past_key_values"] = chosen(cache, index)
        needed = max(rows[number].needed for _, number in places)
        logits = self.model(**inputs, logits_to_keep=needed, use_cache=cache is not None).logits
        return [
            logits[row, logits.shape[1] - rows[number].needed :].double().log_softmax(-1).cpu()
            for row, (_, number) in enumerate(places)
        ]


def in_packs(prefix_groups: list[Group], rows: Sequence[Row], budget: int) -> Iterator[list[Group]]:
    """Groups in packs of at most `budget` tokens as held, the longest first; all of a pack share something, or none."""
    pack: list[Group] = []
    count = width = 0
    for group in sorted(
        prefix_groups, key=lambda group: (not group.shared, -len(rows[group.members[0]].ids), group.members)
    ):
        longest = max(len(rows[number].ids) for number in group.members)
        full = (count + len(group.members)) * max(width, longest) > budget
        if pack and (full or bool(pack[0].shared) != bool(group.shared)):
            yield pack
            pack, count, width = [], 0, 0
        pack.append(group)
        count, width = count + len(group.members), max(width, longest)
    if pack:
        yield pack


def halving(work: Callable[[list[T]], R], parts: list[T]) -> Iterator[tuple[list[T], R]]:
    """`work` of the parts, of halves of them where memory doesn't suffice; each with what it gave."""
    waiting = [parts]
    while waiting:
        part = waiting.pop()
        result = _fitting(work, part)
        if result is None:
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
        else:
            yield part, result[0]


def _fitting(work: Callable[[list[T]], R], part: list[T]) -> tuple[R] | None:
    """What `work` gave; None where memory doesn't suffice and there are halves to try."""
    try:
        return (work(part),)
    except RuntimeError as error:
        if len(part) == 1 or not is_out_of_memory(error):
            raise
        return None


def chosen(cache: DynamicCache, index: torch.Tensor) -> DynamicCache:
    """A cache of the rows `index`; of one row without copying it."""
    taken = copy.copy(cache)
    taken.layers = []
    for layer in cache.layers:
        of_rows = copy.copy(layer)
        for name in ("keys", "values"):
            held = getattr(layer, name)
            one = held.shape[0] == 1
            setattr(of_rows, name, held.expand(len(index), -1, -1, -1) if one else held.index_select(0, index))
        taken.layers.append(of_rows)
    return taken


def keeps_all(model: torch.nn.Module, pad: Callable[[list[list[int]]], dict[str, Any]]) -> bool:
    """Whether the model keeps keys and values of all tokens in each layer and no more: no window, no recurrent state,
    no second cache (ShadowPEFT's).
    """
    with torch.inference_mode():
        cache = model(**pad([[0, 0]]), use_cache=True).past_key_values
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
