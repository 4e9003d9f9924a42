"""Index sets that SBoRA chooses from data: the first training rows go through the base before it is adapted."""

from itertools import islice
from typing import TYPE_CHECKING

from sbora_bench.plan.protocol import Protocol
from sbora_bench.train.first_batches import first_batches

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftConfig

BATCHES = 8  # of one micro-batch each


def choose_index_sets(
    base: "torch.nn.Module", config: "PeftConfig", train: "Dataset", protocol: Protocol, pad_token_id: int
) -> None:
    """Put scores on the base's modules where the adapter's configuration chooses by activation or gradient.

    Args:
        base: the model, not adapted yet.
        config: the adapter's; other than SBoRA's, and those that need no data, are left alone.
        train: the training rows in the run's order, each with `input_ids` and `labels`.
        pad_token_id: fills shorter rows of a batch, from the left; it is neither attended to nor learnt.
    """
    if getattr(config, "index_init", None) not in ("activation", "gradient"):
        return
    import sbora

    def run() -> None:
        for batch in islice(first_batches(train, protocol.micro_batch, pad_token_id, base.device), BATCHES):
            loss = base(**batch).loss
            if config.index_init == "gradient":
                loss.backward()

    sbora.preprocess_index(base, config, run)
