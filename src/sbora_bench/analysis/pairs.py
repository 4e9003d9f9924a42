"""Which of two cells of one model is better: at equal rank, at equal trainable parameters, or two ranks of one method.

Two tests a pair, for two questions. Over the items: would these very models differ on other items? Exact McNemar for a
task, a bootstrap of the items for the average of a table's tasks. Over the seeds: would other seeds differ on these
items? The paired t test, whose interval covers with three seeds where a bootstrap of seeds does not. A cell is called
better or worse only where both say so.
"""

from itertools import combinations
from typing import Any

import numpy as np

from sbora_bench.analysis.statistics import (
    LEVEL,
    bootstrap_averages,
    holm,
    over_seeds,
    p_over_seeds,
    paired,
    seeds_needed,
)
from sbora_bench.plan.experiment import Cell, Run
from sbora_bench.results.read import Results

PARAMETERS_WITHIN = 0.15  # LLaMA3-8B's SBoRA at twice the rank has 0.89 or 1.11 times LoRA's
POINT = 0.01

Rights = dict[Any, bool]  # item id -> answered rightly
Cells = dict[Cell, dict[int | None, Rights]]  # cell -> seed -> its items


def items_by_cell(results: Results, runs: list[Run], task: str) -> Cells:
    """What the runs of one model answered rightly in a task. Raises UserError where samples are missing."""
    cells: Cells = {}
    for run in runs:
        rights = {sample["id"]: bool(sample["correct"]) for sample in results.items(run, task)}
        if rights:
            cells.setdefault(run.cell, {})[run.seed] = rights
    return cells


def by_seed(a: dict, b: dict, base: bool = False) -> list[tuple[list[bool], list[bool]]]:
    """Right and wrong of two cells on the items that both have, seed by seed; a base's one seed stands for all."""
    found = []
    for seed in a:
        other = next(iter(b.values())) if base else b.get(seed, {})
        common = [item for item in a[seed] if item in other]
        if common:
            found.append(([a[seed][item] for item in common], [other[item] for item in common]))
    return found


def pooled(rows: list[tuple[list[bool], list[bool]]]) -> tuple[list[bool], list[bool]]:
    """What `by_seed` gives, of all seeds together: a pair is one item under one seed."""
    return [right for row, _ in rows for right in row], [right for _, row in rows for right in row]


def alike(a: Cell, b: Cell, counts: dict[Cell, int]) -> tuple[str, float | None]:
    """What two cells have in common that makes them comparable ("" for nothing), and a's parameters over b's."""
    ratio = counts[a] / counts[b] if counts.get(a) and counts.get(b) else None
    if a.method == b.method:
        return "method", ratio
    near = ratio is not None and max(ratio, 1 / ratio) <= 1 + PARAMETERS_WITHIN
    return " and ".join(["rank"] * (a.rank == b.rank) + ["parameters"] * near), ratio


def pairs(cells: list[Cell], counts: dict[Cell, int]) -> list[tuple[Cell, Cell, dict[str, Any]]]:
    """Every two tuned cells that can be compared, with the first columns of their row."""
    found = []
    for a, b in combinations([cell for cell in cells if cell.method != "base"], 2):
        equal, ratio = alike(a, b, counts)
        if equal:
            names = {"method_a": a.method, "rank_a": a.rank, "method_b": b.method, "rank_b": b.rank}
            found.append((a, b, {**names, "equal": equal, "parameters_ratio": ratio}))
    return found


def task_rows(cells: Cells, counts: dict[Cell, int]) -> list[dict[str, Any]]:
    """A row for every pair of one task."""
    rows, differences = [], []
    for a, b, names in pairs(list(cells), counts):
        seeds = by_seed(cells[a], cells[b])
        if seeds:
            test = paired(*pooled(seeds))
            counted = {"pairs": test.n, "score_a": test.a_right / test.n, "score_b": test.b_right / test.n}
            counted |= {"difference": test.difference, "only_a": test.only_a, "only_b": test.only_b, "p": test.p}
            rows.append(names | counted)
            differences.append([sum(x) / len(x) - sum(y) / len(y) for x, y in seeds])
    return _with_seeds(rows, differences)


def average_rows(tasks: dict[str, Cells], counts: dict[Cell, int], least: int = 2) -> list[dict[str, Any]]:
    """A row for every pair: the unweighted average of the tasks that both have, over the seeds that have them all.

    Pairs with fewer than `least` such tasks have none. Items may have any value, a log-likelihood say.
    """
    rows, differences, items = [], [], []
    for a, b, names in pairs(list(dict.fromkeys(cell for cells in tasks.values() for cell in cells)), counts):
        both = [(cells[a], cells[b]) for cells in tasks.values() if a in cells and b in cells]
        seeds = [seed for seed in (both[0][0] if both else ()) if all(seed in x and seed in y for x, y in both)]
        if len(both) < least or not seeds:
            continue
        rights = [_common(x, y, seeds) for x, y in both]
        score = [float(np.mean([cell[side].mean() for cell in rights])) for side in (0, 1)]
        counted = {"tasks": len(both), "items": sum(x.shape[1] for x, _ in rights)}
        rows.append(names | counted | {"score_a": score[0], "score_b": score[1]})
        differences.append([float(np.mean([(x[k] - y[k]).mean() for x, y in rights])) for k in range(len(seeds))])
        items.append([(x - y).mean(axis=0) for x, y in rights])  # how much oftener a is right than b, over the seeds
    for row, found in zip(rows, bootstrap_averages(items), strict=True):
        row |= {"difference": found.mean, "items_low": found.low, "items_high": found.high, "p": found.p}
    return _with_seeds(rows, differences)


def _common(a: dict, b: dict, seeds: list[int | None]) -> list[np.ndarray]:
    """Of both cells, 1.0 for right, seeds x items: those that both have under every one of the seeds, in a's order."""
    shared = set(a[seeds[0]]).intersection(*(cell[seed] for cell in (a, b) for seed in seeds))
    items = [item for item in a[seeds[0]] if item in shared]
    return [np.array([[cell[seed][item] for item in items] for seed in seeds], dtype=float) for cell in (a, b)]


def _with_seeds(rows: list[dict[str, Any]], differences: list[list[float]]) -> list[dict[str, Any]]:
    """The rows with what the seeds say: how many, their spread, the 95 % t interval, p, and the seeds that one point
    would take. `differences`: of each row, one a seed.
    """
    found = [over_seeds(each) for each in differences]
    needed = iter(seeds_needed([round(each.sd, 6) for each in found if each.sd is not None], POINT))
    for row, summary, p in zip(rows, found, p_over_seeds(differences), strict=True):
        row |= {"seeds": summary.n, "sd": summary.sd, "low": summary.low, "high": summary.high, "p_seeds": p}
        row["seeds_for_1_point"] = None if summary.sd is None else next(needed)
    return rows


def corrected(rows: list[dict[str, Any]], level: float, flag: str) -> None:
    """Holm over a family of rows: adds `p_holm`, and under `flag` whether it is below `level`."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, flag: p < level}


def judged(rows: list[dict[str, Any]]) -> None:
    """Adds `p_both_holm`, of the larger of the two p values, Holm over the rows; and `word`, which follows from it."""
    tested = [row for row in rows if row["p_seeds"] is not None]
    for row in rows:
        row |= {"p_both_holm": None, "word": "no difference shown; one seed"}
    for row, p in zip(tested, holm([max(row["p"], row["p_seeds"]) for row in tested]), strict=True):
        row |= {"p_both_holm": p, "word": word(row, p)}


def word(row: dict[str, Any], p: float) -> str:
    """ "better" or "worse" of the first cell where p is below LEVEL; else how far one point is from being shown."""
    if p < LEVEL:
        return "better" if row["difference"] > 0 else "worse"
    more = row["seeds_for_1_point"] - row["seeds"]
    seeds = "seed" if more == 1 else "seeds"
    return f"no difference shown; {max(more, 0):,} more {seeds} would show 1 point"
