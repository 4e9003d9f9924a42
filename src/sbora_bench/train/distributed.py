"""One training run in several processes, a device each, as `accelerate launch` starts them (profiles/accelerate/).

The first process alone writes: the store, checkpoints' seals, records, the tracker. The others work in folders that are
thrown away.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.plan import steps as batches
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results import store


def count() -> int:
    """Processes that train one run together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def sharded() -> bool:
    """Whether FSDP spreads the weights."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shared_lock(folder: Path) -> contextlib.AbstractContextManager:
    """`store.entry_lock`, by the first process for all of them."""
    return store.entry_lock(folder) if is_first() else contextlib.nullcontext()


@contextlib.contextmanager
def shared_entry(folder: Path) -> Iterator[Path]:
    """`store.new_entry` in the first process; in another a folder that is gone at the block's end."""
    if is_first():
        with store.new_entry(folder) as made:
            yield made
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def own_accumulation(protocol: Protocol) -> int:
    """Micro-batches of an update that each process takes."""
    return batches.accumulation(protocol) // count()


def check(examples: int, protocol: Protocol, method: MethodEntry) -> None:
    """Raises UserError where several processes would not train what one does, or can't."""
    of_update = batches.accumulation(protocol)
    if count() == 1:
        return
    if of_update % count():
        raise UserError(
            f"accelerate: {count()} processes, but an update has {of_update} micro-batches of {protocol.micro_batch}:"
            " lower the protocol's micro_batch, or take a number of processes that divides them"
        )
    if batches.carried_epochs(examples, protocol) > 1:
        raise UserError(
            "accelerate: the protocol groups by length, or its updates run on from one epoch into the next; that is"
            " drawn in one process only: run without accelerate launch"
        )
    if sharded() and method.quantization:
        raise UserError(
            f"accelerate: FSDP can't shard {method.title}'s 4-bit base: bitsandbytes packs it into bytes, with"
            " statistics beside; use profiles/accelerate/ddp.yaml, where each device holds the whole base"
        )
