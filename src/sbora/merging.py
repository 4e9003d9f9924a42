"""Adapters joined in one: the exact union."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._peft import merge_utils
from .config import SboraConfig
from .layer import SboraLayer

PRUNING = {  # by PEFT's name: what is pruned, and whether the signs of what is left are elected
    "magnitude_prune": ("magnitude", False),
    "ties": ("magnitude", True),
    "dare_linear": ("random", False),
    "dare_ties": ("random", True),
}


@dataclass(frozen=True)
class Combination:
    """How updates become one: their exact sum, or PEFT's ways of leaving a part of each out.

    Raises:
        ValueError: the name is unknown, or what it needs is missing or out of range.
    """

    name: str = "sum"
    density: float | None = None
    majority_sign: str = "total"

    def __post_init__(self) -> None:
        if self.name in ("sum", "linear", "cat"):
            return
        if self.name not in PRUNING:
            why = "SBoRA's sum needs no SVD" if "svd" in self.name else "that is unknown"
            raise ValueError(
                f"combination_type is {self.name!r}, but {why}: take 'sum' or one of {', '.join(map(repr, PRUNING))}."
            )
        if self.density is None or not 0 < self.density <= 1:
            raise ValueError(f"combination_type {self.name!r} needs a density in (0, 1], but it is {self.density!r}.")
        if self.majority_sign not in ("total", "frequency"):
            raise ValueError(f"majority_sign_method is {self.majority_sign!r}, but must be 'total' or 'frequency'.")

    def prune(self, update: Tensor) -> Tensor:
        """An update within its own region, with a part of it left out."""
        if self.name not in PRUNING or self.density == 1:
            return update
        method, _ = PRUNING[self.name]
        return merge_utils.prune(update, self.density, method, rescale=method == "random")

    def join(self, updates: list[Tensor], weights: list[float]) -> Tensor:
        """One update of several of one shape."""
        stacked = torch.stack(updates)
        weighted = torch.stack([u if w == 1 else u * w for u, w in zip(updates, weights, strict=True)])
        if not PRUNING.get(self.name, (None, False))[1]:
            return weighted.sum(0)
        mask = merge_utils.calculate_majority_sign_mask(stacked, method=self.majority_sign)
        return merge_utils.disjoint_merge(weighted, mask)


SUM = Combination()
OF_THE_BASE = ("task_type", "base_model_name_or_path", "revision", "auto_mapping")  # what a union takes over


def union(
    parts: list[tuple[Tensor, Tensor, float]], weights: list[float], variant: str, combination: Combination = SUM
) -> tuple[Tensor, Tensor, float]:
    """Join adapters of one layer: the index sets unite, and where they overlap the updates add up.

    The sum is as exact as the adapters: no update is approximated, and disjoint ones of the same scaling and
    weight 1 keep their bits.

    Args:
        parts: weight, index and scaling of each adapter.
        weights: what to multiply each adapter's update with.
        variant: of all of them.
        combination: what to do instead of adding up.

    Returns:
        weight, index and scaling of the union. Its rank is the number of different indices.
    """
    scalings = {scaling for _, _, scaling in parts}
    scaling = scalings.pop() if len(scalings) == 1 else 1.0
    index = torch.cat([index for _, index, _ in parts]).unique()  # ascending
    dim = 1 if variant == "fa" else 0
    first = parts[0][0]
    shape = list(first.shape)
    shape[dim] = len(index)
    updates = []
    for weight, own_index, own_scaling in parts:
        weight = weight.to(first) if own_scaling == scaling else weight.to(first) * (own_scaling / scaling)
        place = torch.searchsorted(index, own_index)
        updates.append(first.new_zeros(shape).index_copy(dim, place, combination.prune(weight)))
    return combination.join(updates, weights), index, scaling


def add_union(
    tuner: Any, adapters: list[str], adapter_name: str, weights: list[float] | None, combination: Combination
) -> None:
    """See [`SboraModel.add_weighted_adapter`]."""
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    variant = _check_union(tuner, adapters, adapter_name, weights)
    joined, ranks, alphas = {}, {}, {}
    with torch.random.fork_rng():
        torch.manual_seed(tuner.peft_config[adapters[0]].random_seed)
        for name, layer in tuner.model.named_modules():
            present = [a for a in adapters if isinstance(layer, SboraLayer) and a in layer.sbora_weight]
            if present:
                parts = [
                    (layer.sbora_weight[a].detach(), layer.sbora_index[a], float(layer.scaling[a])) for a in present
                ]
                joined[name] = union(parts, [weights[adapters.index(a)] for a in present], variant, combination)
                pattern = "^" + re.escape(name)  # PEFT matches the end of a name, unless it may not
                ranks[pattern] = len(joined[name][1])
                alphas[pattern] = joined[name][2] * ranks[pattern]
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    tuner.peft_config[adapter_name] = SboraConfig(
        variant=variant,
        r=rank,
        sbora_alpha=alpha,
        rank_pattern={name: r for name, r in ranks.items() if r != rank},
        alpha_pattern={name: a for name, a in alphas.items() if a != alpha},
        target_modules=_exactly(sorted(joined), tuner.model),
        inference_mode=True,
        **{name: getattr(tuner.peft_config[adapters[0]], name) for name in OF_THE_BASE},
    )
    try:
        tuner.inject_adapter(tuner.model, adapter_name)
    except Exception:
        del tuner.peft_config[adapter_name]
        raise
    for name, (weight, index, _) in joined.items():
        layer = tuner.model.get_submodule(name)
        layer.sbora_weight[adapter_name] = nn.Parameter(weight, requires_grad=False)
        layer.sbora_index[adapter_name] = index


def _exactly(names: list[str], model: nn.Module) -> list[str] | str:
    """`target_modules` of these alone: a list matches ends of names too, an expression whole ones."""
    ends = tuple(f".{name}" for name in names)
    others = {key for key, _ in model.named_modules()} - set(names)
    return "|".join(map(re.escape, names)) if any(key.endswith(ends) for key in others) else names


def _check_union(tuner: Any, adapters: list[str], adapter_name: str, weights: list[float]) -> Literal["fa", "fb"]:
    if adapter_name in tuner.peft_config:
        raise ValueError(f"There is an adapter {adapter_name!r} already: choose another name.")
    if not adapters or len(set(adapters)) != len(adapters):
        raise ValueError(f"adapters must name different adapters, at least one, but is {adapters}.")
    unknown = [name for name in adapters if name not in tuner.peft_config]
    if unknown:
        raise ValueError(f"There is no adapter {unknown[0]!r}: there are {sorted(tuner.peft_config)}.")
    if len(weights) != len(adapters):
        raise ValueError(f"There are {len(adapters)} adapters, but {len(weights)} weights.")
    configs = [tuner.peft_config[name] for name in adapters]
    variants = {config.variant for config in configs}
    if len(variants) > 1:
        raise ValueError(
            "Adapters of both variants cannot be joined in one, for columns and rows differ: keep them beside each "
            f"other with set_adapter({adapters})."
        )
    for name, config in zip(adapters, configs, strict=True):
        if config.target_parameters:
            raise ValueError(f"Adapter {name!r} adapts parameters (target_parameters), which have no union.")
        if config.modules_to_save or config.trainable_token_indices or config.bias != "none":
            raise ValueError(f"Adapter {name!r} trains modules, tokens or biases in full, which have no union.")
    return variants.pop()
