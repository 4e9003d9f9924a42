"""One training step, or one generation, of a model on `meta`, traced: peak memory by composition, and FLOPs.

The step is what transformers' Trainer does for a micro-batch as our `finetune` sets it up (forward under accelerate's
autocast, loss in fp32, backward, clipping, optimizer), at a moment when the optimizer's state exists already.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import bitsandbytes as bnb
import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sbora_bench.cost.counting import KEYS_AND_VALUES
from sbora_bench.cost.storages import storage_bytes, weight_tensors
from sbora_bench.cost.tracer import Kernels, Tracer
from sbora_bench.errors import UserError, one_of
from sbora_bench.inputs.adapters import CHECKPOINTING
from sbora_bench.inputs.padding_free import places, take_packed_rows
from sbora_bench.inputs.parts import parts_of
from sbora_bench.inputs.products import products
from sbora_bench.inputs.supervised_loss import SupervisedLoss, Unfit
from sbora_bench.plan.protocol import Protocol

# transformers' names of the optimizers that can be traced; those of bitsandbytes have 32-bit or 8-bit states.
OPTIMIZERS = {
    "adamw_torch": torch.optim.AdamW,
    "adamw_torch_fused": torch.optim.AdamW,
    "paged_adamw_32bit": bnb.optim.AdamW32bit,
    "paged_adamw_8bit": bnb.optim.AdamW8bit,
    "adamw_bnb_8bit": bnb.optim.AdamW8bit,
    "adamw_8bit": bnb.optim.AdamW8bit,
}

# transformers makes no mask for an attention that it has no mask function of; for `sdpa` it would read values.
UNMASKED = "sdpa_unmasked"
AttentionInterface.register(UNMASKED, sdpa_attention_forward)


def trace_training(
    model: torch.nn.Module,
    adapter: Iterable[torch.Tensor],
    protocol: Protocol,
    micro_batch: int,
    length: int,
    device: str,
) -> Tracer:
    """Trace a step of `micro_batch` examples of `length` tokens, padding among them, on a `cpu` or `cuda` device.

    Where the protocol has it go through the model in parts, parts of one shape are traced once and counted as often as
    they are; the largest that shorter examples make is traced too.
    `model`: on `meta`, adapted. `adapter`: the tensors that belong to the adapter. Raises UserError for an optimizer
    that isn't known here.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.config.use_cache = False
    fused = model.config._attn_implementation in ("sdpa", UNMASKED)
    supervised = None
    prompt = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    # PEFT's loss has a row's first token too, after the last virtual one
    first_too = prompt and model.active_peft_config.peft_type not in KEYS_AND_VALUES
    if protocol.logits == "supervised" and not first_too:
        if fused:
            model.set_attn_implementation(UNMASKED)
        with contextlib.suppress(Unfit):  # then training goes the plain way too
            supervised = SupervisedLoss(model, [0, 0])
    unpadded = fused and micro_batch == 1  # no padding, so no mask: attention goes another way, which takes less
    if fused:
        model.set_attn_implementation(UNMASKED if unpadded else "sdpa")
    flat = protocol.padding_free and not take_packed_rows(model, [])
    tracer = Tracer(device, model.config.get_text_config().vocab_size, trained)
    kernels = Kernels(device, getattr(torch, protocol.autocast) if protocol.autocast else None, tracer)
    if protocol.gradient_checkpointing:
        again = CHECKPOINTING | {"context_fn": lambda: (contextlib.nullcontext(), kernels.forward())}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=again)
    optimizer = ready_optimizer(protocol.optimizer, trained)
    accumulation = protocol.batch_size // protocol.micro_batch
    shapes = parts_of(protocol, micro_batch).shapes(micro_batch, length)
    if accumulation > 1 or sum(shapes.values()) > 1:
        for p in trained:
            p.grad = torch.empty_like(p)
    tracer.adopt(weight_tensors(model), "weights")
    tracer.adopt(adapter, "adapter")
    tracer.adopt((t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)), "optimizer")
    tracer.adopt((p.grad for p in trained if p.grad is not None), "gradients")
    with tracer, products(model, protocol.products, device):
        for (rows, width), tracer.times in shapes.items():
            tracer.phase = "forward"
            # PEFT puts a prompt's ones before a row of the mask
            mask = None if unpadded else (width,) if prompt else (1, width, width)
            inputs = row_of_examples(rows, width) if flat else batch(rows, width, mask)
            loss = training_loss(model, inputs, kernels, supervised, rows) / accumulation
            del inputs
            tracer.phase = "backward"
            loss.backward()
            tracer.adopt((p.grad for p in trained), "gradients")
        tracer.phase, tracer.times = "optimizer", 1
        if protocol.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, protocol.max_grad_norm)
        if protocol.optimizer == "adamw_torch":
            optimizer.param_groups[0]["foreach"] = device == "cuda"
            optimizer.step()
        # the others update in place, parameter by parameter
        optimizer.zero_grad()
    return tracer


def training_loss(
    model: torch.nn.Module,
    inputs: dict[str, Any],
    kernels: Kernels,
    supervised: SupervisedLoss | None = None,
    examples: int = 1,
) -> torch.Tensor:
    """The loss of a batch, the outputs in fp32 as accelerate has them under autocast, and let go.

    `supervised`: how the loss is taken from supervised positions alone; every token but an example's first is one here.
    """
    if supervised is not None:
        labels = inputs["labels"]
        assert labels is not None
        chosen = torch.empty(2, labels.numel() - examples, dtype=torch.long, device="meta")
        with kernels.forward():
            return supervised(model, inputs, chosen=(chosen[0], chosen[1]))[0]
    with kernels.forward():
        outputs = model(**inputs)
    if kernels.low is not None:
        outputs = convert_outputs_to_fp32(lambda: outputs)()
    return outputs.loss


def batch(rows: int, length: int, mask_shape: tuple[int, ...] | None) -> dict[str, torch.Tensor | None]:
    """Token ids, labels and a mask of that shape a row, or none: (1, length, length) as masks of rows with padding are
    made, or (length,) where the model makes them.
    """
    ids = torch.empty(rows, length, dtype=torch.long, device="meta")
    mask = None if mask_shape is None else torch.empty(rows, *mask_shape, dtype=torch.bool, device="meta")
    return {"input_ids": ids, "labels": torch.empty_like(ids), "attention_mask": mask}


def row_of_examples(examples: int, length: int) -> dict[str, Any]:
    """Examples of `length` tokens in one row, as `padding_free` has them."""
    ids = torch.empty(1, examples * length, dtype=torch.long, device="meta")
    begun = places([length] * examples, torch.device("cpu"))
    return {"input_ids": ids, "labels": torch.empty_like(ids), "position_ids": torch.empty_like(ids)} | begun


def ready_optimizer(name: str, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """An optimizer on `meta` whose state exists. Raises UserError for one that can't be traced."""
    if name not in OPTIMIZERS:
        raise UserError(f"protocol: optimizer: {one_of(name, OPTIMIZERS, 'optimizer')}")
    optimizer = OPTIMIZERS[name](parameters)
    if isinstance(optimizer, torch.optim.AdamW):
        for p in parameters:
            p.grad = torch.empty_like(p)
        optimizer.step()
        optimizer.zero_grad()
    else:
        for number, p in enumerate(parameters):
            optimizer.init_state(optimizer.param_groups[0], p, 0, number)
    return optimizer


def trace_generation(
    model: torch.nn.Module, rows: int, prompt: int, new_tokens: int, beams: int, device: str
) -> dict[str, int]:
    """Bytes at the peak of generating `new_tokens` for `rows` prompts with a KV cache: `weights`, `cache`, `peak`.

    Two moments are traced: the prompts at once, and the last token, whose cache is the longest.
    """
    moments = [(prompt, 0)] + [(1, prompt + new_tokens - 1)] * (new_tokens > 1)
    traced = [decoding_step(model, rows, beams, fed, past, device) for fed, past in moments]
    peaks = [tracer.peak() for tracer, _ in traced]
    return {"weights": peaks[0]["weights"], "cache": traced[-1][1], "peak": max(peak["peak"] for peak in peaks)}


def decoding_step(
    model: torch.nn.Module, rows: int, beams: int, fed: int, past: int, device: str
) -> tuple[Tracer, int]:
    """A traced step of transformers' `generate` that feeds `fed` tokens after `past`, and the bytes of its cache after.

    With beams, each is a row of its own, and afterwards the cache is put in the order of the beams that go on. The
    scores of the step before are alive during the next.
    """
    model.eval()
    model.config.use_cache = True
    wide, words = rows * beams, model.config.get_text_config().vocab_size
    kernels, cache = Kernels(device), DynamicCache(config=model.config)
    if past:
        _fill(cache, model, wide, past)
    tracer = Tracer(device, words)
    tracer.adopt(weight_tensors(model), "weights")
    tracer.adopt(_tensors(cache), "activations")
    with torch.no_grad(), tracer:
        made = [torch.empty(wide, past + fed, dtype=torch.long, device="meta") for _ in range(3 if beams > 1 else 2)]
        held = [torch.empty(wide, words, device="meta") for _ in range(min(beams, 2) if past else 0)]
        inputs = {
            "input_ids": torch.empty(wide, fed, dtype=torch.long, device="meta"),
            "position_ids": torch.empty(wide, fed, dtype=torch.long, device="meta"),
            "attention_mask": torch.empty(wide, 1, fed, past + fed, dtype=torch.bool, device="meta"),
        }
        with kernels.forward():
            last = model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        logits = last.to(torch.float32, copy=True)
        del last, held
        if beams > 1:
            scores = logits.log_softmax(-1)
            scores = scores + scores[:, :1]
            cache.reorder_cache(torch.empty(wide, dtype=torch.long, device="meta"))
            del scores
        del made, logits
    return tracer, storage_bytes(_tensors(cache))


def _fill(cache: DynamicCache, model: torch.nn.Module, rows: int, length: int) -> None:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        shape = (rows, heads, length, size)
        cache.update(*(torch.empty(shape, dtype=model.dtype, device="meta") for _ in range(2)), layer)


def _tensors(cache: DynamicCache) -> list[torch.Tensor]:
    return [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
