"""Exact counts of a model and its adapter: parameters are numbers, however packed; bytes are as stored."""

import json
import re
from typing import Any, TypeVar

import peft
import torch
from transformers import AutoModelForCausalLM

from sbora_bench.cost.roofline import GIB
from sbora_bench.cost.storages import saved_tensors, storage_bytes, weight_tensors
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.meta_twin import build, build_base
from sbora_bench.inputs.method_hooks import changes_base
from sbora_bench.inputs.models.config import added_rows, first_layers, read_config
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol

T = TypeVar("T")
LARGEST = 4 * GIB  # bytes of layers that are built for real to be counted
VOCABULARY = 32  # rows of embeddings that such a model has
KEYS_AND_VALUES = {"PREFIX_TUNING", "CARTRIDGE"}  # prompts that are no tokens before the row
LAST = re.compile(r"\.1\.")  # in the name of a tensor: of the second of two layers
# safetensors' names of dtypes, in the order in which it stores them.
SAFETENSORS = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def counts(model: torch.nn.Module) -> dict[str, Any]:
    """Counts of a model on `meta`: numbers trained and in all, bytes of the adapter's file, of weights and adapter."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad] if isinstance(model, peft.PeftModel) else []
    held, adapter = storage_bytes(weight_tensors(model)), storage_bytes(adapter_tensors(model))
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "total_parameters": sum(numbers(p) for p in parameters),
        "adapter_bytes": adapter_bytes(saved_state(model)) if trained else None,
        "memory": {"weights": held - adapter, "adapter": adapter, "peak": None},
    }


def counts_and_twin(
    catalog: Catalog, model: str, method: MethodEntry | None, rank: int | None, protocol: Protocol
) -> tuple[dict[str, Any], torch.nn.Module | None]:
    """`counts` of a cell and its twin on `meta`; of layers that are built for real, and None, where its method needs
    values. Raises UserError where the method doesn't suit the model or can't be counted.
    """
    try:
        twin = build(catalog, model, method, rank, protocol)
        return counts(twin), twin
    except UserError:
        raise
    except Exception as error:
        if method is None or rank is None:
            raise
        reason = in_a_line(error)
    try:
        return counts_of_layers(catalog, model, method, rank, protocol), None
    except Exception as error:
        raise UserError(f"{method.title} on {model} can't be counted: {reason}; {in_a_line(error)}") from None


def adapter_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that training would save of a model on `meta`; none for an untuned base.

    Of AdaLoRA all that it begins with: what pruning leaves isn't known before.
    """
    if not isinstance(model, peft.PeftModel):
        return {}
    if model.active_peft_config.is_prompt_learning:
        return {"prompt_embeddings": prompt_embeddings(model)}
    tensors = dict(saved_tensors(model))
    return peft.get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)


def adapter_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """The adapter's tensors while it is trained; of a prompt its encoder, which isn't what is saved."""
    if isinstance(model, peft.PeftModel) and model.active_peft_config.is_prompt_learning:
        return list(model.prompt_encoder.parameters())
    return list(adapter_state(model).values())


def prompt_embeddings(model: peft.PeftModel) -> torch.Tensor:
    """What a prompt's encoder says, as PEFT saves it, which would copy it to the CPU first."""
    encoder, tokens = model.prompt_encoder[model.active_adapter], model.prompt_tokens[model.active_adapter]
    if model.active_peft_config.peft_type in KEYS_AND_VALUES:
        tokens = tokens[: model.active_peft_config.num_virtual_tokens]
    return encoder(tokens.unsqueeze(0).to("meta"))[0].detach()


def saved_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`adapter_state` as the file has it: with the first values beside those trained where the base was changed."""
    state = adapter_state(model)
    if not isinstance(model, peft.PeftModel) or not changes_base(model.active_peft_config):
        return state
    sides = {".lora_A.": 0, ".lora_B.": 1}
    return {
        name: torch.cat([tensor, tensor], dim=next((side for part, side in sides.items() if part in name), 0))
        for name, tensor in state.items()
    }


def numbers(parameter: torch.Tensor) -> int:
    """How many weights a parameter stands for (4-bit ones are packed two to a byte)."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def adapter_bytes(state: dict[str, torch.Tensor]) -> int:
    """Size of the `adapter_model.safetensors` that PEFT would write of these tensors, header included."""
    order = list(SAFETENSORS)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in sorted(state.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        end = offset + tensor.numel() * tensor.element_size()
        kind = SAFETENSORS[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + (text + 7) // 8 * 8 + offset


def counts_of_layers(
    catalog: Catalog, model: str, method: MethodEntry, rank: int, protocol: Protocol
) -> dict[str, Any]:
    """`counts` of a cell whose method needs real values, from a model with two of its layers and few tokens.

    What the second layer holds is repeated for those that follow, so layers must be alike; a prompt's encoder gets
    their number. Raises UserError where two layers are too large, and whatever PEFT raises.
    """
    config = read_config(catalog, model)
    layers = config.get_text_config().num_hidden_layers
    small = first_layers(config, 2)
    small.get_text_config().vocab_size = VOCABULARY
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(small.get_text_config(), key, None)
    with torch.device("meta"):
        size = storage_bytes(AutoModelForCausalLM.from_config(small, dtype=torch.float32).parameters())
    if size > LARGEST:
        raise UserError(f"two of its layers take {size / GIB:.1f} GiB, more than {LARGEST // GIB}: not built to count")
    base = AutoModelForCausalLM.from_config(small, dtype=getattr(torch, protocol.weights_dtype))
    unquantised = method.model_copy(update={"quantization": None})
    before = {name: p.numel() for name, p in base.named_parameters()}
    peft_config = adapter_config(method, rank, 0, protocol)
    if peft_config.is_prompt_learning:
        peft_config.num_layers = layers
    adapted = as_trained(base, unquantised, peft_config, protocol)
    after = {name: p.numel() for name, p in adapted.named_parameters()}
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    saved = repeated(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), layers)
    adapter = sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
    rows = added_rows(named_source(catalog, model), protocol, config.get_text_config().vocab_size)
    untuned = counts(build_base(config, protocol, method, rows))
    of_adapter = sum(repeated(after, layers).values()) - sum(repeated(before, layers).values())
    return {
        "trainable_parameters": sum(repeated(trained, layers).values()),
        "total_parameters": untuned["total_parameters"] + of_adapter,
        "adapter_bytes": adapter_bytes(saved),
        "memory": {"weights": untuned["memory"]["weights"], "adapter": adapter, "peak": None},
    }


def repeated(tensors: dict[str, T], layers: int) -> dict[str, T]:
    """By name what two layers have and what belongs to none, as a model of so many layers has it."""
    if layers < 2:
        return tensors
    copies = {
        LAST.sub(f".{layer}.", name, count=1): tensor
        for layer in range(2, layers)
        for name, tensor in tensors.items()
        if LAST.search(name)
    }
    return tensors | copies
