"""What of a model a configuration adapts: matched and checked before the model is changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from ._peft import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    BaseTunerLayer,
    _get_in_out_features,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
    resolve_quantization_backend,
)
from .config import SboraConfig
from .sharded import is_sharded

TRANSPOSED = ("Llama4TextExperts", "GroupedLinearLayer", "CsmCodebooksHead")  # many x in x out, without saying so
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def targeted_modules(model: nn.Module, config: SboraConfig) -> Iterator[tuple[str, nn.Module]]:
    """The modules that `target_modules` matches, by name; an adapted one stands for what it adapts."""
    config = _maybe_include_all_linear_layers(copy.copy(config), model)
    inside_adapters: tuple[str, ...] = ()
    for key, module in model.named_modules():
        if not key or key.startswith(inside_adapters):
            continue
        if check_target_module_exists(config, key):
            yield key, module
        if isinstance(module, BaseTunerLayer):
            inside_adapters += (key + ".",)


def targeted_parameters(model: nn.Module, config: SboraConfig) -> Iterator[tuple[str, nn.Module, str]]:
    """The parameters that `target_parameters` matches: their names in the bare model, owners, and names there."""
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False) if config.target_parameters else ():
            key = f"{path}.{name}".replace(".base_layer", "")
            if any(key == target or key.endswith(f".{target}") for target in config.target_parameters or ()):
                yield key, module, name


def in_dimension(module: nn.Module, parameter: Tensor) -> int:
    """The dimension of a parameter, from the end, that has the inputs.

    A parameter of two dimensions is out x in, as a linear layer's; one of three experts x out x in, unless
    its module says that it is transposed, as transformers has it, or is known to be.
    """
    transposed = getattr(module, "is_transposed", type(module).__name__ in TRANSPOSED)
    return -2 if parameter.dim() == 3 and transposed else -1


def check_targets(model: nn.Module, config: SboraConfig) -> None:
    """Check all that the configuration targets; warn of names that match nothing.

    Raises:
        TypeError: a target is not a linear layer, or a parameter of another kind or shape.
        ValueError: a rank is above what its module has, or processes have parts of a target each.
    """
    for key, module in targeted_modules(model, config):
        check_module(key, module, config)
        _check_undivided(model, key, module.get_base_layer() if isinstance(module, BaseTunerLayer) else module)
    wrappers = [(name, m) for name, m in model.named_modules() if type(m).__name__ == "ParamWrapper"]
    others = {name.replace(".base_layer", "") for name, m in wrappers if not type(m).__module__.startswith(__package__)}
    for key, module, name in targeted_parameters(model, config):
        _check_parameter(key, module, name, config, key.rpartition(".")[0] in others)
        _check_undivided(model, key, module)
    _warn_of_unmatched(model, config)
    _warn_of_weights_used_elsewhere(model, config)


def check_module(key: str, module: nn.Module, config: SboraConfig) -> None:
    """Whether a module can be adapted.

    Raises:
        TypeError: it is not a linear layer.
        ValueError: its rank is too high.
    """
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    backend = None if isinstance(base, (nn.Linear, Conv1D)) else resolve_quantization_backend(base)
    if not isinstance(base, (nn.Linear, Conv1D)) and (backend is None or backend.layer_type != "linear"):
        raise TypeError(
            f"SBoRA cannot adapt {key!r}, a {type(base).__name__}: only linear layers (torch.nn.Linear, "
            "transformers' Conv1D, and quantised ones) have columns and rows to choose. Name other "
            "target_modules, or put it into exclude_modules."
        )
    inputs, outputs = _get_in_out_features(base)
    _check_rank(key, inputs, outputs, config)


def _check_parameter(key: str, module: nn.Module, name: str, config: SboraConfig, wrapped: bool) -> None:
    parameter = getattr(module, name)
    if wrapped:  # PEFT would put one inside the other, both ways
        why = "another of PEFT's methods adapts its module, to be merged or unloaded first"
    elif name in getattr(module, "parametrizations", ()):
        why = "it is parametrised, quantised perhaps"
    elif parameter.dim() not in (2, 3):
        why = f"it has {parameter.dim()} dimensions, not two or three"
    elif parameter.dtype not in FLOATS:
        why = f"it is of type {parameter.dtype}"
    else:
        dim = in_dimension(module, parameter)
        _check_rank(key, parameter.shape[dim], parameter.shape[-3 - dim], config)
        return
    raise TypeError(f"SBoRA cannot adapt the parameter {key!r}: {why}. Leave it out of target_parameters.")


def _check_undivided(model: nn.Module, key: str, module: nn.Module) -> None:
    """Refuse a layer of which each process computes a part: an index set points into all of it. FSDP's are whole when
    they run.

    Raises:
        ValueError: it is one.
    """
    divided = getattr(module, "_is_hooked", False)  # by transformers' plans
    if not divided and any(is_sharded(parameter) for parameter in module.parameters(recurse=False)):
        from torch.distributed.fsdp import FSDPModule

        divided = not any(isinstance(other, FSDPModule) for other in model.modules())
    if divided:
        raise ValueError(
            f"SBoRA cannot adapt {key!r}: each process computes a part of it (tensor or expert parallelism), and an "
            "index set points into the whole. Load the base without a tp_plan; FSDP may share it out instead."
        )


def _check_rank(key: str, in_features: int, out_features: int, config: SboraConfig) -> None:
    r, _ = config.rank_and_alpha(key)
    what, size = ("inputs", in_features) if config.variant == "fa" else ("outputs", out_features)
    k, n = config.region or (0, 1)
    if r > size // n:
        where = "" if config.region is None else f" in part {k} of {n}"
        raise ValueError(
            f"r = {r} is too high for {key!r} ({in_features} inputs, {out_features} outputs): variant "
            f"{config.variant!r} chooses {r} of its {what}, and there are {size // n}{where}. Lower r (for "
            f"this module alone with rank_pattern={{{key!r}: {size // n}}}) or put it into exclude_modules."
        )


def _warn_of_unmatched(model: nn.Module, config: SboraConfig) -> None:
    """Warn of names that no module, or no parameter, of the model ends in, and of experts that a pattern,
    "all-linear" or a name that they share with modules leaves out, for they are no modules."""

    def unmatched(names: set[str] | list[str] | str | None, keys: set[str]) -> list[str]:
        names = [] if isinstance(names, str) else names or []
        return sorted(n for n in names if n not in keys and not any(key.endswith(f".{n}") for key in keys))

    model_type = getattr(getattr(model, "config", None), "model_type", None)
    usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, ())
    by_peft = config.target_modules in (usual, set(usual))
    chosen = None if by_peft else config.target_modules
    bare = {n.replace(".base_layer", "") for n, _ in model.named_parameters() if ".sbora_" not in n}
    modules = {name.replace(".base_layer", "") for name, _ in model.named_modules()}
    experts = _experts(model)
    hint = f" Its experts are parameters, to be named in target_parameters: {_named(experts)}." * bool(experts)
    lacking = {
        "target_modules": unmatched(chosen, modules),
        "target_parameters": unmatched(config.target_parameters, bare),
    }
    for option, names in lacking.items():
        if names:
            warnings.warn(
                f"{option}: nothing in the model is named {', '.join(names)}, so nothing of it is adapted." + hint,
                stacklevel=2,
            )
    left = experts - {key for key, _, _ in targeted_parameters(model, config)}
    if not isinstance(chosen, str):  # a name that shared experts, which are modules, have too
        left = {key for key in left if key.rpartition(".")[2] in set(chosen or ()) - set(lacking["target_modules"])}
        chosen = sorted(chosen or ())
    if left and not config.inference_mode:
        warnings.warn(
            f"target_modules: {chosen!r} adapts modules alone. The model's experts are parameters, and stay as they "
            f"are unless they are named in target_parameters: {_named(left)}.",
            stacklevel=2,
        )


def _warn_of_weights_used_elsewhere(model: nn.Module, config: SboraConfig) -> None:
    """Warn of layers that are never called: torch's attention multiplies with the weight of `out_proj` itself."""
    projections = {module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    keys = [key for key, module in targeted_modules(model, config) if module in projections]
    keys += [key for key, module, _ in targeted_parameters(model, config) if module in projections]
    if keys:
        warnings.warn(
            f"{', '.join(keys)}: torch.nn.MultiheadAttention uses this weight itself and never calls the layer, so "
            "that an adapter there changes nothing and learns nothing. Put it into exclude_modules.",
            stacklevel=2,
        )


def _experts(model: nn.Module) -> set[str]:
    """Parameters that are several matrices; of a vision model, tokens and positions have one in front."""
    return {
        f"{path}.{name}".replace(".base_layer", "")
        for path, module in model.named_modules()
        if ".sbora_" not in path and not isinstance(module, _ConvNd)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and len(parameter) > 1
    }


def _named(parameters: set[str]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[-2:]) for name in parameters}))
