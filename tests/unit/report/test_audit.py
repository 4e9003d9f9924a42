"""The audit finds what doesn't add up, in the paper's tables and in ours, and nothing else."""

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from sbora_bench.report import audit
from sbora_bench.report.render import markdown
from sbora_bench.results.paper.reported import SUITE_OF, Reported, read_reported
from tests.factories import paper


def by_formula(table, model, method, rank):
    return paper.trained_parameters(table, model.lower(), method.lower(), rank)


@pytest.fixture(scope="module")
def rows():
    return read_reported()


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


def inexcusable(rows):
    """What no rounding explains, by exact fractions: averages that no unrounded cells have, counts that are wrong."""
    wrong, lines = set(), {}
    for row in rows:
        lines.setdefault((row.table, row.model, row.method, row.rank), {})[row.metric] = row
    unit = {
        table: Fraction(10) ** -max(len(row.printed.partition(".")[2]) for row in rows if row.table == table)
        for table in {row.table for row in rows}
    }
    for (table, model, method, rank), line in lines.items():
        metric = next((name for name in audit.AVERAGES if name in line), None)
        if metric:
            cells = [Fraction(row.printed) for name, row in line.items() if name != metric]
            off = abs(sum(cells) / len(cells) - Fraction(line[metric].printed))
            if off > unit[table]:  # half of it for the cells' rounding, half for the average's
                wrong.add(f"{line[metric].name}: {metric}")
        row = next(iter(line.values()))
        if row.millions and table in SUITE_OF:
            off = abs(Fraction(by_formula(table, model, method, rank or 64), 10**6) - Fraction(row.millions))
            if off > Fraction(1, 2) * Fraction(10) ** -len(row.millions.partition(".")[2]):
                wrong.add(f"{row.name}: parameters")
    return wrong


@pytest.mark.parametrize("seed", range(5))
def test_altered_cells_are_found(rows, seed):
    """20 numbers, drawn from all that can be recomputed, moved by a little or by much: found, and nothing else."""
    draw, altered = random.Random(seed), list(rows)
    numbers = [(n, "printed") for n, row in enumerate(rows) if row.table != "qsbora_mmlu"]  # no averages there
    lines = audit.printed_lines(rows)
    numbers += [(rows.index(line[0]), "millions") for key, line in lines.items() if key[0] in SUITE_OF]
    for number, key in draw.sample(numbers, 20):
        row, text = rows[number], getattr(rows[number], key)
        decimals = len(text.partition(".")[2])
        moved = float(text) + draw.choice([-1, 1]) * max(1, round(draw.expovariate(1 / 12))) * 10.0**-decimals
        same = [n for n, other in enumerate(rows) if n == number or key == "millions" and other.name == row.name]
        for n in same:  # a count stands in each row of its line
            altered[n] = replace(altered[n], **{key: f"{moved:.{decimals}f}"})
    expected = inexcusable(altered)
    assert len(expected - inexcusable(rows)) > 8, "most alterations are more than rounding"
    audited = audit.audit(altered, by_formula, None)
    assert expected == {
        f.about
        for f in audited
        if f.verdict in ("disagrees", "halved") and f.about.endswith(("parameters", *audit.AVERAGES))
    }


def test_an_altered_cell_moves_its_average(rows):
    number = next(n for n, row in enumerate(rows) if row.metric == "PIQA")
    altered = [replace(row, printed="12.0") if n == number else row for n, row in enumerate(rows)]
    audited = audit.audit(altered, by_formula, None)
    assert any(f.verdict == "disagrees" and f.about == f"{rows[number].name}: Average" for f in audited)


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


def test_a_summary_has_a_line_a_claim(findings):
    lines = {row[0].text: row[1:] for row in audit.summary_table(findings).groups[0]}
    wrong, checked, agree = lines["Averages"]
    assert (checked.text, agree.text) == ("42", "41") and wrong.text.endswith("SBoRA-FB r=32: 64.9, found 69.05")
    wrong, checked, agree = lines["Trained parameters"]
    assert (checked.text, agree.text) == ("44", "31") and "12 are half of the count" in (wrong.text, *wrong.below)
    assert sum(int(checked.text) for _, checked, _ in lines.values()) == len(findings)


def test_the_published_summary_is_todays(findings):
    """But for the line of the memory claim, whose trace takes its time."""
    published = Path(__file__).parents[3] / "results" / "published" / "paper-audit.md"
    texts = published.read_text(encoding="utf-8"), markdown(audit.summary_table(findings))
    old, new = ([line for line in text.splitlines() if "memory" not in line] for text in texts)
    assert old == new and len(old) > 20


@pytest.mark.parametrize("bits", [-1e-13, 1e-13])
def test_the_last_bits_of_a_sum_are_not_printed(rows, findings, monkeypatch, bits):
    """Python 3.12 adds up floats otherwise than 3.11: a difference of -0.275 is -0.28 by both."""
    value = property(lambda row: float(row.printed) + bits * row.method.startswith("SBoRA"))
    monkeypatch.setattr(Reported, "value", value)
    assert audit.audit(rows, by_formula, lambda claim: 0.9) == findings


def test_output(findings, tmp_path):
    text = audit.as_text(findings)
    assert "64.9" in text and text.splitlines()[-1].startswith("agrees:")
    audit.write_findings(findings, tmp_path)
    kinds = ("json", "md", "csv", "tex", "html")
    assert {path.name for path in tmp_path.iterdir()} == {f"audit.{kind}" for kind in kinds}
