"""Which columns or rows to train: index sets chosen by weights, activations or gradients instead of drawn.

What needs data is initialised as PEFT's LoRA-GA is: `preprocess_index` runs the model before `get_peft_model` and
leaves a score for every column or row with each module that will be adapted; the adapter is then made from these.
The nearest published relatives choose too: S2FT (arXiv 2412.06289) the heads and channels, SHiRA (arXiv
2406.13175) single entries of the weight, by magnitude, gradient or their product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from transformers.pytorch_utils import Conv1D

from ._peft import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, BaseTunerLayer
from .config import SboraConfig
from .targets import in_dimension, targeted_modules, targeted_parameters


def choose(scores: Tensor, candidates: Tensor, r: int) -> Tensor:
    """The r candidates of the highest scores, ascending; of equal scores, as an expert that saw no token has them,
    those that come first among the candidates."""
    order = scores.to(candidates.device)[candidates].argsort(descending=True, stable=True)
    return candidates[order[:r]].sort().values


def preprocess_index(model: nn.Module, config: SboraConfig, run_model: Callable[[], None]) -> None:
    """Score the columns (FA) or rows (FB) of everything that a configuration targets, on data.

    Call it before `get_peft_model`, with the same model and configuration. `"activation"` scores inputs (FA) or
    outputs (FB) by their mean square, `"gradient"` columns or rows by the norm of their gradient, the squares
    summed over the backward passes. Where `torch.distributed` has several processes, all of them call it: what they saw
    is put together, for each has other batches and all must choose alike. Activations of padding, which an
    `attention_mask` (batch, tokens) leaves out, do not count, but for encoder-decoders, which have two lengths.

    Args:
        model: the base model.
        config: of the adapter to be; its `index_init` says what to score.
        run_model: runs the model on a few batches. For `"gradient"` it calls `backward` on each loss too. For
            the same choice every time it must do the same every time.

    Raises:
        ValueError: nothing needs data, the model did not run, or a target cannot be scored, or has scores that are
            not finite.

    Examples:
        >>> config = SboraConfig(variant="fa", r=32, index_init="gradient", target_modules=["q_proj", "v_proj"])
        >>> preprocess_index(model, config, lambda: [model(**batch).loss.backward() for batch in batches])
        >>> model = get_peft_model(model, config)
    """
    if config.index_init not in ("activation", "gradient"):
        raise ValueError(
            f"index_init is {config.index_init!r}, which needs no data: leave preprocess_index out, or take "
            "'activation' or 'gradient'."
        )
    if config.target_modules is None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        names = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
        config.target_modules = cast("list[str]", set(names)) if isinstance(names, list) else names
    targets = [(key, module, "weight") for key, module in targeted_modules(model, config)]
    targets += list(targeted_parameters(model, config))
    # of what is adapted already the layer below all adapters
    targets = [(k, m.get_base_layer() if isinstance(m, BaseTunerLayer) else m, name) for k, m, name in targets]
    totals: dict[str, Tensor] = {}
    watch = _watch_activations if config.index_init == "activation" else _watch_gradients
    with watch(model, targets, config.variant, totals):
        run_model()
    unseen = [key for key, _, _ in targets if key not in totals]
    if not targets or unseen:
        raise ValueError(
            f"index_init is {config.index_init!r}, but run_model() left no {config.index_init} for "
            f"{', '.join(unseen) or 'any module: nothing is targeted'}."
        )
    broken = [key for key, total in totals.items() if not total.isfinite().all()]
    if broken:
        raise ValueError(f"run_model() left {config.index_init}s that are not finite for {', '.join(broken)}.")
    for key, module, name in targets:
        module.__dict__.setdefault("_sbora_scores", {})[name, config.variant, config.index_init] = totals[key]


def find_scores(module: nn.Module, parameter: str, variant: str, index_init: str) -> Tensor | None:
    """What `preprocess_index` left with a module; None if it wasn't called, as where an adapter is loaded."""
    return module.__dict__.get("_sbora_scores", {}).get((parameter, variant, index_init))


def weight_scores(weight: Tensor, dim: int) -> Tensor:
    """The norm of each slice of a weight, ([experts,] d1, d2), along `dim`, from the end: ([experts,] size)."""
    return weight.detach().float().norm(dim=-3 - dim)


def _add(totals: dict[str, Any], key: str, value: Any) -> None:
    totals[key] = totals[key] + value if key in totals else value


def _add_of_other_processes(sums: dict) -> None:
    """Add up what all processes have under a key, in the order of their ranks, so that all get the same bits."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, {k: v.cpu() if isinstance(v, Tensor) else v for k, v in sums.items()})
    sums.clear()
    for part in parts:
        for key, value in part.items():
            _add(sums, key, value)


def _rows(x: Tensor) -> Tensor:
    """(..., n) -> (rows, n), dense, also of nested and sparse tensors."""
    if x.is_nested:
        return torch.cat([_rows(part) for part in x.unbind()])
    return (x if x.layout is torch.strided else x.to_dense()).reshape(-1, x.shape[-1])


@contextmanager
def _watch_activations(model: nn.Module, targets: list, variant: str, totals: dict[str, Tensor]) -> Iterator[None]:
    counts: dict[str, int] = {}
    mask: Any = None  # some models take a dictionary of them

    def note_mask(_module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal mask
        mask = kwargs.get("attention_mask")

    def record(key: str, _module: nn.Module, args: tuple, kwargs: dict[str, Tensor], output: Tensor) -> None:
        values = output if variant == "fb" else args[0] if args else next(iter(kwargs.values()))
        if isinstance(mask, Tensor) and not values.is_nested and values.shape[:-1] == mask.shape:
            values = values[mask.to(values.device).bool()]  # padding says nothing of the data
        values = _rows(values.detach()).float()
        _add(totals, key, values.square().sum(0))
        counts[key] = counts.get(key, 0) + len(values)

    for key, module, name in targets:
        if name != "weight" or not hasattr(module, "forward"):
            raise ValueError(f"index_init = 'activation' cannot see what {key!r} is multiplied with: take 'gradient'.")
    handles = [module.register_forward_hook(partial(record, key), with_kwargs=True) for key, module, _ in targets]
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):  # the mask is the encoder's alone
        handles.append(model.register_forward_pre_hook(note_mask, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    _add_of_other_processes(totals)
    _add_of_other_processes(counts)
    for key in totals:
        totals[key] /= max(counts[key], 1)


@contextmanager
def _watch_gradients(model: nn.Module, targets: list, variant: str, totals: dict[str, Tensor]) -> Iterator[None]:
    dims: dict[nn.Parameter, dict[str, int]] = {}  # of what is scored, for each target that has the parameter

    def record(weight: nn.Parameter) -> None:
        for key, dim in dims[weight].items():
            _add(totals, key, weight_scores(cast("Tensor", weight.grad), dim).square())
        weight.grad = None  # no more than one layer's gradient is alive

    before = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.parameters()}
    handles = []
    try:
        for parameter in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for key, module, name in targets:
            weight = getattr(module, name)
            if not weight.is_floating_point():
                raise ValueError(f"index_init = 'gradient' needs weights that are not quantised, but {key!r} is.")
            weight.requires_grad_(True)
            in_dim = -2 if isinstance(module, Conv1D) else in_dimension(module, weight)
            if weight not in dims:
                handles.append(weight.register_post_accumulate_grad_hook(record))
            dims.setdefault(weight, {})[key] = in_dim if variant == "fa" else -3 - in_dim
        with torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, (required, gradient) in before.items():
            parameter.requires_grad_(required)
            parameter.grad = gradient
    _add_of_other_processes(totals)
    for key in totals:
        totals[key] = totals[key].sqrt()
