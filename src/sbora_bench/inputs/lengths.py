"""How long a prepared table's examples are, in tokens: written below `resources/lengths`, where `plan --cost` reads it.

Measured by the tokenizer of a model of the table that is at hand, on sets that were read from somewhere; those that are
made here, and chats, whose text only a model's template writes, are not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbora_bench.files import read_jsonl
from sbora_bench.inputs.data.chat import ARGUMENTS
from sbora_bench.inputs.token_counts import Tokenizer, row_lengths, tokenizer_of
from sbora_bench.plan.data_entries import SyntheticData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.lengths import Lengths, deciles, keep_measured

MOST = 10_000  # rows of a set that are measured, evenly from its beginning to its end


def measure_lengths(plan: Plan, table: str, prepared: Path) -> list[Path]:
    """Measure the training set and the items that were prepared into a folder; the files that say how long they are.

    None where no tokenizer of the table's models is at hand. Raises UserError for a tokenizer that can't be read.
    """
    models = dict.fromkeys(cell.model for cell in plan.cells(table))
    tokenizers = ((model, tokenizer_of(model, plan.catalog.models[model])) for model in models)
    at_hand = next(((model, tokenizer) for model, tokenizer in tokenizers if tokenizer is not None), None)
    if at_hand is None:
        return []
    return [
        keep_measured(name, plan.catalog.data[name], lengths)
        for name, lengths in _measured(plan, table, prepared, *at_hand)
    ]


def _measured(
    plan: Plan, table: str, prepared: Path, model: str, tokenizer: Tokenizer
) -> Iterator[tuple[str, Lengths]]:
    train, protocol = plan.experiment.tables[table].train, plan.protocol(table)
    rows, source = _rows(plan, train, prepared / "train.jsonl", model)
    if rows:
        answers = [count + 1 for count in tokenizer.lengths([row["response"] for row in rows], special=False)]
        examples = row_lengths(rows, tokenizer, protocol)
        yield train, Lengths(example=deciles(examples), answer=deciles(answers), source=source)
    for task, name in plan.items(table).items():
        rows, source = _rows(plan, name, prepared / f"{task}.jsonl", model)
        if rows and name != train:
            yield name, Lengths(prompt=deciles(tokenizer.lengths([row["prompt"] for row in rows])), source=source)


def _rows(plan: Plan, name: str, path: Path, model: str) -> tuple[list[dict[str, Any]], str]:
    """Rows to measure, none where there is nothing to, and which they are."""
    entry = plan.catalog.data[name]
    made_here = isinstance(entry, SyntheticData) or getattr(entry, "stand_in", None) is not None
    rows = [] if made_here or not path.is_file() else read_jsonl(path)
    if not rows or ARGUMENTS in rows[0]:
        return [], ""
    measured = rows[:: -(-len(rows) // MOST)]
    return measured, f"{len(measured):,} of {len(rows):,} rows as prepared here, tokens of {model}"
