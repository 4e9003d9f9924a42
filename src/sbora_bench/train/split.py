"""The rows of a table that a run trains on, and in which order."""

from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.errors import UserError
from sbora_bench.inputs.models.load import model_positions
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Run
from sbora_bench.results.table_data import table_data
from sbora_bench.train.encoding import in_buckets

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


def training_file(plan: Plan, results: Path, run: Run) -> Path:
    """The prepared training set of a run's table. Raises UserError where it was made for something else."""
    return table_data(plan, results, run.table) / "train.jsonl"


def check_positions(rows: "Dataset", model: "torch.nn.Module", name: str) -> None:
    """Raises UserError where a row has more tokens than the model has positions."""
    import pyarrow.compute as columns

    longest, positions = columns.max(columns.list_value_length(rows.data["input_ids"])).as_py(), model_positions(model)
    if positions is not None and longest > positions:
        raise UserError(
            f"{name}: training rows of up to {longest:,} tokens, and the model has {positions:,} positions; set"
            f" max_length: {positions} under `overrides`"
        )


def split(rows: "Dataset", protocol: Protocol, seed: int) -> "tuple[Dataset, Dataset | None]":
    """(train, validation or None): membership by the protocol's seed, order by the run's (authors: unseeded), or as
    `length_buckets` has it. Raises UserError where validation would take all rows.
    """
    if protocol.length_buckets:
        return rows.select(in_buckets([len(ids) for ids in rows["input_ids"]], protocol.length_buckets)), None
    if not protocol.validation_rows:
        return rows.shuffle(seed=seed), None
    if protocol.validation_rows >= len(rows):
        raise UserError(
            f"validation_rows: found {protocol.validation_rows:,}, and there are {len(rows):,} training rows, of which"
            " some must be left to train on; lower it under `overrides`"
        )
    parts = rows.train_test_split(test_size=protocol.validation_rows, shuffle=True, seed=protocol.validation_seed)
    held = parts["test"].shuffle(seed=seed)
    return parts["train"].shuffle(seed=seed), held.select(range(min(len(held), protocol.validation_limit or len(held))))
