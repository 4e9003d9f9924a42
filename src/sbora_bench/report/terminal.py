"""One run on one screen, and two runs side by side on the same items; from their files alone.

`sbora-bench show RUN`, `sbora-bench compare RUN RUN`.
"""

from pathlib import Path
from typing import Any

from sbora_bench.analysis.collect import over_items
from sbora_bench.analysis.statistics import LEVEL, bootstrap_average, holm, paired
from sbora_bench.errors import UserError, one_of
from sbora_bench.files import read_jsonl
from sbora_bench.plan.metric import Metric
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.folders import FOOTPRINT, RUNS, SCORES, TRAINING, run_folder, samples_file
from sbora_bench.results.records import FootprintRecord, ScoresRecord, TrainRecord, read_record, record_at


def run_at(name: str, results: Path) -> Path:
    """The folder of a run: a path, or a name below `results`. Raises UserError that names near ones."""
    folder = Path(name) if (Path(name) / SCORES).is_file() else run_folder(results, name)
    if not (folder / SCORES).is_file():
        scored = [path.parent.name for path in (results / RUNS).glob(f"*/{SCORES}")]
        raise UserError(f"{results / RUNS}: {one_of(name, scored, 'scored run')}")
    return folder


def show(folder: Path) -> str:
    """What was asked, how training went, what it cost, and every score with its 95 % Wilson interval."""
    scores = read_record(folder / SCORES, ScoresRecord)
    training, footprint = (
        record_at(folder / TRAINING, TrainRecord),
        record_at(folder / FOOTPRINT, FootprintRecord),
    )
    rank = "" if scores.rank is None else f", rank {scores.rank}, seed {scores.seed}"
    lines = [f"{scores.run}: {scores.status}{f' ({scores.reason})' if scores.reason else ''}"]
    lines.append(f"{scores.method} on {scores.model}{rank}; {scores.suite}, protocol {scores.protocol}")
    if training is not None:
        lines += _training(training, scores.train)
    if footprint is not None and footprint.trainable_parameters is not None and footprint.total_parameters:
        share = f"{100 * footprint.trainable_parameters / footprint.total_parameters:.3f} % of all"
        lines.append(
            f"parameters: {footprint.trainable_parameters:,} trained, {share}; adapter {_size(footprint.adapter_bytes)}"
        )
    titles = max(map(len, scores.tasks), default=0)
    for task, score in scores.tasks.items():
        if score.status != "ok" or score.value is None:
            lines.append(f"  {task:{titles}}  {score.status} ({score.reason})")
            continue
        _, low, high = over_items(score)
        value = f"{score.measured.text(score.value):>5} {score.measured.shown_unit}"
        shown = f"{value}  {score.measured.interval_text(low, high)}  n {score.n:,}  {score.shown_metric}"
        lines.append(f"  {task:{titles}}  {shown}")
    return "\n".join([*lines, f"samples: {folder / 'samples'}"])


def _training(record: TrainRecord, training_set: str | None) -> list[str]:
    happened, protocol = record.happened, record.asked.get("protocol", {})
    losses = happened.losses()
    if record.status == "failed" or not losses:
        return [f"training: {record.status} {record.reason}".rstrip()]
    updates = f"{happened.steps:,} updates of {protocol.get('batch_size')} at {protocol.get('learning_rate')}"
    cost = f"{happened.seconds:,.1f} s, {happened.tokens:,} tokens"
    cost += f", peak {_size(happened.peak_memory_bytes)}"
    versions = record.on.versions
    on = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions)
    commit = (record.on.git.commit or "")[:12]
    on += f", commit {commit}" if commit else ""
    return [f"trained on {training_set}: {updates}", f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; {cost}", f"on {on}"]


def _size(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:,.2f} MiB"


def compare(a: Path, b: Path) -> str:
    """Task by task: both scores on the items that both answered, exact McNemar test (a bootstrap of the items where
    they are not right or wrong), Holm over the tasks; then the average, where the scores have one, by a bootstrap of
    the items. Raises UserError where they have no task in common.
    """
    records = [read_record(folder / SCORES, ScoresRecord) for folder in (a, b)]
    tasks = [task for task in records[0].tasks if all(_scored(record, task) for record in records)]
    values = {task: _common(a, b, task) for task in tasks}
    values = {task: pair for task, pair in values.items() if pair[0]}
    if not values:
        raise UserError(f"{a} and {b}: no task in common that both have scored; compare two runs of one suite")
    metrics = {task: records[0].tasks[task].measured for task in values}
    tests = {task: _tested(*pair, metrics[task]) for task, pair in values.items()}
    adjusted = dict(zip(tests, holm([p for p, _ in tests.values()]), strict=True))
    width = max(map(len, [*tests, "average"]))
    lines = [f"a: {records[0].run}", f"b: {records[1].run}"]
    lines.append(f"{'':{width}}      a      b    a - b   items  only a  only b  p, Holm  a is")
    means = {task: [sum(side) / len(side) for side in pair] for task, pair in values.items()}
    for task, (_, only_one_right) in tests.items():
        counts = f"{len(values[task][0]):7,} {only_one_right} {adjusted[task]:8.2g}"
        metric, (mean_a, mean_b) = metrics[task], means[task]
        word = _word(metric.sign * (mean_a - mean_b), adjusted[task])
        lines.append(f"{task:{width}} {_scores(mean_a, mean_b, metric)} {counts}  {word}")
    metric = next(iter(metrics.values()))
    if len(values) > 1 and all(metric.averages_with(other) for other in metrics.values()):
        drawn = bootstrap_average([[x - y for x, y in zip(*pair, strict=True)] for pair in values.values()])
        mean_a, mean_b = (sum(mean[side] for mean in means.values()) / len(means) for side in (0, 1))
        ends = ", ".join(metric.text(end, "+") for end in (drawn.low, drawn.high))
        word = _word(metric.sign * drawn.mean, drawn.p)
        scores = _scores(mean_a, mean_b, metric)
        lines.append(f"{'average':{width}} {scores}  {word}; 95 % of items: [{ends}], p {drawn.p:.2g}")
    lines.append("Of these two runs on these kinds of items; other seeds are not in it (tables/averages.csv).")
    return "\n".join(lines)


def _tested(a: list[float], b: list[float], metric: Metric) -> tuple[float, str]:
    """p of a task's items, and how many items each alone got right, as the table shows it."""
    if not metric.right_or_wrong:
        return bootstrap_average([[x - y for x, y in zip(a, b, strict=True)]]).p, f"{'–':>7} {'–':>7}"
    test = paired(a, b)
    return test.p, f"{test.only_a:7,} {test.only_b:7,}"


def _scores(a: float, b: float, metric: Metric) -> str:
    return f"{metric.text(a):>6} {metric.text(b):>6} {metric.text(a - b, '+'):>8}"


def _scored(record: ScoresRecord, task: str) -> bool:
    return task in record.tasks and record.tasks[task].status == "ok"


def _common(a: Path, b: Path, task: str) -> tuple[list[float], list[float]]:
    """What the items count that both have. Raises UserError where one item has two prompts or answers."""
    rows: list[dict[Any, dict[str, Any]]] = []
    for folder in (a, b):
        rows.append({row["id"]: row for row in read_jsonl(samples_file(folder, task))})
    both = [item for item in rows[0] if item in rows[1]]
    for item in both:
        if rows[0][item]["answer"] != rows[1][item]["answer"]:
            path = samples_file(b, task)
            raise UserError(f"{path}: item {item}: another right answer than in {a}: these are not the same items")
    left, right = ([value_of(of_run[item]) for item in both] for of_run in rows)
    return left, right


def _word(gain: float, p: float) -> str:
    return "no difference shown" if p >= LEVEL else "better" if gain > 0 else "worse"
