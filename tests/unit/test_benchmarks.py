"""What the benchmarks count, and that their published tables are drawn from the figures beside them."""

import importlib.util
import json
import random
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from sbora_bench.report.render import markdown
from tests.factories import toy_runs
from tests.factories.shipped import ROOT

PUBLISHED = ROOT / "results" / "published"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_peft_s_table_follows_from_what_is_stored():
    rows = json.loads((PUBLISHED / "peft-gpu.json").read_text())
    page = benchmark("peft_gpu_results").page(rows)
    assert page == (PUBLISHED / "peft-gpu.md").read_text() and len(rows) == 63


def test_scoring_s_table_follows_from_what_is_stored():
    record = json.loads((PUBLISHED / "scoring-cpu.json").read_text())
    assert markdown(benchmark("scoring").table(record)) == (PUBLISHED / "scoring-cpu.md").read_text()


def test_tokens_are_counted_of_both_ways():
    scoring = benchmark("scoring")
    shots = " ".join(["red blue cat dog"] * 6)
    part = [(f"{shots} {word}", f" {letter}") for word in ("house", "is") for letter in "ABC"]
    scorers = scoring.scorers_of(toy_runs.model(), toy_runs.tokenizer(), 4)
    of = scoring.compared(scorers, [part], float("inf"), random.Random(0))
    prompt = 1 + 24 + 1
    tokens = {"item by item": 2 * prompt, "shared prefixes": prompt + 1}
    assert of["same_choices"] and of["tokens"] == tokens
    record = {"tasks": {"t": of}, "settings": {"dtype": "d", "threads": 1, "batch": 4}, "hardware": {"cpu": "c"}}
    assert "| {} | {} |".format(*tokens.values()) in markdown(scoring.table(record))


def test_some_questions_item_by_item_stand_for_all_of_their_subject():
    scoring = benchmark("scoring")
    shots = " ".join(["red blue cat dog"] * 6)
    part = [(f"{shots} {word}", f" {letter}") for word in ("house", "is", "cat", "dog") for letter in "ABC"]
    scorers, draw = scoring.scorers_of(toy_runs.model(), toy_runs.tokenizer(), 4), random.Random(0)
    whole, some = (scoring.compared(scorers, [part] * 4, float("inf"), draw, count) for count in (None, 2))
    assert (whole["requests"], whole["item_by_item"], some["requests"], some["item_by_item"]) == (48, 48, 48, 24)
    assert some["tokens"] == whole["tokens"] and some["same_choices"] and some["interval"]
    record = {"tasks": {"t": some}, "settings": {"dtype": "d", "threads": 1, "batch": 4}, "hardware": {"cpu": "c"}}
    printed = markdown(scoring.table(record))
    assert "| 48; 24 item by item |" in printed and "given for all of them" in printed
    assert len({prompt for prompt, _ in scoring.drawn(part, 3, draw)}) == 3 and scoring.drawn(part, 9, draw) == part


def test_a_moderated_variance_is_right_where_limma_s_distribution_holds():
    """Of many comparisons whose variances are scaled inverse chi-square; and of equal variances it is their mean."""
    errors, rng, seeds, prior = benchmark("errors"), np.random.default_rng(0), 4, 8
    spreads = np.sqrt(prior / rng.chisquare(prior, (400, 200)))[..., None]
    values = spreads * rng.normal(size=(400, 200, seeds))
    variances, degrees = errors.moderated(values.var(axis=-1, ddof=1), seeds - 1)
    assert np.median(degrees) == pytest.approx(prior + seeds - 1, rel=0.1)
    p = 2 * stats.t.sf(np.abs(values.mean(axis=-1)) / np.sqrt(variances / seeds), degrees)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.003)
    same, degrees = errors.moderated(np.full((1, 5), 2.0), seeds - 1)
    assert np.ptp(same) == pytest.approx(0, abs=1e-4) and degrees == 5 * (seeds - 1)


def test_the_published_errors_are_of_all_comparisons_of_the_published_ladder():
    published = json.loads((PUBLISHED / "errors-cpu.json").read_text())
    spreads = benchmark("errors").ladder_spreads()
    assert {row["table"]: row["comparisons"] for row in published["variances shared"]} == {
        table: len(of_table) for table, of_table in spreads.items()
    }
