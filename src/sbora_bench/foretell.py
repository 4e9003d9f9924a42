"""One training step, or one generation, of a model on `meta`, traced: peak memory by composition, and FLOPs.

The step is what transformers' Trainer does for a micro-batch as our `finetune` sets it up (forward under accelerate's
autocast, loss in fp32, backward, clipping, optimizer), at a moment when the optimizer's state exists already.
"""

import contextlib

import bitsandbytes as bnb
import torch
from accelerate.utils import convert_outputs_to_fp32

from sbora_bench import meta
from sbora_bench.catalog import Protocol
from sbora_bench.errors import UserError, one_of
from sbora_bench.tracer import Kernels, Tracer

# transformers' names of the optimizers that can be traced; those of bitsandbytes have 32-bit or 8-bit states.
OPTIMIZERS = {
    "adamw_torch": torch.optim.AdamW,
    "adamw_torch_fused": torch.optim.AdamW,
    "paged_adamw_32bit": bnb.optim.AdamW32bit,
    "paged_adamw_8bit": bnb.optim.AdamW8bit,
    "adamw_bnb_8bit": bnb.optim.AdamW8bit,
    "adamw_8bit": bnb.optim.AdamW8bit,
}


def trace_training(model, adapter, protocol: Protocol, micro_batch: int, length: int, device: str) -> Tracer:
    """Trace a step of `micro_batch` examples of `length` tokens, padding among them, on a `cpu` or `cuda` device.

    `model`: on `meta`, adapted. `adapter`: the tensors that belong to the adapter. Raises UserError for an optimizer
    that isn't known here.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    model.config.use_cache = False
    kernels = Kernels(device, getattr(torch, protocol.autocast) if protocol.autocast else None)
    if protocol.gradient_checkpointing:
        again = {"use_reentrant": False, "context_fn": lambda: (contextlib.nullcontext(), kernels.forward())}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=again)
    optimizer = ready_optimizer(protocol.optimizer, trained)
    accumulation = protocol.batch_size // protocol.micro_batch
    if accumulation > 1:
        for p in trained:
            p.grad = torch.empty_like(p)
    tracer = Tracer(model.config.vocab_size)
    tracer.adopt(meta.weight_tensors(model), "weights")
    tracer.adopt(adapter, "adapter")
    tracer.adopt((t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)), "optimizer")
    tracer.adopt((p.grad for p in trained if p.grad is not None), "gradients")
    with tracer:
        loss = training_loss(model, batch(micro_batch, length), kernels) / accumulation
        tracer.phase = "backward"
        loss.backward()
        tracer.adopt((p.grad for p in trained), "gradients")
        tracer.phase = "optimizer"
        if protocol.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, protocol.max_grad_norm, foreach=device == "cuda")
        if protocol.optimizer == "adamw_torch":
            optimizer.param_groups[0]["foreach"] = device == "cuda"
            optimizer.step()
        # the others update in place, parameter by parameter
        optimizer.zero_grad()
    return tracer


def training_loss(model, inputs, kernels: Kernels) -> torch.Tensor:
    """The loss of a batch, the outputs in fp32 as accelerate has them under autocast, and let go."""
    with kernels.forward():
        outputs = model(**inputs)
    if kernels.low is not None:
        outputs = convert_outputs_to_fp32(lambda: outputs)()
    return outputs.loss


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Token ids, labels and a mask (rows, 1, length, length), for masks of rows with padding are made so."""
    ids = torch.empty(rows, length, dtype=torch.long, device="meta")
    mask = torch.empty(rows, 1, length, length, dtype=torch.bool, device="meta")
    return {"input_ids": ids, "labels": torch.empty_like(ids), "attention_mask": mask}


def ready_optimizer(name: str, parameters: list[torch.Tensor]):
    """An optimizer on `meta` whose state exists."""
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
