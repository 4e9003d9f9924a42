"""How many updates a training set makes. Imports nothing heavy: plans ask too.

The authors' Trainer (transformers 4.31 and 4.36) carries the micro-batches that an epoch leaves over into the next
epoch's first update; today's ends each epoch with a short update.
"""

import math

from sbora_bench.plan.protocol import Protocol


def micro_batches(examples: int, protocol: Protocol) -> int:
    """Micro-batches of an epoch, a short one at its end included."""
    return math.ceil(examples / protocol.micro_batch)


def accumulation(protocol: Protocol) -> int:
    """Micro-batches of an update."""
    return protocol.batch_size // protocol.micro_batch


def update_steps(examples: int, protocol: Protocol) -> int:
    """Updates of a run. By epochs: whole updates an epoch, the remainder dropped, as transformers 4.36 counts them."""
    if protocol.steps is not None:
        return protocol.steps
    return math.ceil(max(micro_batches(examples, protocol) // accumulation(protocol), 1) * (protocol.epochs or 0))


def carried_epochs(examples: int, protocol: Protocol) -> int:
    """Epochs to be drawn in one pass; 1 where each epoch can be a pass of its own.

    They must be where an update takes micro-batches of two epochs, and where rows are grouped by length: a resumed run
    draws every order again, and the grouping sampler has none of its own for each epoch.
    """
    of_epoch, together = micro_batches(examples, protocol), accumulation(protocol)
    epochs = math.ceil(update_steps(examples, protocol) * together / of_epoch)
    return epochs if of_epoch % together or protocol.group_by_length else 1


def examples_seen(examples: int, steps: int, protocol: Protocol) -> int:
    """Examples of the first `steps` updates; an epoch's last micro-batch may be short."""
    epochs, rest = divmod(steps * accumulation(protocol), micro_batches(examples, protocol))
    return epochs * examples + min(rest * protocol.micro_batch, examples)
