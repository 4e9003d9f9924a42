"""Ways to the same update with less work, each a parent of the Trainer's class: no needless logits, less padding."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Trainer as Parent

    from sbora_bench.inputs.supervised_loss import SupervisedLoss
else:
    Parent = object


class SupervisedOnly(Parent):
    """Takes the loss from the logits of supervised positions, where `supervised` is set; else from the model's own."""

    supervised: "SupervisedLoss | None" = None

    def compute_loss(
        self,
        model: "torch.nn.Module",
        inputs: "dict[str, torch.Tensor]",
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """As Trainer's; the mean of the micro-batch where `model_accepts_loss_kwargs` is off."""
        if self.supervised is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        items = num_items_in_batch if self.model_accepts_loss_kwargs else None
        loss, outputs = self.supervised(model, inputs, items)
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the processes
        return (loss, outputs) if return_outputs else loss


class PaddingFree(Parent):
    """Takes the loss of a micro-batch's examples in one row without padding, where `padding_free` is set.

    To stand before what takes a loss among a class's parents. Padded until here, so that counting tokens, dealing by
    length and halving go on as before.
    """

    padding_free: bool = False

    def compute_loss(
        self, model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]", *others: Any, **named: Any
    ) -> Any:
        if self.padding_free:
            from sbora_bench.inputs.padding_free import VARIABLE_LENGTHS, packed

            inputs = packed(inputs, on_device=self.model.config._attn_implementation in VARIABLE_LENGTHS)
        return super().compute_loss(model, inputs, *others, **named)


class ByLength(Parent):
    """Deals an update's examples into its micro-batches by length, where `sort_by_length` is set; longest first."""

    sort_by_length: bool = False

    def get_batch_samples(self, *arguments: Any, **named: Any) -> tuple[list, Any]:
        """(the micro-batches of an update, the tokens that count in it)."""
        batches, items = super().get_batch_samples(*arguments, **named)
        return (by_length(batches, self.data_collator) if self.sort_by_length else batches), items


def by_length(
    batches: "list[dict[str, torch.Tensor]]", collate: Callable[[list[dict[str, Any]]], "dict[str, torch.Tensor]"]
) -> "list[dict[str, torch.Tensor]]":
    """The rows of padded micro-batches in as many of the same sizes, sorted by length, longest first."""
    rows = [
        {name: tensor[row][mask.bool()].tolist() for name, tensor in batch.items() if name != "attention_mask"}
        for batch in batches
        for row, mask in enumerate(batch["attention_mask"])
    ]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    dealt, start = [], 0
    for batch in batches:
        size = len(batch["attention_mask"])
        dealt.append(collate(rows[start : start + size]))
        start += size
    return dealt
