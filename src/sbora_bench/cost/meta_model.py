"""The true architecture with the true method on PyTorch's `meta` device: shapes and storages without bytes.

4-bit layers are bitsandbytes' own `Linear4bit`, and their storages come from bitsandbytes' own shape rules
(its operators have meta kernels). One thing is mended here: PEFT's DoRA copies the 4-bit layer to read its
weight, and copying a `Params4bit` on `meta` raises, so ours is a subclass that can be copied.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.adapters import adapt, adapter_config
from sbora_bench.inputs.models.load import nf4_config
from sbora_bench.plan.catalog import Catalog, MethodEntry, Protocol

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class Params4bit(bnb.nn.Params4bit):
    """bitsandbytes' parameter (PEFT knows it by this class name), with a copy that works on `meta`."""

    def __deepcopy__(self, memo):
        return packed(self, self.data.clone(), self.quant_state)


def packed(like: bnb.nn.Params4bit, data: torch.Tensor, state: bnb.functional.QuantState) -> Params4bit:
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


def read_config(catalog: Catalog, model: str):
    """The transformers config of a catalog model, a local folder or config.json, or a hub id.

    Raises UserError if there is no such model, or if it isn't a causal language model with LLaMA's layers.
    """
    path = Path(model)
    if model in catalog.models and catalog.models[model].architecture:
        return _from_dict(catalog.models[model].architecture, f"catalog: models.{model}.architecture")
    if path.suffix == ".json" or path.is_dir():
        file = path / "config.json" if path.is_dir() else path
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: not a readable config.json ({error})") from None
        return _from_dict(value, str(file))
    source = getattr(catalog.models.get(model), "source", None)
    name, revision = (source.id, source.revision) if getattr(source, "kind", "") == "hub" else (model, None)
    if path.is_absolute() or model.startswith((".", "~")):
        raise UserError(f"--model {model}: no such folder or config.json")
    if "/" not in name:
        raise UserError(f"--model: {one_of(model, catalog.models, 'model')}; or a hub id or a config.json")
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--model {name}: no configuration could be had ({reason}); give a local config.json or a name of"
            f" the catalog; {one_of(model, catalog.models, 'model')}"
        ) from None
    return _checked(config, name)


def _from_dict(value: Any, where: str):
    kind = value.get("model_type", "llama") if isinstance(value, dict) else None
    try:
        config = AutoConfig.for_model(**{**value, "model_type": kind})
    except Exception as error:  # transformers' validators raise many kinds for a bad file
        raise UserError(f"{where}: not a configuration of a LLaMA-like causal LM ({error})") from None
    return _checked(config, where)


def _checked(config, where: str):
    wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    for key in wanted:
        found = getattr(config, key, None)
        if not isinstance(found, int) or found < 1:
            raise UserError(
                f"{where}: {key}: found {found!r}, allowed a whole number of at least 1: this needs a"
                " LLaMA-like causal language model"
            )
    return config


def build_base(config, protocol: Protocol, method: MethodEntry | None = None, extra_rows: int = 0):
    """The causal language model of `config` on `meta`, in the protocol's dtype, NF4 where the method says so.

    `extra_rows` tokens are added to the vocabulary, as a tokenizer that gains a [PAD] would. Raises UserError
    if its layers aren't LLaMA's.
    """
    dtype = getattr(torch, protocol.weights_dtype)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise UserError(f"config of {config.model_type!r}: not a causal language model ({error})") from None
    linear = {name.rpartition(".")[2] for name, part in model.named_modules() if is_linear(part)}
    if not linear >= PROJECTIONS:
        raise UserError(
            f"config of {config.model_type!r}: found linear layers {sorted(linear)}, needed"
            f" {sorted(PROJECTIONS)}: not a LLaMA-like causal language model"
        )
    if method is not None and method.quantization == "nf4":
        _quantize(model, protocol)
    if extra_rows:
        model.resize_token_embeddings(config.vocab_size + extra_rows, mean_resizing=False)
    return model


def is_linear(part) -> bool:
    return isinstance(part, torch.nn.Linear)


def _quantize(model, protocol: Protocol) -> None:
    asked = nf4_config(protocol)
    replace_with_bnb_linear(model, ["lm_head"], asked)
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
            layer.weight, layer.quant_state = packed(weight, data, state), state
    model.is_loaded_in_4bit = True
    model.config.quantization_config = asked


@contextlib.contextmanager
def _code_of_its_own():
    """bitsandbytes keeps one code for all layers, on the device of the first: don't leave it on `meta`."""
    codes = bnb.functional.name2qmap
    kept = dict(codes)
    codes.clear()
    try:
        yield
    finally:
        codes.clear()
        codes.update(kept)


def attach(base, method: MethodEntry, rank: int, protocol: Protocol):
    """`base` with the method's adapter on it, on `meta`. UserError: a rank above a layer's width."""
    config = adapter_config(method, rank, 0, protocol)
    targets = protocol.target_modules
    widths = [
        (min(part.in_features, part.out_features), name)
        for name, part in base.named_modules()
        if is_linear(part) and "lm_head" not in name
        if isinstance(targets, str) or name.rpartition(".")[2] in targets
    ]
    narrow = min(widths, default=(rank, ""))  # PEFT tells where no target is found
    if not 1 <= rank <= narrow[0]:
        raise UserError(f"--rank: found {rank}, allowed 1 to {narrow[0]}, the width of {narrow[1]}")
    return adapt(base, config, low_cpu_mem_usage=True)


def storage_bytes(tensors) -> int:
    """Bytes of the different storages behind these tensors."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def weight_tensors(model):
    """Every tensor that the model holds: parameters, buffers and the quantisation states of 4-bit layers."""
    yield from model.parameters()
    yield from model.buffers()
    for part in model.modules():
        state = getattr(getattr(part, "weight", None), "quant_state", None)
        while state is not None:
            yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor))
            state = state.state2


def saved_tensors(model):
    """(name, tensor) as in `state_dict`, less the states of 4-bit layers, which can't be written on `meta`."""
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, part in model.named_modules(remove_duplicate=False):
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer
