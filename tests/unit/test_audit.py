"""The audit finds what doesn't add up, in the paper's tables and in ours, and nothing else."""

import random
from dataclasses import replace

import pytest

from sbora_bench import audit

SIZES = {  # hidden, intermediate, key-value width, layers
    "LLaMA-7B": (4096, 11008, 4096, 32),
    "LLaMA-13B": (5120, 13824, 5120, 40),
    "LLaMA3-8B": (4096, 14336, 1024, 32),
}


def by_formula(table, model, method, rank):
    """Trained parameters by the closed formula: rank x sum of the widths of the adapted layers."""
    h, i, kv, layers = SIZES[model]
    outputs, inputs = (3 * h + 2 * kv + 2 * i, 6 * h + i) if table == "qsbora_mmlu" else (2 * h + 2 * kv + i, 4 * h + i)
    fa, fb = rank * outputs * layers, rank * inputs * layers
    methods = {"SBoRA-FA": fa, "SBoRA-FB": fb, "LoRA": fa + fb, "DoRA": fa + fb + outputs * layers}
    return methods[method.removeprefix("Q")]


@pytest.fixture(scope="module")
def rows():
    return audit.read_rows()


@pytest.fixture(scope="module")
def findings(rows):
    return audit.audit(rows, by_formula, lambda claim: 0.9)


def of(findings, verdict, part=""):
    return [f for f in findings if f.verdict == verdict and part in f.about]


def test_the_wrong_average_is_found_and_no_other(findings):
    (wrong,) = of(findings, "disagrees", ": Average") + of(findings, "disagrees", ": Mean")
    assert (wrong.claim, wrong.recomputed) == ("64.9", "69.05")
    assert len(of(findings, "agrees", ": Average")) == 31


def test_the_wrong_count_is_found_with_the_cell_it_belongs_to(findings):
    (wrong,) = of(findings, "disagrees", ": parameters")
    assert (wrong.claim, wrong.recomputed) == ("57.4M", "56,975,360")
    assert "LLaMA3-8B DoRA 32" in wrong.how


def test_the_twelve_halved_counts_and_the_rank_behind_them(findings):
    assert len(of(findings, "halved", ": parameters")) == 12
    (rank,) = of(findings, "halved", "rank")
    assert rank.recomputed == "r=64, counts halved"
    assert "r=32: 9" in rank.how, "the magnitude vectors tell the ranks apart"


def test_equal_rank_comparisons(findings):
    behind = {f.about.partition(": ")[2] for f in of(findings, "disagrees", "leads-fa")}
    assert behind == {f"{suite}, LLaMA-7B, SBoRA-FA r=32" for suite in ("commonsense", "arithmetic")}


def test_claims_in_words(findings):
    assert {f.about for f in of(findings, "agrees") if "gain" in f.about} == {
        "commonsense-gain",
        "mmlu-gain-13b",
        "mmlu-gain-8b",
    }
    (arithmetic,) = of(findings, "disagrees", "arithmetic-gain")
    assert "over DoRA" in arithmetic.how
    assert {"single-runs", "unseeded", "leakage"} <= {f.about for f in of(findings, "open")}


@pytest.mark.parametrize("seed", range(3))
def test_altered_cells_are_found(rows, findings, seed):
    """20 averages or counts, drawn at random, moved by more than rounding can excuse."""
    draw = random.Random(seed)
    averages = [n for n, row in enumerate(rows) if row.metric in audit.AVERAGES]
    counts = [n for n, row in enumerate(rows) if row.metric in ("BoolQ", "MultiArith", "Alpaca")]
    lines = audit.cells_of(rows)
    known = {f.about for f in findings if f.verdict in ("disagrees", "halved")}
    altered, expected = list(rows), set()
    for number in draw.sample(averages + counts, 20):
        row = altered[number]
        by = draw.choice([-1, 1]) * draw.uniform(3, 9)
        if number in averages:
            unit = 2 * audit.half_unit(row.value)
            decimals = len(row.value.partition(".")[2])
            altered[number] = replace(row, value=f"{float(row.value) + by * unit:.{decimals}f}")
            expected.add(f"{row.name}: {row.metric}")
        else:
            key = (row.table, row.model, row.method, row.rank)
            millions = f"{float(row.millions) + by / 10:.1f}"
            altered = [replace(r, millions=millions) if r in lines[key] else r for r in altered]
            expected.add(f"{row.name}: parameters")
    found = audit.audit(altered, by_formula, None)
    wrong = {f.about for f in found if f.verdict in ("disagrees", "halved")}
    assert expected - known <= wrong


def test_an_altered_cell_moves_its_average(rows):
    number = next(n for n, row in enumerate(rows) if row.metric == "PIQA")
    altered = [replace(row, value="12.0") if n == number else row for n, row in enumerate(rows)]
    found = audit.audit(altered, by_formula, None)
    assert any(f.verdict == "disagrees" and f.about == f"{rows[number].name}: Average" for f in found)


def test_our_own_tables(tmp_path):
    header = "model,method,rank,A,A sd,A seeds,B,B sd,B seeds,Average,Average sd,Average seeds\n"
    good, bad, short = (
        "m,x,1,10.0,,3,20.0,,3,15.0,,3\n",
        "m,y,1,10.0,,3,20.0,,3,16.0,,3\n",
        "m,z,1,10.0,,2,20.0,,3,9.0,,2\n",
    )
    (tmp_path / "t.csv").write_text(header + good + bad + short)
    assert [(f.about, f.verdict) for f in audit.own_tables(tmp_path)] == [
        ("t.csv: m x 1", "agrees"),
        ("t.csv: m y 1", "disagrees"),
    ]


def test_output(findings, tmp_path):
    text = audit.as_text(findings)
    assert "64.9" in text and text.splitlines()[-1].startswith("agrees:")
    audit.write(findings, tmp_path)
    kinds = ("json", "md", "csv", "tex", "html")
    assert {path.name for path in tmp_path.iterdir()} == {f"audit.{kind}" for kind in kinds}
