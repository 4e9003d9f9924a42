"""What examples of their true lengths take, as a part of what the longest allowed would: tokens, padding, answers."""

from collections.abc import Callable

from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.lengths import lengths_of
from sbora_bench.plan.protocol import Protocol

STEPS = 500  # of the numerical mean over a distribution


def share_of_width(catalog: Catalog, train: str, protocol: Protocol) -> float:
    """Tokens of a micro-batch, padding among them, as a part of one whose rows are all as long as allowed; 1 where no
    lengths of the training set are known. Of a published mean: as if all rows were that long, without padding.
    """
    entry = lengths_of(train, catalog.data, catalog.lengths)
    if entry is None or not (entry.example or entry.example_mean):
        return 1.0
    deciles = entry.example or (entry.example_mean or 0,) * 11
    return width(deciles, protocol) / protocol.max_length


def expected_questions(plan: Plan, table: str, bounds: list[tuple[int, int, int]]) -> list[tuple[int, float, float]]:
    """(items, mean tokens of a prompt, mean new tokens) of each task that a table scores; the bound where not known.

    `bounds`: the same at most. Answers are as long as those that the table trains on.
    """
    catalog, entry = plan.catalog, plan.experiment.tables[table]
    trained = lengths_of(entry.train, catalog.data, catalog.lengths)
    rows = []
    for (items, prompt, new), data in zip(bounds, plan.items(table).values(), strict=True):
        known = lengths_of(data, catalog.data, catalog.lengths)
        prompt_tokens = mean(known.prompt, prompt) if known and known.prompt else float(prompt)
        answer_tokens = mean(trained.answer, new) if trained and trained.answer and new > 1 else float(new)
        rows.append((items, prompt_tokens, answer_tokens))
    return rows


def mean(deciles: tuple[int, ...], most: int) -> float:
    """Mean tokens of examples that are cut at `most`."""
    cut = [min(value, most) for value in deciles]
    return (sum(cut) - (cut[0] + cut[-1]) / 2) / (len(cut) - 1)


def width(deciles: tuple[int, ...], protocol: Protocol) -> float:
    """Mean tokens of a padded row of a protocol's micro-batches, drawn at random or dealt by length."""
    rows, micro = protocol.batch_size, protocol.micro_batch
    most, multiple = float(protocol.max_length), protocol.pad_to_multiple_of
    if protocol.sort_by_length or protocol.group_by_length:
        longest = [(rows - start, rows) for start in range(0, rows, micro)]
    else:
        longest = [(micro, micro)]

    def padded(place: float) -> float:
        return min(quantile(deciles, place) + (multiple - 1) / 2, most)

    return sum(_mean_of_rank(padded, rank, count) for rank, count in longest) / len(longest)


def _mean_of_rank(value: Callable[[float], float], rank: int, count: int) -> float:
    """Mean of `value` at the place of the `rank`th smallest of `count` draws, which has a beta distribution."""
    places = [(step + 0.5) / STEPS for step in range(STEPS)]
    weights = [place ** (rank - 1) * (1 - place) ** (count - rank) for place in places]
    return sum(weight * value(place) for weight, place in zip(weights, places, strict=True)) / sum(weights)


def quantile(deciles: tuple[int, ...], place: float) -> float:
    """Tokens at a place from 0 to 1, straight between deciles."""
    position = place * (len(deciles) - 1)
    below = min(int(position), len(deciles) - 2)
    return deciles[below] + (deciles[below + 1] - deciles[below]) * (position - below)
