"""Out of memory in training: micro-batches go through the model in parts, halved until they fit; updates stay the same.

transformers' `auto_find_batch_size` changes an update's rows; accelerate's `find_executable_batch_size` frees memory
while the failed attempt's frames still hold it. What they know an error by, and free with, is used here.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sbora_bench.inputs.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import Trainer as Parent
else:
    Parent = object

T = TypeVar("T")


def halved_to_fit(attempt: Callable[[int, list[int]], T], rows: int) -> T:
    """What `attempt(rows, larger ones that did not fit)` gives, with the rows halved until memory suffices.

    Raises what the attempt raises, out of memory with one row too.
    """
    from accelerate.utils.memory import clear_device_cache

    too_many: list[int] = []
    while True:
        try:
            return attempt(rows, too_many)
        except RuntimeError as error:
            if rows == 1 or not is_out_of_memory(error):
                raise
        too_many.append(rows)
        rows //= 2
        print(f"out of memory with {too_many[-1]} rows at a time; again with {rows}", file=sys.stderr, flush=True)
        clear_device_cache(garbage_collection=True)  # only now: until here the error's frames held the model


class InParts(Parent):
    """Before Trainer among a class's parents: a micro-batch in parts of `rows` rows at most, with its own gradient."""

    rows: int
    _share: Any = 1  # of the micro-batch's loss, that a part has

    def training_step(
        self, model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]", num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the micro-batch `inputs` (tensors of one first dimension); gradients are added up."""
        if len(inputs["labels"]) <= self.rows:
            return super().training_step(model, inputs, num_items_in_batch)
        parts = zip(*(tensor.split(self.rows) for tensor in inputs.values()), strict=True)
        together, loss = _predicted(inputs["labels"]), 0
        for part in (dict(zip(inputs, tensors, strict=True)) for tensors in parts):
            if not (self.model_accepts_loss_kwargs and num_items_in_batch is not None):  # else a sum, not a mean
                self._share = _predicted(part["labels"]) / together
            if self._share:
                loss = loss + super().training_step(model, part, num_items_in_batch)
        self._share = 1
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if isinstance(loss, tuple):
            return loss[0] * self._share, *loss[1:]
        return loss * self._share


def _predicted(labels: "torch.Tensor") -> int:
    """Tokens that count: the first of a row is no prediction."""
    return int((labels[:, 1:] >= 0).sum())
