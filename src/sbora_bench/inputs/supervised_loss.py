"""The loss of a causal language model from the logits of supervised positions alone.

A model's own forward pass makes logits of every position, prompts and padding among them. Here a hook on its head hands
on only the hidden states of positions whose next token has a label, so that whatever the model does to its logits
(soft caps, scales) is done as before. Where the logits are the output of a frozen linear head, head and loss are one
function that works through the positions in chunks and keeps no logits for the backward pass: Liger's on a GPU where
liger-kernel is installed, ours elsewhere.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from sbora_bench.inputs.eval_mode import eval_mode
from sbora_bench.inputs.products import multiplies_in_float32

if TYPE_CHECKING:
    from collections.abc import Mapping

CHUNK_BYTES = 64 * 2**20  # of float32 logits that exist at a time
PROBED = 16  # tokens of the row that the two ways are compared on
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}  # relative, of the two ways' losses; for narrower dtypes NARROW
NARROW = 2e-2
ADDS_TO_THE_LOSS = {
    "ADALORA",
    "CPT",
    "SHADOW",
}  # PEFT types whose forward pass changes the loss, or takes one of its own


Kernel = Literal["torch", "liger"]


class Unfit(Exception):
    """Why a model's loss can't be taken from its supervised positions alone."""


class SupervisedLoss:
    """The loss of `model` from logits of supervised positions. Raises Unfit where that isn't the model's own loss.

    `row`: token ids that both ways are compared on; not on `meta`, where there are no values. `in_chunks`: False where
    the head's weight is not whole outside of the forward pass (FSDP). `kernel`: of head and loss as one function.
    """

    def __init__(
        self, model: torch.nn.Module, row: list[int], in_chunks: bool = True, kernel: Kernel = "torch"
    ) -> None:
        if reason := loss_of_its_own(model):
            raise Unfit(reason)
        head = model.get_output_embeddings()
        if head is None:
            raise Unfit(f"{type(model).__name__} names no head")
        self.head: torch.nn.Module = head
        self.in_chunks = False
        self.head_loss = liger_loss if kernel == "liger" else head_loss
        parameter = next(model.parameters())
        ids = torch.tensor([row[:PROBED]], device=parameter.device)
        with eval_mode(model):
            self._compare(model, {"input_ids": ids, "labels": ids})
            if in_chunks and frozen_linear(head) and self._is_last(model, ids):
                self.in_chunks = True

    def __call__(
        self,
        model: torch.nn.Module,
        inputs: "Mapping[str, Any]",
        items: torch.Tensor | int | None = None,
        chosen: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """(loss, the model's output) of `inputs`: `labels` (rows, tokens), negative where there is no loss.

        The loss is the supervised tokens' sum over `items`, without them their mean. `model`: the one of the start, or
        what wraps it. `chosen`: the positions and targets where `labels` has no values, see `supervised`.
        """
        labels = inputs["labels"]
        positions, targets = chosen or supervised(labels)
        sums: list[torch.Tensor] = []

        def select(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden, *others = arguments
            virtual = hidden.shape[1] - labels.shape[1]  # tokens that a prompt method puts before the row
            index = positions + virtual * (1 + positions // labels.shape[1])
            if self.in_chunks:
                sums.append(self.head_loss(hidden, self.head, index, targets))
                # one token, for the model wants logits; laid out as all there is, or torch copies the head's weight
                return hidden.flatten(0, 1)[:1][None], *others
            sums.append(hidden.new_zeros(()))
            return hidden.flatten(0, 1).index_select(0, index)[None], *others

        with self.head.register_forward_pre_hook(select):
            outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        if len(sums) != 1:
            raise Unfit(f"{type(model).__name__} calls its head {len(sums)} times")
        if not self.in_chunks:
            sums = [F.cross_entropy(outputs.logits.flatten(0, 1).float(), targets, reduction="sum")]
        count = len(targets) if items is None else items
        return sums[0] / (count.to(sums[0].device) if isinstance(count, torch.Tensor) else count), outputs

    def _compare(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        """Raises Unfit where the model's own loss is another."""
        on_meta = inputs["input_ids"].is_meta
        try:
            places = supervised(torch.ones_like(inputs["labels"], device="cpu"))
            ours, _ = self(model, inputs, chosen=(places[0].to("meta"), places[1].to("meta")) if on_meta else None)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise Unfit(f"{type(model).__name__}: {error}") from error
        if on_meta:
            return
        theirs = model(**inputs).loss
        allowed = TOLERANCES.get(next(model.parameters()).dtype, NARROW)
        if not abs(ours - theirs) <= allowed * abs(theirs):
            raise Unfit(f"{type(model).__name__}'s own loss is {float(theirs):.6g}, its tokens' {float(ours):.6g}")

    def _is_last(self, model: torch.nn.Module, ids: torch.Tensor) -> bool:
        """Whether the model returns what its head makes, untouched."""
        made: list[torch.Tensor] = []
        with self.head.register_forward_hook(lambda module, arguments, output: made.append(output)):
            outputs = model(input_ids=ids)
        return len(made) == 1 and outputs.logits is made[0]


def loss_of_its_own(model: torch.nn.Module) -> str:
    """Why a model's loss isn't its tokens' alone, so that those of a micro-batch's rows don't add up; else empty."""
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "monteclora_config", None) is not None:
        return "MonteCLoRA has a loss of its own"
    kind = getattr(config, "peft_type", None)
    if kind is not None and str(getattr(kind, "value", kind)) in ADDS_TO_THE_LOSS:
        return f"{kind.value} has a loss of its own"
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        return f"{model.config.model_type} adds a loss of its router"
    return ""


def frozen_linear(head: torch.nn.Module) -> bool:
    """Whether a head is a plain linear layer that isn't trained."""
    return type(head) is torch.nn.Linear and not any(p.requires_grad for p in head.parameters())


def supervised(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(places in the flattened rows whose next token has a label, those labels), each (supervised tokens,)."""
    rows, columns = (labels[:, 1:] >= 0).nonzero(as_tuple=True)
    return rows * labels.shape[1] + columns, labels[rows, columns + 1]


class HeadLoss(torch.autograd.Function):
    """Sum of the cross-entropies of a frozen linear head at some positions, in float32.

    The gradient of the hidden states is made along with the loss, chunk by chunk: no logits are kept and no product is
    made twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        positions: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """`hidden` (rows, tokens, width), `weight` (vocabulary, width), `positions` in the flattened rows."""
        flat = hidden.flatten(0, 1)
        total = torch.zeros((), device=hidden.device)
        gradient = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        size = chunk_of(len(weight))
        for start in range(0, len(targets), size):
            places, wanted = positions[start : start + size], targets[start : start + size, None]
            logits = F.linear(flat.index_select(0, places).to(weight.dtype), weight, bias)
            low, logits = logits.dtype, logits.float()
            logits.sub_(logits.amax(-1, keepdim=True))
            right = logits.gather(1, wanted)
            norms = logits.exp_().sum(-1, keepdim=True)
            total += (norms.log() - right).sum()
            if gradient is not None:
                logits.div_(norms).scatter_add_(1, wanted, torch.full_like(norms, -1.0))
                gradient.index_copy_(0, places, (logits.to(low) @ weight).to(gradient.dtype))
        if gradient is not None:
            ctx.save_for_backward(gradient.view_as(hidden))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * gradients[0].to(of_hidden.dtype), None, None, None, None


def head_loss(
    hidden: torch.Tensor, head: torch.nn.Module, positions: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Sum of the cross-entropies of `head` at `positions` of the flattened rows of `hidden` (rows, tokens, width)."""
    if not multiplies_in_float32(head):
        return HeadLoss.apply(hidden, head.weight, head.bias, positions, targets)
    bias = None if head.bias is None else head.bias.float()
    with torch.autocast("cpu", enabled=False):
        return HeadLoss.apply(hidden, head.weight.float(), bias, positions, targets)


def liger_loss(
    hidden: torch.Tensor, head: torch.nn.Module, positions: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """As `head_loss`, by Liger's fused function (Hsu et al. 2024, arXiv 2410.10989)."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    chosen = hidden.flatten(0, 1).index_select(0, positions)
    return liger_fused_linear_cross_entropy(chosen, head.weight, targets, bias=head.bias, reduction="sum")


def kernel_for(wanted: Literal["any", "torch", "liger"], device: torch.device) -> Kernel:
    """The kernel that a protocol wants. Raises ValueError where it names Liger's, which isn't installed."""
    why_not = "it runs on a GPU alone" if device.type != "cuda" else ""
    if not why_not and find_spec("liger_kernel") is None:
        why_not = "liger-kernel is not installed"
    if wanted == "liger" and why_not:
        raise ValueError(f"{why_not}; say loss_kernel: any, which takes torch's where there is no other")
    return "torch" if wanted == "torch" or why_not else "liger"


def chunk_of(vocabulary: int) -> int:
    """Positions whose logits exist at a time."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))
