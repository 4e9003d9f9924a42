"""The first micro-batches of the training rows, for what looks at data before training: values, index sets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sbora_bench.train.encoding import IGNORED

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


def first_batches(
    train: "Dataset", size: int, pad_token_id: int, device: "torch.device"
) -> "Iterator[dict[str, torch.Tensor]]":
    """Micro-batches of `size` rows in the run's order: `input_ids`, `attention_mask`, `labels`, each (rows, longest).

    Shorter rows are filled from the left with `pad_token_id`, which is neither attended to nor learnt.
    """
    import torch

    for start in range(0, len(train), size):
        batch = train[start : start + size]
        length = max(map(len, batch["input_ids"]))
        ids = torch.full((len(batch["input_ids"]), length), pad_token_id)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for i, (tokens, targets) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
            ids[i, length - len(tokens) :] = torch.tensor(tokens)
            labels[i, length - len(tokens) :] = torch.tensor(targets)
            mask[i, length - len(tokens) :] = 1
        yield {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
