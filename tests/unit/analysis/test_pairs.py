"""Pairs of cells: what is compared, on what, and the words that follow from both tests."""

import csv

import pytest
from scipy import stats

from sbora_bench.analysis import pairs as comparison
from sbora_bench.analysis import statistics
from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.estimate import Estimate
from sbora_bench.analysis.pairs import Outcome
from sbora_bench.analysis.separation import separation
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.runs import Cell
from sbora_bench.report.tables import tables
from sbora_bench.report.verdicts import outcome_of_methods, outcome_text
from sbora_bench.report.views.method_table import method_table
from sbora_bench.results.read import Results
from tests.factories.made_results import RIGHT, experiment, make_experiment, make_plan, make_results, make_run

LORA, FA, FA_TWICE = Cell("t", "m", "lora", 32), Cell("t", "m", "sbora-fa", 32), Cell("t", "m", "sbora-fa", 64)
COUNTS = {LORA: 100, FA: 45, FA_TWICE: 90}


@pytest.fixture
def made(tmp_path):
    return make_experiment(tmp_path)


def test_equal_rank_equal_parameters_or_ranks_of_one_method():
    assert comparison.in_common(LORA, FA, COUNTS) == ("rank", pytest.approx(100 / 45))
    assert comparison.in_common(LORA, FA_TWICE, COUNTS) == ("parameters", pytest.approx(100 / 90))
    assert comparison.in_common(FA, FA_TWICE, COUNTS) == ("method", 0.5)
    assert comparison.in_common(LORA, FA_TWICE, COUNTS | {FA_TWICE: 86}) == ("", pytest.approx(100 / 86))
    assert comparison.in_common(LORA, FA_TWICE, {}) == ("", None)
    assert (
        comparison.in_common(LORA, Cell("t", "m", "dora", 32), COUNTS | {Cell("t", "m", "dora", 32): 101})[0]
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
    (row,) = comparison.redrawn(comparison.average_pairs(list(tasks.values()), COUNTS, keep_items=True))
    # seeds 0 and 1 have both tasks; in b, items 5 to 9 stand under both
    assert (row.tasks, row.items, row.seeds, row.equal) == (2, 55, 2, "rank")
    by_seed = [(10 / 50 + (3 - 1) / 5) / 2, (9 / 50 + (3 - 1) / 5) / 2]
    assert row.difference == pytest.approx(sum(by_seed) / 2)
    assert row.score_a - row.score_b == pytest.approx(row.difference)
    assert row.low + row.high == pytest.approx(sum(by_seed))
    assert row.p_seeds == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert row.items_low < row.difference < row.items_high


def test_one_task_is_no_average():
    assert comparison.average_pairs([{LORA: rights(3), FA: rights(2)}], COUNTS) == []


def pair(p, p_both, difference=0.1, seeds=3, metric=SHARE):
    """A pair with these p values; of one seed where `p_both` is None."""
    error = None if p_both is None else abs(difference) / stats.t.isf(p_both / 2, 40)
    over = Estimate(1 if p_both is None else seeds, difference, 0.01, error, ((1.0, 40.0),))
    scores = 0.5, 0.5 - difference, difference
    return comparison.Pair(LORA, FA, "rank", None, metric, *scores, p, over, None, pairs=150, tasks=1, items=50)


def test_words_follow_from_items_and_seeds_together():
    pairs = [
        pair(1e-9, 1e-4),
        pair(1e-4, 1e-9, difference=-0.1),
        pair(1e-9, 0.5),
        pair(0.5, 1e-9),
        pair(1e-9, None),
        pair(0.9, 0.9),
    ]
    judged = comparison.judged(pairs)
    assert [outcome_text(pair) for pair in judged] == [
        "better",
        "worse",
        "no difference shown",
        "better",
        "no difference shown; one seed",
        "no difference shown",
    ]
    due = statistics.false_discovery([1e-4, 1e-9, 0.5, 1e-9, 0.9])  # one seed is no part of it
    assert [one.q_both for one in judged if one.q_both is not None] == pytest.approx(due)
    assert judged[4].q_both is None and judged[4].low is None
    assert [pair.differs for pair in judged] == [True, True, True, False, True, False]


def test_less_of_what_should_be_low_is_better():
    loss = Metric(items="values", higher_is_better=False, high=None, unit="nats")
    more, less, same = comparison.judged(
        [pair(1e-9, 1e-9, 0.1, metric=loss), pair(1e-9, 1e-9, -0.1, metric=loss), pair(0.9, 0.9, metric=loss)]
    )
    assert (more.outcome, less.outcome) == (Outcome.WORSE, Outcome.BETTER)
    assert outcome_text(same) == "no difference shown"


def test_a_pair_seen_from_its_second_cell():
    (one,) = comparison.judged([pair(1e-9, 1e-9, 0.1)])
    turned = one.turned()
    assert (turned.a, turned.b, turned.difference) == (FA, LORA, -0.1)
    assert (turned.low, turned.high) == pytest.approx((-one.high, -one.low)) and one.low > 0
    assert (turned.outcome, turned.q_both) == (Outcome.WORSE, one.q_both)
    assert turned.turned() == one


def test_fresh_items_are_paired_within_their_seed():
    a = {seed: {(seed, item): float(item < 30 + seed) for item in range(50)} for seed in range(3)}
    b = {seed: {(seed, item): float(item < 20) for item in range(50)} for seed in range(3)}
    one, two = (
        comparison.task_pairs({LORA: a, FA: b}, COUNTS)[0],
        comparison.redrawn(comparison.average_pairs([{LORA: a, FA: b}] * 2, {}, keep_items=True))[0],
    )
    assert (one.pairs, one.only_a, one.only_b, one.seeds) == (150, 33, 0, 3) and one.over.fresh
    assert one.difference == pytest.approx(11 / 50) and [one.score_a, one.score_b] == pytest.approx([31 / 50, 20 / 50])
    assert one.over.parts == ((1.0, 2.0),)
    assert one.p_both == pytest.approx(stats.ttest_1samp([0.2, 0.22, 0.24], 0).pvalue)
    assert one.p == pytest.approx(2 * 0.5**33)
    assert two.items == 300 and two.items_low < two.difference < two.items_high


def test_values_that_are_not_right_or_wrong_are_compared_by_a_bootstrap():
    metric = Metric(items="values", high=None, unit="words")
    a, b = ({seed: {item: item * slope + seed for item in range(30)} for seed in (0, 1)} for slope in (1.0, 0.9))
    (one,) = comparison.task_pairs({LORA: a, FA: b}, COUNTS, metric)
    assert one.difference == pytest.approx(0.1 * 14.5) and (one.pairs, one.only_a, one.seeds) == (60, None, 2)
    (drawn,) = comparison.redrawn(comparison.average_pairs([{LORA: a, FA: b}], COUNTS, metric, 1, keep_items=True))
    assert drawn.items_low < one.difference < drawn.items_high and one.p < 1e-5


def test_made_samples_say_better(made):
    """Every seed adds one item to all cells alike: the seeds agree wholly, so the items decide. Three or two items more
    are too few.
    """
    averages = separation(Results(*made)).averages
    words = {(r.a.method, r.a.rank, r.b.method, r.b.rank): r.outcome.value for r in averages}
    assert words["lora", 32, "sbora-fa", 32] == "better" and words["sbora-fa", 32, "sbora-fa", 64] == "worse"
    lora, twice = (sum(RIGHT[cell][task] for task in ("MultiArith", "gsm8k", "AddSub")) / 120
                   for cell in (("lora", 32), ("sbora-fa", 64)))  # fmt: skip
    equal_pair = next(r for r in averages if (r.a.method, r.b.rank) == ("lora", 64))
    assert (equal_pair.equal, equal_pair.parameters_ratio, equal_pair.items) == (
        "parameters",
        1,
        120,
    )
    assert equal_pair.difference == pytest.approx(lora - twice)
    assert outcome_of_methods(separation(Results(*made))) == (
        "Not planned, so exploratory: of 5 pairs of methods at equal rank or parameters, 3 differ as trained here and 2"
        " with other seeds and items too (of those shown 5 % may be false)."
    )


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    plan = make_plan(tmp_path, experiment(seeds=(0,)))
    make_results(plan, tmp_path / "results")
    collect(plan, tmp_path / "results")
    tables(plan, tmp_path / "results")
    tested = separation(Results(plan, tmp_path / "results"))
    assert {outcome_text(r) for r in tested.averages + tested.differences} == {"no difference shown; one seed"}
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
    average = rows["arithmetic", "llama-7b", "lora", "32", "average"]
    assert average["interval"] == "t of the log-odds, 1 degrees of freedom" and average["seeds"] == "2"
    expected = statistics.share_summary([(53 + 3 * seed) / 120 for seed in (0, 1)], [120, 120])
    assert [float(average[key]) / 100 for key in ("mean", "sd", "low", "high")] == pytest.approx(
        [expected.mean, expected.sd, expected.low, expected.high], abs=1e-8
    )
    assert average["runs"].split() == [f"arithmetic-llama-7b-lora-r32-s{seed}" for seed in range(3)]
    assert rows["mmlu-flanv2", "llama-7b", "qlora", "64", "mmlu"]["mean"] == "65.000000"
