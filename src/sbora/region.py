"""The region that an adapter trains in a layer: its matrix, and the index set that says where it acts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from . import functional

UNDECIDED = -1  # what an index set that waits for data holds


def in_order(size: int, seed: int, module: str, region: tuple[int, int] | None = None) -> Tensor:
    """The numbers below `size` that a module's index set is taken from, in the order that a seed gives them.

    `seed` and the name of the module determine an order of all of them, of which `region=(k, n)` leaves the
    k-th of n equal parts. So every module has an order of its own (the paper draws them independently too),
    and the same one on every machine. int64, on the CPU.
    """
    k, n = region or (0, 1)
    part = size // n
    digest = hashlib.sha256(f"{seed} {module}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(size, generator=generator, device="cpu")[k * part : (k + 1) * part]


def draw_index(size: int, r: int, seed: int, module: str, region: tuple[int, int] | None = None) -> Tensor:
    """The index set of a module: the first r of its order (see `in_order`), ascending, int64, on the CPU.

    Raises:
        ValueError: r is above the number that there is to draw from.
    """
    order = in_order(size, seed, module, region)
    if not 1 <= r <= len(order):
        k, n = region or (0, 1)
        raise ValueError(f"cannot choose {r} of {len(order)} (part {k} of {n} of {size})")
    return order[:r].sort().values


def has_sunk(index: Tensor, meant: Tensor) -> bool:
    """Whether an index set may be an average of equal ones: each mean of equal integers is truncated, and so is right
    or lower, and sinks again with the next. It never rises, and at decays up to 0.99995 stays within `may_sink`."""
    sunk = meant - index
    return bool(((sunk >= 0) & (sunk <= may_sink(meant))).all())


def may_sink(index: Tensor) -> Tensor:
    return 1 + index // 2048


def spare_integers(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What moves or casts a module's tensors, but that whole numbers stay so where it casts all to a type of floats."""

    def apply(tensor: Tensor) -> Tensor:
        changed = change(tensor)
        casts = changed.dtype != tensor.dtype and not (tensor.is_floating_point() or tensor.is_complex())
        return tensor.to(changed.device) if casts else changed

    return apply


class Region(nn.Module):
    """One adapter of one layer.

    Hosts reach a parameter through the forward of the module that owns it: they load, gather, cast or watch it
    there (accelerate's offload, FSDP, gradients per sample). So the whole pass of the adapter, with the layer
    below it, is this module's forward.

    Attributes:
        weight: the trained matrix, ([experts,] out_features, r) for FA, ([experts,] r, in_features) for FB.
        index: which inputs (FA) or outputs (FB) were chosen, int64 ([experts,] r), ascending. A buffer: it is
            saved with the adapter, and neither trained nor cast.
        drawn_by: what determined the index set when it was drawn.
    """

    def __init__(self, layer: nn.Module, adapter: str, weight: Tensor, index: Tensor, drawn_by: tuple) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("index", index)
        self.adapter = adapter
        self.variant = layer.variant[adapter]
        self.out_features = layer.out_features
        self.drawn_by = drawn_by
        self.undecided = index.numel() > 0 and bool((index == UNDECIDED).all())
        self.is_new = True  # neither loaded nor saved yet
        self._known: tuple[Tensor, Tensor, int] = (index, index, -1)
        self.keep_index()
        self._scalings, self._dropouts = layer.scaling, layer.sbora_dropout  # the layer's own, which PEFT changes

    def check_decided(self) -> None:
        """Refuse to work without an index set: one that needs data gets it beforehand, or from a file.

        Raises:
            ValueError: there is none.
        """
        if self.undecided and (self.index == UNDECIDED).any():
            raise ValueError(
                f"The index set of adapter {self.adapter!r} is to be chosen by {self.drawn_by[-1]!r} and has not been: "
                "call sbora.preprocess_index(model, config, run_model) before get_peft_model, or load the adapter; "
                "'weight' needs a base whose weights can be read."
            )
        self.undecided = False

    def restore_averaged(self) -> None:
        """Undo what averages of buffers (EMA, SWA) do to an index set. Any other change is taken for meant."""
        index, (copied, known, version) = self.index, self._known
        if index.is_meta or index.is_inference() or (index is known and index._version == version):
            return
        if index is known and copied.shape == index.shape:
            copied = copied.to(index.device)
            if has_sunk(index, copied):
                index.copy_(copied)
        self.keep_index()

    def keep_index(self) -> None:
        """Take the index set as it is for what it is meant to be."""
        index = self.index
        if not index.is_meta and not index.is_inference():
            self._known = (index.clone(), index, index._version)

    def as_it_is(self) -> tuple[Tensor, float, float]:
        """The trained matrix, what the update is multiplied with, and the probability of dropping an input."""
        if self.undecided:
            self.check_decided()
        weight, scaling = self.weight, self._scalings[self.adapter]
        if not functional.plain():  # a transform's or compiler's tensors are not to be kept
            self.restore_averaged()
            weight = weight.detach() if weight.is_inference() else weight  # which never learns, as autograd has it
        if isinstance(scaling, Tensor):  # which may learn
            weight, scaling = weight * scaling.reshape(()), 1.0
        return weight, scaling, self._dropouts[self.adapter] if self.training else 0.0

    def forward(
        self, x: Tensor, below: Callable[[Tensor], Tensor] | None = None, merging: Callable[..., int] | None = None
    ) -> Tensor:
        """(..., in_features) -> (..., out_features).

        Args:
            below: computes the output of the layer below, which the adapter's contribution is added to;
                without it the contribution alone is returned.
            merging: merges weight and scaling into the layer below, as it must do anew before the backward if
                the layer was written to since; the contribution is in its output then.
        """
        weight, scaling, dropout = self.as_it_is()
        if merging is not None and below is not None:
            written = merging(weight, scaling)
            y = below(x)
            if not torch.is_grad_enabled() or not (weight.requires_grad or y.requires_grad):
                return y
            merging = partial(merging, written=written)
            return functional.learn(self.variant, y, x, weight, self.index, scaling, merging)
        below = below or (lambda x: x.new_zeros(*x.shape[:-1], self.out_features))
        return functional.adapted(self.variant, x, weight, self.index, scaling, below, dropout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(spare_integers(fn), recurse)

    def extra_repr(self) -> str:
        return f"{self.variant}, weight={tuple(self.weight.shape)}"


def checksum(index_sets: dict[str, Tensor]) -> str:
    """Of index sets by name of module: hexadecimal SHA-256 of the numbers, whatever the modules are called, for a base
    model may be renamed between saving and loading (PEFT's `key_mapping`)."""
    return _sha256(sorted(f"{_numbers(index)}\n" for index in index_sets.values()))


def checksum_with_names(index_sets: dict[str, Tensor]) -> str:
    """The checksum as it was saved before, of the names too."""
    return _sha256([f"{name} {_numbers(index_sets[name])}\n" for name in sorted(index_sets)])


def _numbers(index: Tensor) -> list:
    return index.detach().cpu().to(torch.int64).tolist()


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Weights(nn.ParameterDict):
    """The regions of a layer by name of adapter. Items read and write as the trained matrices."""

    def region(self, adapter: str) -> Region:
        return getattr(self, self._key_to_attr(adapter))

    def __getitem__(self, adapter: str) -> nn.Parameter:
        return super().__getitem__(adapter).weight

    def __setitem__(self, adapter: str, value: Region | Tensor) -> None:
        if isinstance(value, nn.Module):
            super().__setitem__(adapter, value)
            return
        region = self.region(adapter)
        region.weight = value if isinstance(value, nn.Parameter) else nn.Parameter(value, region.weight.requires_grad)
        region.index = region.index.to(value.device)

    def extra_repr(self) -> str:
        return ""  # the regions are shown as modules


class IndexSets(Mapping):
    """The index sets of a layer's regions, by name of adapter."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, adapter: str) -> Tensor:
        return self._weights.region(adapter).index

    def __setitem__(self, adapter: str, index: Tensor) -> None:
        self._weights.region(adapter).index = index

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.keys())

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, adapter: object) -> bool:
        return adapter in self._weights
