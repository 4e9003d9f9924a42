"""Score against three costs: trainable parameters, memory, time; and which cells no other beats on both.

A cell is on the front where no other of its panel has at least its score for at most its cost, one of them better.
"""

from typing import Any

COSTS = {
    "parameters": "Trainable parameters",
    "peak": "Peak memory of training, bytes, estimated",
    "seconds": "Training, seconds a run",
}


def pareto_data(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `figures.score_data`, once for each cost that is known of them: adds `of`, `cost` and `front`."""
    found = []
    for panel in dict.fromkeys(row["panel"] for row in rows):
        for key, title in COSTS.items():
            mine = [row for row in rows if row["panel"] == panel and row["method"] != "base" and row[key] is not None]
            ahead = front([(row[key], row["metric"].sign * row["mean"]) for row in mine])
            found += [{**row, "of": title, "cost": row[key], "front": on} for row, on in zip(mine, ahead, strict=True)]
    return found


def front(points: list[tuple[float, float]]) -> list[bool]:
    """Of points (cost, score): whether none of the others is as cheap and as good, and better in one of the two."""

    def beaten(cost: float, score: float) -> bool:
        return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)

    return [not beaten(*point) for point in points]
