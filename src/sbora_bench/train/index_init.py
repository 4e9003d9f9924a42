"""Index sets that SBoRA chooses from data: the first training rows go through the base before it is adapted."""

from typing import TYPE_CHECKING

from sbora_bench.plan.catalog import Protocol
from sbora_bench.train.encoding import IGNORED

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftConfig

BATCHES = 8  # of one micro-batch each


def choose_index_sets(
    base: "torch.nn.Module", config: "PeftConfig", train: "Dataset", protocol: Protocol, pad_token_id: int
) -> None:
    """Leave scores with the base's modules where the adapter's configuration chooses by activation or gradient.

    Args:
        base: the model, not adapted yet.
        config: the adapter's; other than SBoRA's, and those that need no data, are left alone.
        train: the training rows in the run's order, each with `input_ids` and `labels`.
        pad_token_id: fills shorter rows of a batch, from the left; it is neither attended to nor learnt.
    """
    if getattr(config, "index_init", None) not in ("activation", "gradient"):
        return
    import torch

    import sbora

    size = protocol.micro_batch

    def run() -> None:
        for start in range(0, min(BATCHES * size, len(train)), size):
            batch = train[start : start + size]
            length = max(map(len, batch["input_ids"]))
            ids = torch.full((len(batch["input_ids"]), length), pad_token_id)
            labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
            for i, (tokens, targets) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
                ids[i, length - len(tokens) :] = torch.tensor(tokens)
                labels[i, length - len(tokens) :] = torch.tensor(targets)
                mask[i, length - len(tokens) :] = 1
            ids, labels, mask = (tensor.to(base.device) for tensor in (ids, labels, mask))
            loss = base(input_ids=ids, attention_mask=mask, labels=labels).loss
            if config.index_init == "gradient":
                loss.backward()

    sbora.preprocess_index(base, config, run)
