"""How many rows are scored at a time where a protocol says `score_batch: auto`: by their length and by the memory.

The memory is what the card or the machine has beside the weights, not what happens to be free: so a machine makes the
same batches each time. Another one may make others, and floating-point sums depend on the batch in their last digits.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

SHARE = 0.5  # of the memory beside the weights that a batch takes by this count; the rest is for what it leaves out
MOST_TOKENS = 2**16  # of a batch: a pass of more is no faster
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RowsAt = Callable[..., int]  # rows of a batch whose longest has `length` tokens; `read`, `beams` as in `row_bytes`


def row_bytes(config: "PretrainedConfig", value_bytes: int, length: int, read: int = 1, beams: int = 1) -> int:
    """Bytes that a row of `length` tokens, new ones among them, takes at the peak, of `beams` candidates each.

    Keys and values of all layers, one layer's activations, and the logits of the `read` positions that are read, in the
    weights' dtype and twice in float64 (log-softmax). `config`: of the text model; `value_bytes`: of a weight's dtype.
    """
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * head
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = 6 * config.hidden_size + 3 * inner  # residual, norm, queries, keys, values, result; gate, up, their product
    return beams * (length * (kept + layer) * value_bytes + read * config.vocab_size * (value_bytes + 16))


def rows_that_fit(
    config: "PretrainedConfig", value_bytes: int, memory: int, length: int, read: int = 1, beams: int = 1
) -> int:
    """Rows of a batch that `memory` bytes beside the weights have room for, at least one; as `row_bytes`."""
    fitting = int(SHARE * memory) // row_bytes(config, value_bytes, length, read, beams)
    return max(1, min(fitting, MOST_TOKENS // (length * beams)))


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def by_memory(model: "torch.nn.Module") -> RowsAt:
    """`rows_that_fit` of a model where it stands: on its card, or in this machine's memory."""
    import torch

    first = next(model.parameters())
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    memory = torch.cuda.get_device_properties(first.device).total_memory if first.is_cuda else machine_memory()
    return partial(rows_that_fit, model.config.get_text_config(), model.dtype.itemsize, memory - held)


def numbered(
    protocol: Protocol, config: "PretrainedConfig", memory: int, length: int, items: int = MOST_TOKENS
) -> Protocol:
    """The protocol; in place of `auto` with the number of prompts, of `items` in all, that are generated after at a
    time: of `length` tokens with the answers, where `memory` bytes are left beside the weights.
    """
    if protocol.score_batch != "auto":
        return protocol
    rows = rows_that_fit(
        config.get_text_config(), BYTES[protocol.weights_dtype], memory, length, beams=protocol.num_beams
    )
    return protocol.model_copy(update={"score_batch": min(rows, items)})
