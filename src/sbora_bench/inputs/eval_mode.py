"""A look at a model that leaves it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def eval_mode(model: "torch.nn.Module") -> Iterator[None]:
    """A block in which the model is in eval mode and no gradients are recorded; after it each module has its mode."""
    import torch

    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, before in training.items():
            module.training = before
