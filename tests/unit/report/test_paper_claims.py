"""Verdicts on the paper's claims: of the reported numbers, and of made results."""

import pytest
from scipy import stats

from sbora_bench.analysis.estimate import Estimate
from sbora_bench.analysis.pairs import Outcome, Pair
from sbora_bench.analysis.separation import separation
from sbora_bench.plan.metric import SHARE
from sbora_bench.plan.runs import Cell
from sbora_bench.report import paper_claims
from sbora_bench.report.audit import Agreement, Finding
from sbora_bench.results.paper.reported import claims
from sbora_bench.results.read import Results
from tests.factories.made_results import make_experiment

ALL = {claim["id"]: claim for claim in claims()}
GAIN = ALL["arithmetic-gain"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    plan, results = make_experiment(folder)
    return plan, results, separation(Results(plan, results))


def test_every_claim_has_its_verdicts(made):
    plan, results, tested = made
    shown = paper_claims.printed_claims(Results(plan, results), tested, [])
    lines = {line[0].text: [cell.text for cell in line[2:]] for line in shown.groups[0]}
    assert list(lines) == [claim["text"] for claim in ALL.values()]
    assert {verdict for line in lines.values() for verdict in line[1:2]} <= {
        "holds",
        "does not",
        "can't be told",
        "never run",
    }
    # SBoRA-FA loses at equal rank, and wins 2.5 points at equal parameters
    gain_cells = lines[GAIN["text"]]
    assert gain_cells[1] == "does not" and "SBoRA-FA r = 32 over LoRA r = 32 -15.0" in gain_cells[2]
    assert "SBoRA-FA r = 64 over LoRA r = 32 +2.5" in gain_cells[2]
    assert lines[ALL["commonsense-gain"]["text"]][1] == "never run"
    assert lines[ALL["mmlu-gain-13b"]["text"]][1] == "never run"
    assert lines[ALL["leads-fa"]["text"]][1] == "does not" and "r = 64" not in lines[ALL["leads-fa"]["text"]][2]
    assert lines[ALL["half-the-parameters-fa"]["text"]][1:] == ["holds", "LLaMA-7B: 0.500 at ranks 32 and 32"]
    assert lines[ALL["double-the-rank-fa"]["text"]][1:] == ["holds", "LLaMA-7B: 1.000 at ranks 64 and 32"]
    assert lines[ALL["half-the-memory"]["text"]][1] == "never run"  # no peak was estimated
    assert lines[ALL["single-runs"]["text"]] == [
        f"can't be told: {ALL['single-runs']['why']}",
        "can't be told",
        "–",
    ]


def test_reported_numbers_decide_without_counts():
    assert paper_claims.reported(ALL["mmlu-gain-13b"], []) == "holds"
    assert paper_claims.reported(GAIN, []) == "does not"  # it is a gain over DoRA
    assert paper_claims.reported(ALL["leads-fa"], []).startswith("does not (agrees in ")
    assert paper_claims.reported(ALL["half-the-memory"], []) == "can't be told"


def test_the_audits_findings_decide_where_they_are():
    def findings(*verdicts):
        named = [(f"{GAIN['id']}: model {i}", verdict) for i, verdict in enumerate(verdicts)]
        return [Finding(name, "", "", "", Agreement(verdict)) for name, verdict in named]

    assert paper_claims.reported(GAIN, findings("agrees", "agrees")) == "holds"
    assert paper_claims.reported(GAIN, findings("agrees", "disagrees")) == "does not (agrees in 1 of 2)"
    assert paper_claims.reported(GAIN, findings("agrees", "open")) == "can't be told"
    of_another = Finding("arithmetic-gain-of-others", "", "", "", Agreement.AGREES)
    assert paper_claims.reported(GAIN, [of_another]) == "does not"


def gain(outcome, difference, low=None, high=None):
    """A pair's verdict on the claim of 2.8 points, with this 95 % interval."""
    a, b = (Cell("arithmetic", "llama-7b", *names) for names in (("sbora-fa", 64), ("lora", 32)))
    error = None if low is None else (high - low) / 2 / stats.t.ppf(0.975, 40)
    over = Estimate(1 if low is None else 3, difference, 0.01, error, ((1.0, 40.0),))
    scores = 0.5, 0.5 - difference, difference
    return Pair(
        a, b, "parameters", 1.0, SHARE, *scores, 0.5, over, None, pairs=300, tasks=1, items=100, outcome=outcome
    )


def verdicts(made, *pairs):
    return [verdict for verdict, _ in paper_claims._differences(made[0], GAIN, list(pairs))]


def test_a_gain_of_a_size(made):
    assert verdicts(made, gain(Outcome.BETTER, 0.03, 0.01, 0.05)) == ["holds"]
    assert verdicts(made, gain(Outcome.BETTER, 0.01, 0.005, 0.015)) == ["does not"]  # 2.8 points are out of reach
    assert verdicts(made, gain(Outcome.WORSE, -0.03, -0.05, -0.01)) == ["does not"]
    assert verdicts(made, gain(Outcome.NOT_SHOWN, 0.01, -0.1, 0.12)) == ["can't be told"]
    assert verdicts(made, gain(Outcome.NOT_SHOWN, 0.05)) == ["can't be told"]


def test_a_claim_is_refuted_by_corrected_tests_alone(made):
    below = gain(Outcome.NOT_SHOWN, 0.003, -0.0225, 0.0285)  # one-sided p 0.028 of its being 2.8 points
    as_claimed = [gain(Outcome.BETTER, 0.03, 0.01, 0.05)] * 3
    assert verdicts(made, below) == ["does not"]
    assert verdicts(made, below, *as_claimed) == ["can't be told", "holds", "holds", "holds"]


def test_several_verdicts_are_one():
    assert paper_claims.together([]) == ("never run", "–")
    assert paper_claims.together([("holds", "a"), ("can't be told", "b")]) == ("can't be told", "a; b")
    assert paper_claims.together([("holds", "a"), ("does not", "b"), ("can't be told", "c")])[0] == "does not"
    assert paper_claims.together([("holds", "a"), ("holds", "a")]) == ("holds", "a")
