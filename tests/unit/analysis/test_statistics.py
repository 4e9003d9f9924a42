"""Intervals and tests against values known by hand or from tables; then what they say of made samples."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sbora_bench.analysis import statistics
from sbora_bench.analysis.separation import Separation, most_frequent_answer, separation
from sbora_bench.errors import UserError
from sbora_bench.report.counts import count_columns, differences_shown, references_shown
from sbora_bench.results.read import Results
from tests.factories.made_results import RIGHT, experiment, make_experiment, make_plan, make_run


def test_over_seeds():
    summary = statistics.seed_summary([1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.sd) == (3, 2.0, 1.0)
    assert summary.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees, 97.5 %
    assert summary.low + summary.high == pytest.approx(4)


def test_one_seed_has_no_interval_and_none_is_an_error():
    assert statistics.seed_summary([0.4]) == statistics.Summary(1, 0.4, None, None, None)
    assert statistics.seed_summary([0.4, 0.4]).low is None  # equal values have no interval without a width
    with pytest.raises(ValueError, match="no values"):
        statistics.seed_summary([])


def test_binomial():
    assert statistics.binomial_stderr(20, 100) == pytest.approx(0.04)
    low, high = statistics.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, rel=1e-6), pytest.approx(0.9433178, rel=1e-6))
    assert statistics.wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)


def test_mcnemar_is_exact_and_two_sided():
    a = [True] * 9 + [False] * 1 + [True] * 5
    b = [False] * 9 + [True] * 1 + [True] * 5
    test = statistics.paired(a, b)
    assert (test.n, test.only_a, test.only_b, test.a_right, test.b_right) == (15, 9, 1, 14, 6)
    assert test.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert test.difference == pytest.approx(8 / 15)
    assert statistics.paired([True, False], [True, False]).p == 1


@pytest.mark.parametrize("b", [[True], []])
def test_unpaired_rows_are_an_error(b):
    with pytest.raises(ValueError, match="equal length"):
        statistics.paired([True, False] if b else [], b)


def test_the_interval_of_shares_stays_between_0_and_1_and_has_a_width():
    for shares in ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.98, 1.0], [0.6, 0.6, 0.6], [0.02, 0.4, 0.9]):
        made = statistics.share_summary(shares, [50] * 3)
        assert 0 <= made.low <= made.mean <= made.high <= 1 and made.high - made.low > 0.01
        assert (made.low == 0) == (sum(shares) == 0) and (made.high == 1) == (sum(shares) == 3)
        assert (made.mean, made.n) == (pytest.approx(np.mean(shares)), 3)
    made = statistics.share_summary([0.5, 0.6], [20, 20])
    log_odds = [math.log((right + 0.5) / (20 - right + 0.5)) for right in (10, 12)]
    plain = statistics.seed_summary(log_odds)
    assert [made.low, made.high] == pytest.approx([1 / (1 + math.exp(-end)) for end in (plain.low, plain.high)])
    assert statistics.share_summary([0.5], [20]) == statistics.Summary(1, 0.5, None, None, None)


def test_signs_are_flipped_as_scipy_flips_them():
    rng = np.random.default_rng(0)
    for values in (rng.integers(-3, 4, 12).astype(float), rng.normal(0.3, 1, 11), np.array([1.0, 1, 1, -1, 1, 1, 1])):
        by_scipy = stats.permutation_test(
            (values, np.zeros_like(values)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
        )
        assert statistics.sign_flip([values]) == pytest.approx(by_scipy.pvalue)
    drawn = rng.normal(0.1, 1, 60)
    by_scipy = stats.permutation_test(
        (drawn, np.zeros(60)),
        lambda x, y, axis: np.mean(x - y, axis),
        permutation_type="samples",
        vectorized=True,
        rng=0,
    )
    assert statistics.sign_flip([drawn]) == pytest.approx(by_scipy.pvalue, abs=0.02)


def test_signs_of_one_seed_are_mcnemars_and_of_several_an_item_counts_once():
    a, b = [True] * 9 + [False] * 3 + [True] * 5, [False] * 9 + [True] * 3 + [True] * 5
    less = np.array(a, dtype=float) - np.array(b, dtype=float)
    assert statistics.sign_flip([less]) == pytest.approx(statistics.paired(a, b).p)
    assert statistics.sign_flip([3 * less]) == pytest.approx(statistics.paired(a, b).p)  # three seeds that agree
    assert statistics.paired(a * 3, b * 3).p < 0.1 * statistics.sign_flip([3 * less])
    assert statistics.sign_flip([[0.0, 0.0]]) == statistics.sign_flip([np.zeros(5), np.zeros(4)]) == 1
    two = statistics.sign_flip([[1.0, 1, 1, -1], [1, 0, 0, 1]])
    assert two == pytest.approx(statistics.sign_flip([[1.0, 1, 1, -1, 1, 0, 0, 1]]))


def test_false_discovery():
    assert statistics.false_discovery([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    p = np.random.default_rng(0).random(40) ** 3
    assert statistics.false_discovery(p) == pytest.approx(multipletests(p, method="fdr_bh")[1].tolist())
    assert statistics.false_discovery([]) == []


def test_holm():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
    p = np.round(np.random.default_rng(0).random(40) ** 3, 2)  # with ties, zeros and what ends above 1
    assert statistics.holm(p) == multipletests(p, method="holm")[1].tolist()


def test_most_frequent_answer_takes_numbers_as_numbers():
    samples = [{"answer": answer} for answer in ["4", "4.0", "x", "x", "y"]]
    assert most_frequent_answer(samples) == ("4", 0.4)


@pytest.fixture
def made(tmp_path):
    return make_experiment(tmp_path)


def test_claims_of_made_samples(made):
    tested = separation(Results(*made))
    claims = {(row.gain.cell.table, row.gain.cell.model, row.gain.task): row for row in tested.references}
    assert len(claims) == 8
    reference = claims["arithmetic", "llama-7b", "MultiArith"]
    row = reference.gain
    right = sum(RIGHT["lora", 32]["MultiArith"] + seed for seed in range(3))
    assert (row.cell.method, row.cell.rank, row.seeds, row.pairs) == ("lora", 32, 3, 120)
    assert (row.score, row.base, reference.most_frequent_rate) == (right / 120, 2 / 40, 0.25)
    only_lora = 32 - 2  # items, of 30 to 32 right by seed; the base is right on its first two, as LoRA is
    assert row.p == pytest.approx(2 * 0.5**only_lora)
    assert reference.holds and reference.p_holm < 0.01
    low = claims["arithmetic", "llama-7b", "gsm8k"]
    assert low.gain.difference > 0 and low.p == pytest.approx(1, abs=1e-2) and not low.holds  # not than the commonest
    assert claims["mmlu-alpaca", "llama-7b", "mmlu"].gain.cell.method == "qlora"


def test_gains_are_against_the_base_of_the_same_model(made):
    gains = separation(Results(*made)).gains
    rows = [row for row in gains if (row.cell.table, row.task) == ("arithmetic", "MultiArith")]
    assert [(row.cell.model, row.cell.method, row.cell.rank) for row in rows] == [
        ("llama-7b", "lora", 32),
        ("llama-7b", "dora", 32),
        ("llama-7b", "sbora-fa", 32),
        ("llama-7b", "sbora-fa", 64),
        ("llama-s", "lora", 32),
    ]
    fa = rows[2]
    assert (fa.only_tuned, fa.only_base, fa.pairs) == (3 * (12 + 1 - 2), 0, 120)
    assert fa.difference == pytest.approx(33 / 120) and fa.differs
    family = [row for row in separation(Results(*made)).gains if row.cell.table == "arithmetic"]
    assert [row.p_holm for row in family] == pytest.approx(statistics.holm([row.p for row in family]))


def test_a_missing_sample_file_is_an_error(made):
    plan, results = made
    path = results / "runs/arithmetic-llama-7b-base/samples/AddSub.jsonl"
    path.unlink()
    with pytest.raises(UserError, match="AddSub.jsonl: no such file"):
        separation(Results(plan, results))


def test_differences_compare_one_thing_at_a_time(made):
    tested = separation(Results(*made))
    pairs = {(row.a.method, row.a.rank, row.b.method, row.b.rank) for row in tested.differences}
    assert pairs == {
        ("lora", 32, "dora", 32),
        ("lora", 32, "sbora-fa", 32),
        ("dora", 32, "sbora-fa", 32),
        ("sbora-fa", 32, "sbora-fa", 64),
        ("lora", 32, "sbora-fa", 64),  # of equal parameters
        ("dora", 32, "sbora-fa", 64),
    }
    multiarith = [row for row in tested.differences if row.column == "MultiArith"]
    right = {cell: RIGHT[cell]["MultiArith"] for cell in RIGHT if cell[0] in ("lora", "dora", "sbora-fa")}
    for row in multiarith:
        a, b = (right[cell.method, cell.rank] for cell in (row.a, row.b))
        assert row.only_a - row.only_b == 3 * (a - b)
        assert row.differs == (abs(a - b) >= 18)  # three and two items are too few
    assert tested.undecided() == [("arithmetic", "llama-7b", "gsm8k"), ("arithmetic", "llama-7b", "AddSub")]
    assert count_columns(differences_shown(tested)) == (1, 3)
    assert count_columns(references_shown(tested)) == (1, 5)  # by more than ten points; 40 items show that once


def test_false_discovery_is_over_the_pairs_of_a_table(made):
    rows = [row for row in separation(Results(*made)).differences if row.table == "arithmetic"]
    assert len(rows) == 3 * 6
    assert [row.q for row in rows] == pytest.approx(statistics.false_discovery([row.p for row in rows]))


def test_only_common_seeds_are_paired(made):
    plan, results = made
    make_run(plan, results, plan.run("arithmetic-llama-7b-lora-r32-s1"), failed="no memory")
    tested = separation(Results(plan, results))
    claim = next(
        row.gain for row in tested.references if (row.gain.cell.model, row.gain.task) == ("llama-7b", "AddSub")
    )
    assert (claim.seeds, claim.pairs) == (2, 80)
    pairs = {(row.a.method, row.b.method): row.pairs for row in tested.differences if row.column == "AddSub"}
    assert pairs["lora", "dora"] == 80 and pairs["dora", "sbora-fa"] == 120


def test_nothing_scored_separates_nothing(tmp_path):
    plan = make_plan(tmp_path, experiment(seeds=(0,)))
    assert separation(Results(plan, tmp_path / "results")) == Separation([], [], [], [])
