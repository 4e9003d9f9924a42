"""Micro-batches that run on from one epoch into the next (train/trainer.py says when)."""

from collections.abc import Iterator

from torch.utils.data import Sampler


class EpochBatches(Sampler):
    """The micro-batches of several epochs in a row; `batches` draws anew each time that it is iterated."""

    def __init__(self, batches: Sampler, epochs: int) -> None:
        self.batches, self.epochs = batches, epochs

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.epochs):
            yield from self.batches

    def __len__(self) -> int:
        return self.epochs * len(self.batches)
