"""Pairs of cells: what is compared, on what, and the words that follow from both tests."""

import csv
from dataclasses import replace

import pytest

from sbora_bench.analysis import pairs as comparison
from sbora_bench.analysis import statistics
from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.pairs import Outcome
from sbora_bench.analysis.separation import separation
from sbora_bench.plan.experiment import Cell
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.report.tables import tables
from sbora_bench.report.verdicts import verdict_on_methods, verdict_text
from sbora_bench.report.views.method_table import method_table
from sbora_bench.results.read import Results
from tests.made_results import RIGHT, experiment, make_plan, make_results, make_run

LORA, FA, FA_TWICE = Cell("t", "m", "lora", 32), Cell("t", "m", "sbora-fa", 32), Cell("t", "m", "sbora-fa", 64)
COUNTS = {LORA: 100, FA: 45, FA_TWICE: 90}


@pytest.fixture
def made(tmp_path):
    plan = make_plan(tmp_path)
    make_results(plan, tmp_path / "results")
    return plan, tmp_path / "results"


def test_equal_rank_equal_parameters_or_ranks_of_one_method():
    assert comparison.alike(LORA, FA, COUNTS) == ("rank", pytest.approx(100 / 45))
    assert comparison.alike(LORA, FA_TWICE, COUNTS) == ("parameters", pytest.approx(100 / 90))
    assert comparison.alike(FA, FA_TWICE, COUNTS) == ("method", 0.5)
    assert comparison.alike(LORA, FA_TWICE, COUNTS | {FA_TWICE: 86}) == ("", pytest.approx(100 / 86))
    assert comparison.alike(LORA, FA_TWICE, {}) == ("", None)
    assert (
        comparison.alike(LORA, Cell("t", "m", "dora", 32), COUNTS | {Cell("t", "m", "dora", 32): 101})[0]
        == "rank and parameters"
    )


def rights(*counts, of=50):
    return {seed: {item: item < count for item in range(of)} for seed, count in enumerate(counts)}


def test_an_average_is_over_tasks_and_paired_by_item_and_seed():
    tasks = {
        "a": {LORA: rights(30, 31, 32), FA: rights(20, 22, 21)},
        "b": {LORA: rights(8, of=10), FA: rights(6, of=10)},
    }
    tasks["b"][LORA] |= {1: tasks["b"][LORA][0]}
    tasks["b"][FA] |= {1: {item: item == 9 for item in range(5, 10)}}  # only five items under this seed
    (row,) = comparison.average_pairs(list(tasks.values()), COUNTS)
    # seeds 0 and 1 have both tasks; in b, items 5 to 9 stand under both
    assert (row.tasks, row.items, row.seeds, row.equal) == (2, 55, 2, "rank")
    by_seed = [(10 / 50 + (3 - 1) / 5) / 2, (9 / 50 + (3 - 1) / 5) / 2]
    assert row.difference == pytest.approx(sum(by_seed) / 2)
    assert row.score_a - row.score_b == pytest.approx(row.difference)
    assert row.low + row.high == pytest.approx(sum(by_seed))
    assert row.p_seeds == pytest.approx(statistics.p_over_seeds([by_seed])[0])
    assert row.items_low < row.difference < row.items_high


def test_one_task_is_no_average():
    assert comparison.average_pairs([{LORA: rights(3), FA: rights(2)}], COUNTS) == []


def pair(p, p_seeds, difference=0.1, seeds=3, needed=10, metric=SHARE):
    scores = {"score_a": 0.5, "score_b": 0.5 - difference, "difference": difference, "p": p}
    spread = {"sd": None, "low": None, "high": None, "p_seeds": p_seeds, "seeds_for_1_point": needed}
    return comparison.Pair(LORA, FA, "rank", None, metric, **scores, seeds=seeds, **spread)


def test_words_follow_from_both_tests():
    pairs = [
        pair(1e-9, 1e-4),
        pair(1e-4, 1e-9, difference=-0.1),
        pair(1e-9, 0.5),
        pair(0.5, 1e-9, needed=4),
        pair(1e-9, None, seeds=1, needed=None),
        pair(0.9, 0.9, needed=2),
    ]
    judged = comparison.judged(pairs)
    assert [verdict_text(pair) for pair in judged] == [
        "better",
        "worse",
        "no difference shown; 7 more seeds would show 1 point",
        "no difference shown; 1 more seed would show 1 point",
        "no difference shown; one seed",
        "no difference shown; 0 more seeds would show 1 point",
    ]
    assert judged[0].verdict.p == pytest.approx(5 * 1e-4) and judged[4].verdict.p is None
    assert [pair.differs for pair in judged] == [True, True, True, False, True, False]


def test_less_of_what_should_be_low_is_better():
    loss = Metric(items="values", higher_is_better=False, high=None, unit="nats")
    more, less, same = comparison.judged(
        [pair(1e-9, 1e-9, 0.1, metric=loss), pair(1e-9, 1e-9, -0.1, metric=loss), pair(0.9, 0.9, metric=loss)]
    )
    assert (more.verdict.outcome, less.verdict.outcome) == (Outcome.WORSE, Outcome.BETTER)
    assert verdict_text(same) == "no difference shown; 7 more seeds would show 0.01 nats"


def test_a_pair_seen_from_its_second_cell():
    (one,) = comparison.judged([pair(1e-9, 1e-9, 0.1)])
    one = replace(one, low=0.05, high=0.2)
    turned = one.turned()
    assert (turned.a, turned.b, turned.difference, turned.low, turned.high) == (FA, LORA, -0.1, -0.2, -0.05)
    assert (turned.verdict.outcome, turned.verdict.p) == (Outcome.WORSE, one.verdict.p)
    assert turned.turned() == one


def test_values_that_are_not_right_or_wrong_are_compared_by_a_bootstrap():
    metric = Metric(items="values", high=None, unit="words")
    a, b = ({seed: {item: item * slope + seed for item in range(30)} for seed in (0, 1)} for slope in (1.0, 0.9))
    (one,) = comparison.task_pairs({LORA: a, FA: b}, COUNTS, metric)
    assert one.difference == pytest.approx(0.1 * 14.5) and (one.pairs, one.only_a, one.seeds) == (60, None, 2)
    assert one.items_low < one.difference < one.items_high and one.p < 1e-6


def test_made_samples_say_better(made):
    """Every seed adds one item to all cells alike: the seeds agree wholly, so the items decide."""
    averages = separation(Results(*made)).averages
    words = {(r.a.method, r.a.rank, r.b.method, r.b.rank): r.verdict.outcome.value for r in averages}
    assert words["lora", 32, "sbora-fa", 32] == "better" and words["sbora-fa", 32, "sbora-fa", 64] == "worse"
    lora, twice = (sum(RIGHT[cell][task] for task in ("MultiArith", "gsm8k", "AddSub")) / 120
                   for cell in (("lora", 32), ("sbora-fa", 64)))  # fmt: skip
    mine = next(r for r in averages if (r.a.method, r.b.rank) == ("lora", 64))
    assert (mine.equal, mine.parameters_ratio, mine.items) == (
        "parameters",
        1,
        120,
    )
    assert mine.difference == pytest.approx(lora - twice)
    assert verdict_on_methods(separation(Results(*made))) == (
        "Of 5 pairs of methods at equal rank or parameters, 3 differ as trained here and 3 are shown to differ with"
        " other seeds too; 0 more seeds would show 1 point in half of them."
    )


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    plan = make_plan(tmp_path, experiment(seeds=(0,)))
    make_results(plan, tmp_path / "results")
    collect(plan, tmp_path / "results")
    tables(plan, tmp_path / "results")
    found = separation(Results(plan, tmp_path / "results"))
    assert {verdict_text(r) for r in found.averages + found.differences} == {"no difference shown; one seed"}
    assert {
        cell.text
        for group in method_table(Results(plan, tmp_path / "results"), "arithmetic").groups
        for r in group
        for cell in r[8:]
    } == {"–"}
    rows = list(csv.DictReader((tmp_path / "results/tables/cells.csv").open()))
    assert {(r["interval"], r["low"], r["sd"]) for r in rows} == {("none: one seed", "", "")}


def test_a_cell_names_its_runs_and_its_interval(made):
    plan, results = made
    make_run(plan, results, plan.run("arithmetic-llama-7b-lora-r32-s2"), failed="no memory")
    collect(plan, results)
    tables(plan, results)
    rows = {(r["table"], r["model"], r["method"], r["rank"], r["task"]): r
            for r in csv.DictReader((results / "tables/cells.csv").open())}  # fmt: skip
    mine = rows["arithmetic", "llama-7b", "lora", "32", "average"]
    assert mine["interval"] == "t, 1 degrees of freedom" and mine["seeds"] == "2"
    expected = statistics.over_seeds([100 * (53 + 3 * seed) / 120 for seed in (0, 1)])
    assert [float(mine[key]) for key in ("mean", "sd", "low", "high")] == pytest.approx(
        [expected.mean, expected.sd, expected.low, expected.high], abs=1e-6
    )
    assert mine["runs"].split() == [f"arithmetic-llama-7b-lora-r32-s{seed}" for seed in range(3)]
    assert rows["mmlu-flanv2", "llama-7b", "qlora", "64", "mmlu"]["mean"] == "65.000000"
