"""Samples to a task's numbers: share right, mean loss, the clean items' share, the mean over subjects."""


def mean_loss(answers: list[dict]) -> dict[str, float]:
    """Mean loss of the continuations, in nats a token, from samples with `loss` (of all its tokens) and `tokens`."""
    return {"loss": sum(row["loss"] for row in answers) / sum(row["tokens"] for row in answers)}


def clean_share(values: list[float], items: list[dict]) -> dict[str, float]:
    """Mean and number of the items whose question is not in the training set; empty where none is in it."""
    clean = [value for value, item in zip(values, items, strict=True) if not item["contaminated"]]
    if len(clean) == len(items):
        return {}
    mean = {"clean": sum(clean) / len(clean)} if clean else {}
    return {**mean, "clean_n": float(len(clean))}


def share_of(values: list[float]) -> tuple[float, float | None]:
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
