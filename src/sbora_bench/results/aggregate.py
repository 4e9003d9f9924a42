"""Samples to a task's numbers: the mean of its items, mean loss, the clean items' mean, the mean over subjects.

A sample has `correct` where its metric is right or wrong, else `value`; `metrics` has those beside the score.
"""

from typing import Any

from sbora_bench.plan.metric import GOLD_LOSS

CUT = "cut"  # of a sample whose prompt was too long, and of a score how many
LIKELIEST = "by_likelihood"  # share of choices whose likeliest label is right


def value_of(row: dict[str, Any]) -> float:
    """What an item counts: 1 or 0 for right or wrong, else its value. Raises KeyError where it has neither."""
    return float(row["value"] if "value" in row else row["correct"])


def of_samples(
    rows: list[dict[str, Any]], over: str, mean: float | None = None
) -> tuple[float, float | None, dict[str, float]]:
    """A task's value, its standard error, and what its score says beside them, from its samples.

    The value is the mean of the items, `mean` where lm-eval has said it; with `over` `subjects` that of the subjects'
    means.
    """
    values = [value_of(row) for row in rows]
    value, stderr = mean_and_stderr(values)
    value = value if mean is None else mean
    extra = clean_mean(values, rows) | other_means([row["metrics"] for row in rows if "metrics" in row])
    if "subject" in rows[0]:
        average, spread = macro_average(values, [row["subject"] for row in rows])
        extra |= {"micro": value, "macro": average}
        if over == "subjects":
            value, stderr = average, spread
    extra |= mean_loss(rows) if "loss" in rows[0] else {}
    return value, stderr, extra | gold_means(rows) | cut_prompts(rows)


def other_means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means of the metrics beside the score, from each sample's `metrics`."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in (rows[0] if rows else ())}


def mean_loss(answers: list[dict]) -> dict[str, float]:
    """Mean loss of the continuations, in nats a token, from samples with `loss` (of all its tokens) and `tokens`."""
    return {"loss": sum(row["loss"] for row in answers) / sum(row["tokens"] for row in answers)}


def gold_means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of what samples say of the gold answer's likelihood: its loss and, of choices, how many are right by it."""
    means = {GOLD_LOSS: sum(row[GOLD_LOSS] for row in rows) / len(rows)} if rows and GOLD_LOSS in rows[0] else {}
    if rows and all("likeliest" in row for row in rows):
        means[LIKELIEST] = sum(row["likeliest"] == row["answer"] for row in rows) / len(rows)
    return means


def cut_prompts(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many of the samples' prompts didn't go through the model whole; empty where all did."""
    cut = sum(row.get(CUT, False) for row in rows)
    return {CUT: float(cut)} if cut else {}


def clean_mean(values: list[float], items: list[dict]) -> dict[str, float]:
    """Mean and number of the items whose question is not in the training set; empty where none is in it."""
    clean = [value for value, item in zip(values, items, strict=True) if not item["contaminated"]]
    if len(clean) == len(items):
        return {}
    mean = {"clean": sum(clean) / len(clean)} if clean else {}
    return {**mean, "clean_n": float(len(clean))}


def mean_and_stderr(values: list[float]) -> tuple[float, float | None]:
    """Mean and standard error of a task's items, as lm-eval has them; none of a single item."""
    from lm_eval.api.metrics import mean, mean_stderr

    return float(mean(values)), float(mean_stderr(values)) if len(values) > 1 else None


def macro_average(values: list[float], subjects: list[str]) -> tuple[float, float | None]:
    """Mean of the subjects' means, and its standard error by lm-eval; None where a subject has a single item."""
    from lm_eval.api.metrics import mean, mean_stderr, unweighted_mean_stderr

    by_subject: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        by_subject.setdefault(subject, []).append(value)
    groups = [by_subject[subject] for subject in sorted(by_subject)]
    average = float(mean([mean(group) for group in groups]))
    if min(map(len, groups)) < 2:
        return average, None
    return average, float(unweighted_mean_stderr([mean_stderr(group) for group in groups]))
