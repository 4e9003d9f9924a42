"""Ways to the same update with less work or memory, each a parent of the Trainer's class: no needless logits, less
padding, micro-batches in parts.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Trainer as Parent

    from sbora_bench.inputs.parts import Parts
    from sbora_bench.inputs.supervised_loss import SupervisedLoss
else:
    Parent = object


class InParts(Parent):
    """Takes a micro-batch through the model in `parts`, each with its own gradient; the first of a class's bases."""

    parts: "Parts"
    _share: float = 1  # of the micro-batch's loss, that a part has

    def training_step(
        self, model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]", num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the micro-batch `inputs` (tensors of one first dimension); gradients are added up."""
        summed = self.model_accepts_loss_kwargs and num_items_in_batch is not None  # over the items; else it is a mean
        loss = 0
        for part, share in self._parts(inputs):
            self._share = 1 if summed else share
            if self._share:
                loss = loss + super().training_step(model, part, num_items_in_batch)
        self._share = 1
        return loss

    def prediction_step(
        self, model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]", *others: Any, **named: Any
    ) -> Any:
        """(the mean loss of the micro-batch `inputs`, None, None), as Trainer has it where the loss alone is wanted."""
        loss = 0
        for part, share in self._parts(inputs):
            loss = loss + share * super().prediction_step(model, part, *others, **named)[0]
        return loss, None, None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if isinstance(loss, tuple):
            return loss[0] * self._share, *loss[1:]
        return loss * self._share

    def _parts(self, inputs: "dict[str, torch.Tensor]") -> "Iterator[tuple[dict[str, torch.Tensor], float]]":
        """(a part, its share of the tokens that count): a row's first is no prediction."""
        parts = self.parts.of(inputs)
        counts = [int((part["labels"][:, 1:] >= 0).sum()) for part in parts] if len(parts) > 1 else [1]
        return ((part, count / max(1, sum(counts))) for part, count in zip(parts, counts, strict=True))


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

    Among a class's bases it stands before those that take a loss. The batch is padded until here, so that counting
    tokens, sorting by length and halving work on it as without.
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
