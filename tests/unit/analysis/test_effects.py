"""What a table scores beside its own suite, which method keeps more of it, and how much a region's draw decides."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.csv_files import read_scores
from sbora_bench.analysis.forgetting import measured_cells, measured_pairs
from sbora_bench.analysis.index_seeds import Component, components, factorials, p_equal
from sbora_bench.analysis.pairs import Outcome
from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl, sha256, write_jsonl
from sbora_bench.plan.factorials import draw_groups
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.metric import LOSS
from sbora_bench.plan.settings import run_settings, training_settings
from sbora_bench.report.views.forgetting_table import forgetting_table
from sbora_bench.report.views.index_seed_figure import index_seed_data
from sbora_bench.report.views.index_seed_table import index_seed_table
from sbora_bench.report.views.other_suites_figure import other_suites_data
from sbora_bench.report.views.other_suites_table import other_suites_table
from sbora_bench.results.read import Results
from sbora_bench.results.records import ScoresRecord, read_record
from sbora_bench.score.evaluate import evaluate
from tests.factories import toy_runs
from tests.factories.made_results import (
    RIGHT,
    catalog,
    experiment,
    make_experiment,
    make_plan,
    make_results,
    score_again,
)

# --- suites beside a table's own ------------------------------------------------------------------------------------


def written(also=("mmlu",)) -> dict:
    made = experiment(seeds=(0, 1, 2))
    return made | {"tables": {"arithmetic": made["tables"]["arithmetic"] | {"also": list(also)}}}


LOSSES = {"lora": 2.0, "dora": 2.0, "sbora-fa": 1.5, "base": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """MMLU beside arithmetic, with a loss: SBoRA's is half a nat below LoRA's on every item and seed, near enough."""
    folder = tmp_path_factory.mktemp("also")
    plan, results = make_experiment(folder, written())
    for run in plan.runs:
        path = results / "runs" / run.name / "samples" / "mmlu.jsonl"
        loss = LOSSES[run.method] + 0.01 * (run.seed or 0)
        apart = 0.001 if run.method == "sbora-fa" else 0  # of the items by turns
        losses = {item: loss + 0.001 * item + apart * (2 * (item % 2) - 1) for item in range(40)}
        rows = [row | {"loss": 2 * losses[row["id"]], "tokens": 2} for row in read_jsonl(path)]
        extra = read_record(results / "runs" / run.name / "scores.json", ScoresRecord).tasks["mmlu"].extra
        score_again(results, run, "mmlu", rows, extra=extra | {"loss": loss + 0.001 * 19.5})
    collect(plan, results)
    return plan, results


def test_a_suite_beside_is_scored_but_is_no_part_of_the_tables_own(made):
    plan, results = made
    assert plan.tasks("arithmetic") == ["MultiArith", "gsm8k", "AddSub"]
    assert plan.scored("arithmetic") == dict.fromkeys(plan.tasks("arithmetic"), "arithmetic") | {"mmlu": "mmlu"}
    run = plan.runs[1]
    assert set(run_settings(plan, run)["also"]) == {"mmlu"} and "also" not in training_settings(plan, run)
    assert set(read_scores(results).task) == {"MultiArith", "gsm8k", "AddSub", "mmlu"}


@pytest.mark.parametrize("also, message", [(["arithmetic"], "task MultiArith stands in two"), (["mmlo"], "mmlu")])
def test_a_suite_beside_must_be_another_one(tmp_path, also, message):
    with pytest.raises(UserError, match=message):
        make_plan(tmp_path, written(also))


def test_each_suite_and_loss_stands_beside_the_base(made):
    plan, results = made
    rows = {
        (row.cell.model, row.cell.method, row.cell.rank, row.measure.name): row
        for row in measured_cells(Results(plan, results), "arithmetic")
    }
    lora = rows["llama-7b", "lora", 32, "mmlu"].summary
    assert lora.mean == pytest.approx(np.mean([12, 13, 14]) / 40) and lora.n == 3
    assert rows["llama-7b", "lora", 32, "mmlu loss"].summary.mean == pytest.approx(2.01 + 0.0195)
    view = other_suites_table(Results(plan, results), "arithmetic")
    line = view.groups[0][0]
    assert view.header[3:] == ["Arithmetic reasoning", "MMLU", "MMLU, loss"]
    assert (line[4].text, line[4].below) == ("32.5 ± 2.5", ("+7.5",))
    assert (line[5].text, line[5].below) == ("2.030 ± 0.010", ("+1.010",))
    points = [row for row in other_suites_data(Results(plan, results), "arithmetic") if row["method"] == "sbora-fa"]
    assert [(row["of"], row["x"]) for row in points if row["measure"] == "arithmetic" and row["rank"] == 32] == [
        ("Rank", 32),
        ("Trainable parameters", 28_049_408),
    ]


def test_less_loss_is_better_and_equal_answers_are_no_difference(made):
    plan, results = made
    rows = [row for row in measured_pairs(Results(plan, results), "arithmetic") if row.pair.model == "llama-7b"]
    pairs = [row.pair for row in rows]
    of = {(pair.column, pair.a.method, pair.a.rank, pair.b.method, pair.b.rank): pair for pair in pairs}
    loss = of["mmlu loss", "lora", 32, "sbora-fa", 64]
    assert loss.equal == "parameters" and loss.difference == pytest.approx(-0.5)
    assert loss.outcome is Outcome.WORSE
    assert of["mmlu loss", "lora", 32, "dora", 32].outcome is Outcome.NOT_SHOWN
    assert of["mmlu", "lora", 32, "sbora-fa", 64].difference == 0.0
    assert {row.measure.name for row in rows} == {"mmlu", "mmlu loss"}  # not the suite that they were tuned for
    view = forgetting_table(Results(plan, results), "arithmetic")
    assert len(view.csv) == 1 + len(measured_pairs(Results(plan, results), "arithmetic"))
    line = next(line for line in view.groups[0] if line[1].text == "LoRA r = 32" and "r = 64" in line[2].text)
    assert line[5].text == "worse" and line[5].bold and line[5].below[0].startswith("−0.500 [−0.500, −0.500]")


def test_a_suite_that_is_scored_by_its_loss_is_kept_where_that_is_lower(tmp_path):
    """MMLU as numbers answered by likelihood: the score is a loss, SBoRA's half a nat below LoRA's."""
    entries, by_likelihood = catalog(), written()
    by_likelihood["tables"]["arithmetic"] |= {"answer_by": "likelihood"}
    plan, results = make_experiment(tmp_path, by_likelihood, entries)
    for run in plan.runs:
        path = results / "runs" / run.name / "samples" / "mmlu.jsonl"
        loss = LOSSES[run.method] + 0.01 * (run.seed or 0)
        apart = 0.001 if run.method == "sbora-fa" else 0  # of the items by turns
        values = [loss + 0.001 * item + apart * (2 * (item % 2) - 1) for item in range(40)]
        rows = [{"id": row["id"], "value": values[row["id"]]} for row in read_jsonl(path)]
        score_again(results, run, "mmlu", rows, value=sum(values) / 40, measured=LOSS, extra={})
    rows = measured_pairs(Results(plan, results), "arithmetic")
    (row,) = [
        row for row in rows if (row.pair.a.method, row.pair.b.method, row.pair.b.rank) == ("lora", "sbora-fa", 32)
    ]
    assert row.pair.difference == pytest.approx(-0.5) and row.pair.outcome is Outcome.WORSE


def test_a_continuation_is_scored_by_its_loss(tmp_path):
    """Against the model's own cross-entropy, and right where every token is the likeliest."""
    tasks = {"go-on": {"title": "Go on", "template": "continuation", "answer": {}}}
    plan = toy_runs.write_experiment(tmp_path, tasks=tasks, seeds=(0,))
    data = tmp_path / "results" / "data" / "toy"
    items = [{**item, "answer": f"the {item['prompt'].split()[1]} is 3"} for item in toy_runs.items("go-on", 6)]
    write_jsonl(data / "go-on.jsonl", items)
    contamination = json.loads((data / "contamination.json").read_text())
    contamination["tasks"]["go-on"] |= {"sha256": sha256(data / "go-on.jsonl"), "n": 6}
    contamination.pop("record_sha256", None)
    (data / "contamination.json").write_text(json.dumps(contamination))
    base = plan.runs[0]
    evaluate(plan, [base], tmp_path / "resources", tmp_path / "results")
    score = read_record(tmp_path / "results" / "runs" / base.name / "scores.json", ScoresRecord).tasks["go-on"]
    rows = read_jsonl(tmp_path / "results" / "runs" / base.name / "samples" / "go-on.jsonl")
    model, tokenizer, losses, lengths = toy_runs.model(), toy_runs.tokenizer(), [], []
    for item, row in zip(items, rows, strict=True):
        prompt = tokenizer(item["prompt"].rstrip())["input_ids"]
        answer = tokenizer(item["answer"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")))
        lengths.append(len(answer))
        assert row["tokens"] == len(answer) and row["loss"] == pytest.approx(losses[-1], rel=1e-4)
        assert row["correct"] == bool((logits.argmax(-1) == torch.tensor(answer)).all())
    assert score.extra["loss"] == pytest.approx(sum(losses) / sum(lengths), rel=1e-4)
    assert math.isclose(score.value, np.mean([row["correct"] for row in rows]))


# --- index seed against data order ----------------------------------------------------------------------------------


def factorial(rng, draws: int, orders: int, of_draw: float, of_order: float) -> np.ndarray:
    """Scores with these standard deviations of the two factors, and 1 of the rest."""
    return (
        50
        + of_draw * rng.standard_normal((draws, 1))
        + of_order * rng.standard_normal((1, orders))
        + rng.standard_normal((draws, orders))
    )


def test_the_parts_of_the_variance_are_those_of_the_expected_mean_squares():
    scores = np.array([[1.0, 2.0, 6.0], [2.0, 5.0, 8.0]])
    draw, order, rest = components(scores)
    within = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    squares = 3 * ((scores.mean(1) - scores.mean()) ** 2).sum(), 2 * ((scores.mean(0) - scores.mean()) ** 2).sum()
    assert (draw.degrees, order.degrees, rest.degrees) == (1, 2, 2)
    assert [draw.mean_square, order.mean_square] == pytest.approx([squares[0], squares[1] / 2])
    assert rest.variance == pytest.approx((within**2).sum() / 2)
    assert order.variance == pytest.approx((squares[1] / 2 - rest.variance) / 2)
    assert rest.low < rest.variance < rest.high


def test_intervals_cover_and_nothing_is_found_where_nothing_is():
    """300 simulated factorials: 95 % intervals miss at most as often as they may, and p keeps its level."""
    rng = np.random.default_rng(0)
    runs = 300
    estimates = [components(factorial(rng, 5, 5, 2.0, 0.0)) for _ in range(runs)]
    covered = sum(part[0].low <= 4.0 <= part[0].high for part in estimates)
    assert covered >= runs * 0.95 - 2 * math.sqrt(runs * 0.95 * 0.05)
    exact = sum(part[2].low <= 1.0 <= part[2].high for part in estimates)
    assert abs(exact - runs * 0.95) <= 3 * math.sqrt(runs * 0.95 * 0.05)
    false = sum(part[1].p < 0.05 for part in estimates)
    assert abs(false - runs * 0.05) <= 3 * math.sqrt(runs * 0.95 * 0.05)
    assert sum(part[0].p < 0.05 for part in estimates) > 0.9 * runs
    assert np.mean([part[0].variance for part in estimates]) == pytest.approx(4.0, rel=0.2)


def test_whether_draw_or_order_decides_is_one_test():
    """Equal parts are called different in one of twenty at most; ten times the spread is."""
    rng, runs = np.random.default_rng(1), 200

    def shown(of_draw, of_order):
        made = [factorial(rng, 5, 5, of_draw, of_order) for _ in range(runs)]
        squares = [mean_squares(one) for one in made]
        return sum(p_equal(parts, 5, 5) < 0.05 for parts in squares)

    assert shown(2.0, 2.0) <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)
    assert shown(10.0, 1.0) > 0.9 * runs


def mean_squares(scores):
    """The parts of a factorial as far as `p_equal` needs them: degrees and mean squares."""
    draws, orders = scores.shape
    by_draw, by_order, mean = scores.mean(1), scores.mean(0), scores.mean()
    rest = scores - by_draw[:, None] - by_order + mean
    squares = [
        orders * ((by_draw - mean) ** 2).sum() / (draws - 1),
        draws * ((by_order - mean) ** 2).sum() / (orders - 1),
        (rest**2).sum() / ((draws - 1) * (orders - 1)),
    ]
    degrees = draws - 1, orders - 1, (draws - 1) * (orders - 1)
    return [Component("", free, square, 0, 0, 0) for free, square in zip(degrees, squares, strict=True)]


def test_a_factorial_is_methods_that_differ_in_their_index_seed_alone():
    groups = {group.table: group for group in draw_groups(load_plan("ladder-effects"))}
    assert groups["draw-fa"].methods == tuple(f"sbora-fa-i{seed}" for seed in range(5))
    assert groups["draw-fa"].index_seeds == (0, 1, 2, 3, 4) and groups["draw-fa"].title == "SBoRA-FA"
    assert {"commonsense"}.isdisjoint(groups) and draw_groups(load_plan("ladder")) == []


def test_the_factorials_table_is_made_of_the_runs_scores(tmp_path, monkeypatch):
    entries, table = catalog(), experiment()["tables"]["arithmetic"]
    for seed, method in enumerate(("dora", "qlora")):
        entries["methods"][method] = {"title": f"F, index seed {seed}", "peft_type": "SBORA"} | {
            "arguments": {"r": "$rank", "random_seed": seed}
        }
    grids = [{"models": ["llama-7b"], "methods": ["dora", "qlora"], "ranks": [32]}]
    made = experiment() | {"tables": {"arithmetic": table | {"grids": grids, "seeds": [0, 1, 2]}}}
    plan, results = make_plan(tmp_path, yaml.safe_load(yaml.safe_dump(made)), entries), tmp_path / "results"
    monkeypatch.setitem(RIGHT, ("qlora", 32), {"MultiArith": 31, "gsm8k": 10, "AddSub": 21})
    make_results(plan, results)
    (factorial,) = factorials(Results(plan, results))
    parts = {part.source: part for part in factorial.parts}
    assert (parts["draw"].degrees, parts["order"].degrees, parts["rest"].degrees) == (1, 2, 2)
    assert parts["draw"].mean_square == pytest.approx(3 * 2 * (100 * 6 / 40 / 3 / 2) ** 2)  # 6 of 40 more in one task
    assert parts["rest"].variance == pytest.approx(0, abs=1e-9)
    assert sorted({(row["index_seed"], row["seed"]) for row in index_seed_data(Results(plan, results))}) == [
        (index, seed) for index in (0, 1) for seed in (0, 1, 2)
    ]
    view = index_seed_table(Results(plan, results))
    assert [line[3].text for line in view.groups[0]] == ["columns or rows drawn", "data order and dropout", "the rest"]
