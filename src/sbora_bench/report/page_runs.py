"""What the report says of each run: scores, loss curve, settings, provenance, and some samples of what it said."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sbora_bench.analysis.collect import over_items
from sbora_bench.files import hash_of
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import settings_hash
from sbora_bench.plan.titles import task_titles
from sbora_bench.results.folders import SCORES, run_folder
from sbora_bench.results.read import Results
from sbora_bench.results.records import TaskScore, TrainRecord

SAMPLES_BYTES = 800_000  # of all runs together, without prompts, so that a page of 200 runs is small and opens at once
MANY = 500  # runs, of which a page with a section each would have several megabytes
MOST = 5  # samples a task
LONGEST = 1500  # signs of a prompt or of a model's text
OVERHEAD = 250  # bytes of mark-up a sample


@dataclass(frozen=True)
class Section:
    """One run of the report; all of it text, but for the curve's coordinates."""

    name: str
    table: str
    summary: str
    reason: str
    again: str
    show: str
    scores: list[list[str]] = field(default_factory=list)
    loss: dict[str, Any] | None = None
    facts: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    answered: int = 0

    @property
    def anchor(self) -> str:
        """What a link to the run's section names."""
        return f"run-{self.name}"


def run_sections(results: Results) -> list[Section]:
    """A section a run of `runs_shown`, in the order of the experiment."""
    runs = runs_shown(results)
    return [section(results, run, SAMPLES_BYTES // len(runs)) for run in runs]


def runs_shown(results: Results) -> list[Run]:
    """All runs; of more than `MANY` the first of each cell, and those of which a task has no score."""
    runs = results.plan.runs
    if len(runs) <= MANY:
        return runs
    first = {run.cell: run for run in reversed(runs)}

    def is_whole(run: Run) -> bool:
        return all(score is not None and score.status == "ok" for score in results.task_scores(run).values())

    return [run for run in runs if first[run.cell] == run or not is_whole(run)]


def section(results: Results, run: Run, room: int) -> Section:
    """One run, with samples of at most `room` bytes of HTML. Raises UserError for a damaged record or sample."""
    plan, scores, training = results.plan, results.task_scores(run), results.training(run)
    done = {task: score for task, score in scores.items() if score is not None and score.status == "ok"}
    values = [score.value for score in done.values() if score.value is not None]
    reasons = dict.fromkeys(
        f"{score.status}: {score.reason}" if score else "not run" for task, score in scores.items() if task not in done
    )
    config = f" --config experiment={plan.name}"
    samples = chosen_samples(results, run, list(done), room)
    return Section(
        run.name,
        run.table,
        _average(values, plan.common_metric(run.table, list(scores))),
        "; ".join(reasons),
        f"snakemake --cores all --force {run_folder(f'results/{plan.name}', run) / SCORES}{config}",
        plan.command("show", run.name),
        [
            score_line(task_titles(plan, run.table)[task], score)
            for task, score in done.items()
            if score.value is not None
        ],
        curve_drawing(training),
        facts(plan, run, training),
        samples,
        sum(score.n for score in done.values()),
    )


def _average(values: list[float], metric: Metric | None) -> str:
    if not values:
        return "no score"
    if metric is None:
        return "scores that don't average"
    return f"{metric.scale * sum(values) / len(values):.{metric.digits}f} {metric.shown_unit}".rstrip() + " on average"


def score_line(title: str, score: TaskScore) -> list[str]:
    """A task's title, score, interval over the items, standard error, number of items and metric, as text."""
    stderr, low, high = over_items(score)
    text, interval = score.measured.text, score.measured.interval_text(low, high)
    return [title, text(score.value), interval, text(stderr), f"{score.n:,}", score.shown_metric]


def facts(plan: Plan, run: Run, training: TrainRecord | None) -> dict[str, list[tuple[str, str]]]:
    """Heading -> key and value: what was requested, what happened, on what."""
    requested = plan.protocol_of(run).model_dump(mode="json") if not run.is_base else {}
    parts = {"Settings": _pairs({"settings_sha256": settings_hash(plan, run), **requested})}
    if training is not None:
        happened = training.happened.model_dump(mode="json", exclude={"loss_curve"})
        parts |= {"What happened": _pairs(dict(sorted(happened.items())))}
        parts |= {"Provenance": _pairs(training.on.model_dump(mode="json"))}
    return {title: pairs for title, pairs in parts.items() if pairs}


def _pairs(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Key and value as text; the keys of a dictionary in a dictionary after a full stop; what is None left out."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += [(f"{key}.{inner}", text) for inner, text in _pairs(value)]
        elif value is not None:
            pairs.append((key, value if isinstance(value, str) else json.dumps(value)))
    return pairs


def curve_drawing(training: TrainRecord | None) -> dict[str, Any] | None:
    """Training and validation loss by update as points of a small drawing; None for fewer than two points."""
    curve = training.happened.loss_curve if training else []
    lines = {
        kind: [(point.step, value) for point in curve if (value := getattr(point, key)) is not None]
        for kind, key in (("training", "loss"), ("validation", "validation_loss"))
    }
    lines = {kind: points for kind, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    left, right, top, bottom = 34.0, 318.0, 8.0, 96.0
    steps = [step for points in lines.values() for step, _ in points]
    most = max(loss for points in lines.values() for _, loss in points) or 1.0
    first, last = min(steps), max(steps)

    def place(step: int, loss: float) -> str:
        x = left + (right - left) * (step - first) / max(1, last - first)
        return f"{x:.1f},{bottom - (bottom - top) * loss / most:.1f}"

    ends = next(iter(lines.values()))
    return {
        "width": 330,
        "height": 114,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "ticks": [
            (left - 4, top + 6, "end", f"{most:.3g}"),
            (left - 4, bottom, "end", "0"),
            (left, bottom + 13, "middle", f"{first:,}"),
            (right, bottom + 13, "end", f"{last:,}"),
        ],
        "label": f"Loss from {ends[0][1]:.3f} at update {ends[0][0]} to {ends[-1][1]:.3f} at update {ends[-1][0]}",
        "lines": {kind: " ".join(place(*point) for point in points) for kind, points in lines.items()},
    }


def chosen_samples(results: Results, run: Run, tasks: list[str], room: int) -> list[dict[str, Any]]:
    """Samples to show: of each task in turn an item, the same ones in every run of a table.

    Which items: those whose id and task have the smallest hashes, so that neither the file's order nor being right or
    wrong decides. At most MOST a task, and `room` bytes; tasks for which there is no room aren't read.
    """
    drawn: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for place in range(MOST):
        for task in tasks:
            if task not in drawn:
                drawn[task] = sorted(results.samples(run, task), key=_lot_in(task))[:MOST]
            if place < len(drawn[task]):
                sample = sample_shown(task_titles(results.plan, run.table)[task], drawn[task][place])
                texts = (text for name, text in sample.items() if name != "prompt")  # which stands on the page once
                room -= OVERHEAD + sum(len(str(text).encode()) for text in texts)
                if room < 0:
                    return [sample for samples in shown.values() for sample in samples]
                shown[task].append(sample)
    return [sample for samples in shown.values() for sample in samples]


def _lot_in(task: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _lot(task, row["id"])


@cache
def _lot(task: str, item: int | str) -> str:
    """What decides whether an item is shown: the same in every run, so hashed once."""
    return hash_of([task, item])


def sample_shown(title: str, row: dict[str, Any]) -> dict[str, Any]:
    """A sample as the page shows it: of a long prompt the end, where the question is; of a long text the beginning."""
    prompt, response = str(row.get("prompt", "")), str(row.get("response", ""))
    if len(prompt) > LONGEST:
        prompt = f"[{len(prompt) - LONGEST:,} signs left out] {prompt[-LONGEST:]}"
    if len(response) > LONGEST:
        response = f"{response[:LONGEST]} [{len(response) - LONGEST:,} signs left out]"
    known = {"task": title, "id": row["id"], "prompt": prompt, "response": response}
    known |= {"extracted": row.get("extracted") or "none", "answer": row.get("answer", "")}
    right = "right" if row.get("correct") else "wrong"
    return known | {
        "mark": f"{row['value']:.3g}" if "value" in row else right,
        "contaminated": bool(row.get("contaminated")),
    }


def samples_shown(sections: list[Section], runs: int) -> str:
    """How many of all runs and samples the page holds, in sentences."""
    shown, answered = sum(len(section.samples) for section in sections), sum(section.answered for section in sections)
    few = (
        f"Of {runs:,} runs these are {len(sections):,}, the first seed's of each cell and those without a score; of"
        " another: sbora-bench show RUN. "
        if len(sections) < runs
        else ""
    )
    return few + (
        f"{shown:,} of {answered:,} samples are on this page: of every run the same items of a task, drawn by a hash of"
        f" their number, at most {MOST} a task, and fewer where many runs share the page; texts of over {LONGEST:,}"
        " signs are cut. All of them, whole, are in runs/RUN/samples/."
    )
