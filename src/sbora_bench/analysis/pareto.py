"""Score against three costs: trainable parameters, memory, time; and which cells are not shown to be beaten.

A cell is off the front only where another of its panel is shown to score better (ranking.py) for at most its cost, or
costs less and has no lower mean: a higher mean that noise could have given beats nobody.
"""

from typing import Any

Named = tuple[str, str, int | None]  # panel, method, rank
Better = frozenset[tuple[Named, Named]]

COSTS = {
    "parameters": "Trainable parameters",
    "peak": "Peak memory of training, bytes, estimated",
    "seconds": "Training, seconds a run",
}


def pareto_data(rows: list[dict[str, Any]], better: Better = frozenset()) -> list[dict[str, Any]]:
    """Rows of `figures.score_data`, once for each cost that is known of them: adds `of`, `cost` and `front`.

    `better`: pairs of (panel, method, rank), of which the first is shown to score better.
    """
    points = []
    for panel in dict.fromkeys(row["panel"] for row in rows):
        for key, title in COSTS.items():
            candidates = [
                row for row in rows if row["panel"] == panel and row["method"] != "base" and row[key] is not None
            ]
            names = [(panel, row["method"], row["rank"]) for row in candidates]
            shown = {(i, j) for i, a in enumerate(names) for j, b in enumerate(names) if (a, b) in better}
            ahead = front([(row[key], row["metric"].sign * row["mean"]) for row in candidates], shown)
            points += [
                {**row, "of": title, "cost": row[key], "front": on} for row, on in zip(candidates, ahead, strict=True)
            ]
    return points


def front(points: list[tuple[float, float]], better: set[tuple[int, int]]) -> list[bool]:
    """Of points (cost, score): whether no other is shown to score better for as little, or as good for less.

    `better`: pairs of places, of which the first is shown to score better.
    """

    def beaten(place: int) -> bool:
        cost, score = points[place]
        return any(
            (other, place) in better and c <= cost or c < cost and s >= score for other, (c, s) in enumerate(points)
        )

    return [not beaten(place) for place in range(len(points))]
