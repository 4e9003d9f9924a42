"""Micro-batches without padding: the examples one after the other in one row, and attention example by example.

The row comes with its positions and the places where examples begin, under the names by which transformers'
`flash_attention_2` takes rows of several examples. Elsewhere the attention here takes them: it calls the library's own
once an example, so that no mask of all tokens by all tokens is made.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sbora_bench.inputs.eval_mode import eval_mode
from sbora_bench.inputs.products import narrow_on_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig

NAME = "example_by_example"
UNMASKED = f"{NAME}_unmasked"  # for `meta`, where a mask function would read positions
VARIABLE_LENGTHS = {"flash_attention_2", "flash_attention_3"}  # of transformers: they take such rows themselves
LAYERS = {"full_attention", "sliding_attention"}
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}  # of logits, as a share of the largest; narrower dtypes NARROW
NARROW = 5e-2


def unfit(config: "PretrainedConfig", model_class: type | None) -> str:
    """Why a model's attention can't be taken example by example, by its config and class; empty where it can."""
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or LAYERS)
    if other := sorted(kinds - LAYERS):
        return f"has layers of {', '.join(other)}, which see across examples"
    if not getattr(model_class, "_supports_attention_backend", False):
        return "has an attention of its own, not one that transformers lets replace"
    return ""


def tokens_of_rows(inputs: "Mapping[str, torch.Tensor]") -> list[int]:
    """Tokens of each row of a padded micro-batch."""
    return inputs["attention_mask"].sum(-1).tolist()


def packed(inputs: "Mapping[str, torch.Tensor]", on_device: bool = False) -> dict[str, Any]:
    """A padded micro-batch as one row: `input_ids`, `labels`, `position_ids`, each (1, tokens); where examples begin.

    An example's first label is dropped, for nothing before it is of the same example. `on_device`: whether the places
    stand beside the tokens (a kernel's) or on the CPU.
    """
    mask, lengths = inputs["attention_mask"].bool(), tokens_of_rows(inputs)
    ids, labels = inputs["input_ids"][mask], inputs["labels"][mask]
    begins = torch.tensor([0, *lengths]).cumsum(0)
    labels[begins[:-1].to(labels.device)] = -100
    positions = torch.cat([torch.arange(length) for length in lengths]).to(ids.device)
    return {"input_ids": ids[None], "labels": labels[None], "position_ids": positions[None]} | places(
        lengths, ids.device if on_device else torch.device("cpu")
    )


def places(lengths: list[int], device: torch.device) -> dict[str, Any]:
    """Where examples of these lengths begin in their row, as transformers names it."""
    begins = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": begins, "cu_seq_lens_k": begins, "max_length_q": longest, "max_length_k": longest}


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """The output (rows, tokens, heads, width) of `query`, `key`, `value`, each (rows, heads, tokens, width); causal."""
    begins = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    lengths = [end - begin for begin, end in pairwise(begins)]
    examples = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for length, (own_query, own_key, own_value) in zip(lengths, examples, strict=True):
        mask = attention_mask
        if mask is None and (softcap is not None or (sliding_window is not None and length > sliding_window)):
            mask = band(length, sliding_window, query.device)
        if mask is None and in_float32(module, own_query, dropout):
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            outputs.append(Float32Attention.apply(own_query, own_key, own_value, scale).transpose(1, 2))
        elif softcap is not None:
            outputs.append(capped(module, own_query, own_key, own_value, mask, dropout, scaling, softcap))
        else:
            own = sdpa_attention_forward(module, own_query, own_key, own_value, mask, dropout=dropout, scaling=scaling)
            outputs.append(own[0])
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), None


def in_float32(module: torch.nn.Module, query: torch.Tensor, dropout: float) -> bool:
    """Whether `Float32Attention` gives an example's attention without a mask, and sooner."""
    return narrow_on_cpu(query) and not dropout and getattr(module, "is_causal", True)


class Float32Attention(torch.autograd.Function):
    """Causal attention of one example in narrow floats on a CPU, in float32: torch takes 2.7 times as long over it in
    bfloat16 (Intel Xeon, forward and backward). What is kept for the backward pass is as large as torch's own.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """The output (1, heads, tokens, width) of `query`, of that shape; `key` and `value` may have fewer heads."""
        wide, norms = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query.float(), key.float(), value.float(), 0.0, True, scale=scaling
        )
        output = wide.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, norms)
        ctx.scaling = scaling
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, norms = ctx.saved_tensors
        wide = (tensor.float() for tensor in (gradients[0], query, key, value, output))
        of_inputs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *wide, norms, 0.0, True, scale=ctx.scaling
        )
        inputs = (query, key, value)
        return *(gradient.to(own.dtype) for gradient, own in zip(of_inputs, inputs, strict=True)), None


def band(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """A mask (1, 1, length, length): each token sees itself and those before, `window` in all."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None]
    return ((distance >= 0) & (distance < (window or length)))[None, None]


def capped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores are held within +-`softcap` by a tanh (Gemma 2), which SDPA doesn't offer."""
    assert mask is not None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous()


def mask_of(attention_mask: torch.Tensor | None = None, **named: Any) -> torch.Tensor | None:
    """The mask of padded rows as for SDPA; none of rows without padding, whose examples their positions tell apart."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **named)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask_of)
AttentionInterface.register(UNMASKED, attention)


def take_packed_rows(model: torch.nn.Module, row: list[int]) -> str:
    """Have `model` take rows of several examples; why it can't, or nothing.

    `row`: token ids, of which two examples are made: each one's logits must be the same beside the other as alone. On
    `meta`, where there are no values, that isn't compared.
    """
    adapter = getattr(model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        return "virtual tokens would stand before the first example alone"
    if getattr(adapter, "alora_invocation_tokens", None):
        return "its adapter begins at a token of each row"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reason := unfit(base.config, type(base)):
        return f"{type(base).__name__} {reason}"
    before = base.config._attn_implementation
    replaced = before not in VARIABLE_LENGTHS
    if next(model.parameters()).is_meta:
        if replaced:
            base.set_attn_implementation(UNMASKED)
        return ""
    examples = [row[:12], row[1:8]]
    apart = torch.cat([_logits(model, [one]) for one in examples])
    if replaced:
        base.set_attn_implementation(NAME)
    try:
        together = _logits(model, examples, on_device=not replaced)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error)
    else:
        share = TOLERANCES.get(next(model.parameters()).dtype, NARROW)
        difference, allowed = float((together - apart).abs().max()), share * max(1.0, float(apart.abs().max()))
        if difference <= allowed:
            return ""
        reason = f"an example's logits beside another differ by {difference:.3g}, allowed {allowed:.3g}"
    base.set_attn_implementation(before)
    return f"{type(base).__name__}: {reason}"


def _logits(model: torch.nn.Module, examples: list[list[int]], on_device: bool = False) -> torch.Tensor:
    """Logits (tokens, vocabulary) of examples in one row, in eval mode; the model is left in the mode it was in."""
    device = next(model.parameters()).device
    ids = torch.tensor([[token for one in examples for token in one]], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(examples) > 1:
        positions = torch.tensor([[place for one in examples for place in range(len(one))]], device=device)
        begun = places([len(one) for one in examples], device if on_device else torch.device("cpu"))
        inputs = {"input_ids": ids, "position_ids": positions} | begun
    with eval_mode(model):
        return model(**inputs, use_cache=False).logits[0].float()
