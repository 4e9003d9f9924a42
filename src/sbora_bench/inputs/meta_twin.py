"""A model's twin on PyTorch's `meta` device: its own class and config, its method's adapter, shapes without bytes.

4-bit layers are bitsandbytes' own `Linear4bit`, and their storages come from bitsandbytes' own shape rules
(its operators have meta kernels). One thing is mended here: PEFT's DoRA copies the 4-bit layer to read its
weight, and copying a `Params4bit` on `meta` raises, so ours is a subclass that can be copied.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora.variants import MontecloraLinearVariant
from transformers import AutoModelForCausalLM
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D

from sbora_bench.errors import UserError
from sbora_bench.inputs.adapters import adapter_config, as_trained, merged
from sbora_bench.inputs.method_hooks import INITIALISERS
from sbora_bench.inputs.models.config import added_rows, read_config
from sbora_bench.inputs.models.load import model_positions, nf4_config
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.method_entry import LOW_RANK, PROMPTS, MethodEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LINEAR = (torch.nn.Linear, Conv1D)


class Params4bit(bnb.nn.Params4bit):
    """bitsandbytes' parameter (PEFT knows it by this class name), with a copy that works on `meta`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Params4bit":
        return packed_parameter(self, self.data.clone(), self.quant_state)


def packed_parameter(like: bnb.nn.Params4bit, data: torch.Tensor, state: bnb.functional.QuantState) -> Params4bit:
    """The 4-bit parameter of these packed bytes, with the settings of `like`."""
    return Params4bit(
        data,
        quant_state=state,
        blocksize=like.blocksize,
        compress_statistics=like.compress_statistics,
        quant_type=like.quant_type,
        quant_storage=like.quant_storage,
        module=like.module,
        bnb_quantized=True,
    )


def build(
    catalog: Catalog, model: str, method: MethodEntry | None, rank: int | None, protocol: Protocol
) -> torch.nn.Module:
    """The twin of a cell's model, in the protocol's dtype, quantised and adapted as training does it."""
    config = read_config(catalog, model)
    rows = added_rows(named_source(catalog, model), protocol, config.get_text_config().vocab_size)
    base = build_base(config, protocol, method, rows)
    if method is None:
        return base
    assert rank is not None, method.title
    return attach(base, method, rank, protocol)


def build_scored(
    catalog: Catalog, model: str, method: MethodEntry | None, rank: int | None, protocol: Protocol
) -> torch.nn.Module:
    """The twin of a cell as it is scored: without an adapter where the protocol merges it."""
    without_adapter = method is None or merged(method, protocol)
    return build(catalog, model, None if without_adapter else method, rank, protocol)


def build_base(
    config: "PretrainedConfig", protocol: Protocol, method: MethodEntry | None = None, extra_rows: int = 0
) -> torch.nn.Module:
    """The causal language model of `config` on `meta`, in the protocol's dtype, NF4 where the method says so.

    `extra_rows` tokens are added to the vocabulary, as a tokenizer that gains a [PAD] would. Raises UserError
    if transformers has no causal language model of that config.
    """
    dtype = getattr(torch, protocol.weights_dtype)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError, AttributeError) as error:
        reason = str(error).partition("Model type should be one of")[0]
        raise UserError(f"config of {config.model_type!r}: not a causal language model ({reason.strip()})") from None
    if method is not None and method.quantization == "nf4":
        _quantize(model, protocol)
    if extra_rows:
        size = model.get_input_embeddings().num_embeddings
        model.resize_token_embeddings(size + extra_rows, mean_resizing=False)
    return model


def _quantize(model: torch.nn.Module, protocol: Protocol) -> None:
    settings = nf4_config(protocol)
    replace_with_bnb_linear(model, ["lm_head"], settings)
    layers = [part for part in model.modules() if isinstance(part, bnb.nn.Linear4bit)]
    with _code_of_its_own():
        for layer in layers:
            weight = layer.weight
            data, state = bnb.functional.quantize_4bit(
                weight.data.to(getattr(torch, protocol.weights_dtype)),
                blocksize=weight.blocksize,
                compress_statistics=weight.compress_statistics,
                quant_type=weight.quant_type,
                quant_storage=weight.quant_storage,
            )
            weight.module = layer
            layer.weight, layer.quant_state = packed_parameter(weight, data, state), state
    model.is_loaded_in_4bit = True
    model.config.quantization_config = settings


@contextlib.contextmanager
def _code_of_its_own() -> Iterator[None]:
    """bitsandbytes keeps one code for all layers, on the device of the first: don't leave it on `meta`."""
    codes = bnb.functional.name2qmap
    kept = dict(codes)
    codes.clear()
    try:
        yield
    finally:
        codes.clear()
        codes.update(kept)


def attach(base: torch.nn.Module, method: MethodEntry, rank: int, protocol: Protocol) -> torch.nn.Module:
    """`base` with the method's adapter on it, on `meta`.

    Raises UserError as `check_rank` does, and for what PEFT refuses.
    """
    check_rank(base, method, rank, protocol)
    config = adapter_config(method, rank, 0, protocol)
    start = getattr(config, "init_lora_weights", None)
    if start in INITIALISERS:  # values come from data: none here, and the same shapes
        config.init_lora_weights = True
    model = as_trained(base, method, config, protocol, low_cpu_mem_usage=True)
    if start in INITIALISERS:
        config.init_lora_weights = start
    for name in getattr(config, "modules_to_tie", None) or ():  # PEFT ties them, and on `meta` the tie is lost
        saved = model.get_input_embeddings().modules_to_save["default"]
        model.get_base_model().get_submodule(name).modules_to_save["default"].weight = saved.weight
    for part in model.modules():
        samplers = getattr(part, "lora_monteclora_sampler", {"": None})
        if not len(samplers):  # PEFT makes them at the first pass where it finds `meta`
            with torch.device("meta"):
                samplers["default"] = MontecloraLinearVariant._create_sampler(part, "default", config.monteclora_config)
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:  # AdaLoRA's counters, which PEFT lets require gradients on `meta` alone
            parameter.requires_grad_(False)
    return model


def check_rank(base: torch.nn.Module, method: MethodEntry, rank: int, protocol: Protocol) -> None:
    """Raise UserError where `rank` is none of an update of the layers that the method changes, or where virtual
    tokens leave no room for the rows.
    """
    positions = model_positions(base) if method.peft_type in PROMPTS else None
    if positions is not None and rank + protocol.max_length > positions:
        raise UserError(
            f"rank: found {rank} virtual tokens beside rows of max_length {protocol.max_length}, allowed"
            f" {max(positions - protocol.max_length, 0)}: the model has {positions} positions"
        )
    if method.peft_type not in LOW_RANK:
        return
    layers = ((min(sides(part)), name) for name, part in targeted(base, method, rank, protocol))
    width, name = min(layers, default=(rank, ""))  # PEFT says where no target is there
    if not 1 <= rank <= width:
        raise UserError(f"rank: found {rank}, allowed 1 to {width}, the shorter side of {name}")


def sides(layer: torch.nn.Module) -> tuple[int, int]:
    """Numbers of outputs and inputs of a linear layer, also where its weight is packed."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def targeted(
    base: torch.nn.Module, method: MethodEntry, rank: int, protocol: Protocol
) -> Iterator[tuple[str, torch.nn.Module]]:
    """(name, layer) of the linear layers that the method changes, by PEFT's own rule."""
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists

    config = adapter_config(method, rank, 0, protocol)
    if not getattr(config, "target_modules", None):
        return
    config = _maybe_include_all_linear_layers(config, base)
    for name, part in base.named_modules():
        if isinstance(part, LINEAR) and check_target_module_exists(config, name):
            yield name, part
