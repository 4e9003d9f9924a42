"""An experiment whose tasks are not right or wrong: a mean in [0, 1], and one without an upper end where less is
better; from records to every file, and back from the samples.
"""

import csv

import pytest

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.pairs import Outcome
from sbora_bench.analysis.pareto import pareto_data
from sbora_bench.analysis.separation import separation
from sbora_bench.plan.layouts import layouts
from sbora_bench.plan.metric import LOSS
from sbora_bench.report.figures import figures
from sbora_bench.report.page_answer import highest_scores
from sbora_bench.report.page_runs import section
from sbora_bench.report.plotting import score_label
from sbora_bench.report.tables import tables
from sbora_bench.report.terminal import compare, show
from sbora_bench.report.verify import verify
from sbora_bench.report.views.score_figure import score_points
from sbora_bench.results.aggregate import clean_mean, mean_and_stderr
from sbora_bench.results.folders import run_folder, samples_file
from sbora_bench.results.read import Results
from tests.factories.made_results import (
    catalog,
    experiment,
    make_experiment,
    samples,
    score_again,
)

METRICS = {
    "MultiArith": {"token_f1": {"items": "values"}},
    "gsm8k": {"edits": {"items": "values", "higher_is_better": False, "high": None, "unit": "edits"}},
}


def value(task: str, run, item: int) -> float:
    """Better for DoRA than for LoRA, and for a tuned model than for its base, in the metric's own direction."""
    quality = {"base": 0.1, "lora": 0.5, "dora": 0.7}.get(run.method, 0.3) + 0.01 * (run.seed or 0) + item % 7 / 100
    quality += 0.0 if run.method == "dora" else (item % 3 - 1) / 100
    return quality if task == "MultiArith" else 4.0 - 3 * quality


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    entries = catalog()
    for task, metrics in METRICS.items():
        entries["tasks"][task] |= {"metrics": metrics}
    written = experiment() | {"tables": {"arithmetic": experiment()["tables"]["arithmetic"]}}
    plan, results = make_experiment(folder, written, entries)
    for run in plan.runs:
        for task, metrics in METRICS.items():
            rows = [
                {key: of for key, of in row.items() if key != "correct"} | {"value": value(task, run, row["id"])}
                for row in samples(run, task)
            ]
            mean, stderr = mean_and_stderr([row["value"] for row in rows])
            score_again(
                results,
                run,
                task,
                rows,
                metric=next(iter(metrics)),
                measured=plan.catalog.tasks[task].metric,
                value=mean,
                stderr=stderr,
                extra=clean_mean([row["value"] for row in rows], rows),
            )
    collect(plan, results)
    tables(plan, results)
    return plan, results


def plotted(plan, results):
    return [row for row in score_points(Results(plan, results), layouts(plan)[0]) if row["panel"].startswith("LLaMA")]


def row_of(results, model: str = "llama-7b", method: str = "dora", **names) -> dict[str, str]:
    names |= {"model": model, "method": method}
    with open(results / "scores.csv", newline="") as file:
        return next(r for r in csv.DictReader(file) if all(r[key] == of for key, of in names.items()))


def test_scores_have_an_interval_in_their_own_range(made):
    f1 = row_of(made[1], task="MultiArith", seed="0")
    assert f1["metric"] == "token_f1" and float(f1["low"]) < float(f1["value"]) < float(f1["high"]) <= 1
    edits = row_of(made[1], task="gsm8k", method="base")
    assert float(edits["value"]) > 3 and float(edits["high"]) > float(edits["value"]) > float(edits["low"]) > 1


def test_scores_that_do_not_average_have_no_average(made):
    plan, results = made
    (layout,) = layouts(plan)
    assert not layout.averaged and separation(Results(plan, results)).averages == []
    text = (results / "tables" / "arithmetic.md").read_text()
    assert "GSM8K: in edits, less is better." in text and "Bold: the best of the methods" in text
    # of items 0 to 39 the mean of item % 7 is 2.875: DoRA's qualities are 0.72875, 0.73875 and 0.74875
    (dora,) = [line for line in text.splitlines() if line.startswith("| LLaMA-7B | DoRA")]
    assert "| **73.9 ± 1.0** | **1.784 ± 0.030** |" in dora, "without what the paper reports of right answers"


def test_better_is_in_the_metrics_direction(made):
    tested = separation(Results(*made))
    pairs = {(pair.column, pair.a.method, pair.b.method): pair for pair in tested.differences if pair.a.rank == 32}
    for task in METRICS:
        assert pairs[task, "lora", "dora"].outcome is Outcome.WORSE
        assert pairs[task, "dora", "sbora-fa"].outcome is Outcome.BETTER
    assert pairs["gsm8k", "lora", "dora"].difference > 0 > pairs["MultiArith", "lora", "dora"].difference
    gains = {(gain.task, gain.cell.method): gain for gain in tested.gains if gain.cell.model == "llama-7b"}
    assert gains["gsm8k", "dora"].difference < 0 and gains["gsm8k", "dora"].only_tuned is None
    assert {one.gain.task for one in tested.references} == {"AddSub"}, "the most frequent answer is of right and wrong"
    best = highest_scores(Results(*made))
    assert any(line.startswith("Arithmetic, by hand: the lowest GSM8K is 1.784") and "DoRA" in line for line in best)


def test_figures_run_and_a_runs_section_are_drawn(made):
    plan, results = made
    figures(plan, results)
    assert (results / "figures" / "score-arithmetic.svg").stat().st_size > 1000
    points = {(row["panel"].split(": ")[1], row["method"]): row for row in plotted(plan, results)}
    assert score_label(points["GSM8K", "dora"]["metric"]) == "Score, edits (less is better)"
    assert points["GSM8K", "dora"]["mean"] == pytest.approx(1.78375)
    ahead = [row for row in pareto_data(list(points.values())) if row["panel"].endswith("GSM8K") and row["front"]]
    assert "dora" in {row["method"] for row in ahead}, "the lowest is on the front"
    run = plan.run("arithmetic-llama-7b-dora-r32-s0")
    shown = section(Results(plan, results), run, 10**6)
    assert shown.summary == "scores that don't average"
    assert shown.scores[1] == ["GSM8K", "1.814", "[1.795, 1.832]", "0.009", "40", "edits"]
    assert {sample["mark"] for sample in shown.samples} >= {"right"}


def test_runs_are_shown_compared_and_verified(made):
    plan, results = made
    lora, dora = (run_folder(results, f"arithmetic-llama-7b-{method}-r32-s0") for method in ("lora", "dora"))
    assert "edits" in show(lora)
    lines = compare(lora, dora).splitlines()
    assert [line.split()[-1] for line in lines if line.startswith(tuple(METRICS))] == ["worse", "worse"]
    assert not any(line.startswith("average") for line in lines)
    assert not [line for line in verify(plan, results)[0] if "AddSub" not in line], "AddSub's error is made by hand"
    path = samples_file(lora, "gsm8k")
    whole = path.read_text()
    path.write_text(whole.replace('"value": 2.5', '"value": 1.5', 1))
    assert any("gsm8k" in line for line in verify(plan, results)[0])
    path.write_text(whole)


def test_what_is_answered_by_likelihood_is_shown_in_nats(tmp_path):
    """Tasks that would generate a number have their loss as the score: no share, and less is better."""
    table = experiment()["tables"]["arithmetic"] | {"answer_by": "likelihood"}
    plan, results = make_experiment(tmp_path, experiment() | {"tables": {"arithmetic": table}})
    for run in plan.runs:
        for task in plan.scored(run.table):
            rows = [
                {key: of for key, of in row.items() if key != "correct"}
                | {"value": 1 + value("gsm8k", run, row["id"]), "gold_loss": 1 + value("gsm8k", run, row["id"])}
                for row in samples(run, task)
            ]
            mean, stderr = mean_and_stderr([row["value"] for row in rows])
            fields = {"metric": "gold_loss", "measured": LOSS, "value": mean, "stderr": stderr, "extra": {}}
            score_again(results, run, task, rows, **fields)
    collect(plan, results)
    tables(plan, results)
    (layout,) = layouts(plan)
    assert layout.averaged and {column.metric for column in layout.columns} == {LOSS}
    text = (results / "tables" / "arithmetic.md").read_text()
    # of items 0 to 39 the mean of item % 7 is 2.875: DoRA's qualities are 0.72875, 0.73875 and 0.74875
    (dora,) = [line for line in text.splitlines() if line.startswith("| LLaMA-7B | DoRA")]
    assert "| **2.784 ± 0.030** |" in dora and "Score in nats a token, less is better: mean" in text, text
    best = highest_scores(Results(plan, results))
    assert any(line.startswith("Arithmetic, by hand: the lowest average is 2.784") and "DoRA" in line for line in best)
