"""The paper's claims (`paper/claims.yaml`), each with a verdict on the reported numbers and on this experiment's.

On the reported numbers by the audit's findings; on ours by the tests of pairs at equal rank or equal parameters, and by
counts. A claimed gain holds where the difference is shown and may be as large as claimed; it does not where the
opposite is shown, or the difference is shown to be smaller: over seeds and items, Holm over a claim's pairs.
"""

import itertools
from collections.abc import Iterable
from typing import Any

from sbora_bench.analysis.collect import footprint_rows
from sbora_bench.analysis.pairs import Outcome, Pair
from sbora_bench.analysis.separation import Separation
from sbora_bench.analysis.statistics import LEVEL, holm
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_title, ranked_title
from sbora_bench.report.audit import Agreement, Finding, gain, leads
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.results.paper.reported import AVERAGE, SUITE_OF, claims, plain, read_reported
from sbora_bench.results.read import Results

HOLDS, NOT, UNCLEAR, NEVER = "holds", "does not", "can't be told", "never run"
NO_COUNTS = {"gain": gain, "leads": leads}  # kinds that the printed scores alone decide
Judged = tuple[str, str]  # a verdict, and what it rests on


def printed_claims(results: Results, tested: Separation, findings: list[Finding]) -> PrintedTable:
    """A row a claim."""
    plan, footprints = results.plan, footprint_rows(results)
    lines = []
    for claim in claims():
        ours_text, evidence = ours(plan, claim, tested, footprints)
        printed = reported(claim, findings) + (f": {claim['why']}" if "why" in claim else "")
        texts = [claim["text"], claim["source"], printed, ours_text, evidence]
        lines.append([Text(text) for text in texts])
    notes = [
        "On the reported numbers: as the audit recomputes them. On ours: on this experiment's models and items, which"
        " may be others than the paper's; points with 95 % intervals over seeds and items. Never run: no cell of this"
        " experiment compares the two."
    ]
    header = ["Claim", "Source", "On the reported numbers", "On ours", "What ours rests on"]
    return PrintedTable("claims", "What is claimed", header, [lines], notes, text_columns=5)


def reported(claim: dict[str, Any], findings: Iterable[Finding]) -> str:
    """The verdict of the audit's findings about a claim; with how many agree where they don't all."""
    of_claim = [f for f in findings if f.about == claim["id"] or f.about.startswith(claim["id"] + ":")]
    if not of_claim and claim["kind"] in NO_COUNTS:  # not every experiment's audit is of the paper
        of_claim = list(NO_COUNTS[claim["kind"]](claim, read_reported(), lambda *_: 0))
    verdicts = [finding.verdict for finding in of_claim]
    agreeing = verdicts.count(Agreement.AGREES)
    if Agreement.DISAGREES in verdicts:
        return NOT if not agreeing else f"{NOT} (agrees in {agreeing} of {len(verdicts)})"
    return HOLDS if verdicts and agreeing == len(verdicts) else UNCLEAR


def ours(plan: Plan, claim: dict[str, Any], tested: Separation, footprints: list[dict[str, Any]]) -> Judged:
    """The verdict of this experiment, and what it rests on."""
    if claim["kind"] in ("gain", "leads"):
        return together(_differences(plan, claim, list(_pairs(plan, claim, tested))))
    if claim["kind"] == "ratio":
        return together(list(_ratios(plan, claim, footprints)))
    if claim["kind"] == "memory":
        return together(list(_memory(plan, claim, footprints)))
    return UNCLEAR, "–"


def together(parts: list[Judged]) -> Judged:
    """One verdict of several: a claim holds where it does everywhere, and does not where it fails anywhere."""
    verdicts = [verdict for verdict, _ in parts]
    evidence = "; ".join(dict.fromkeys(text for _, text in parts)) or "–"
    if not verdicts:
        return NEVER, evidence
    return (NOT if NOT in verdicts else UNCLEAR if UNCLEAR in verdicts else HOLDS), evidence


def _is(title: str, name: str) -> bool:
    return plain(title) == plain(name)


def _pairs(plan: Plan, claim: dict[str, Any], tested: Separation) -> Iterable[Pair]:
    """The tested pairs that a claim is about, the one that it favours first."""
    for name, table in plan.experiment.tables.items():
        if "table" in claim and table.suite != SUITE_OF[claim["table"]]:
            continue
        columns = (AVERAGE, table.title, table.train) if len(plan.tasks(name)) > 1 else (table.title, table.train)
        if "metric" in claim and not any(_is(column, claim["metric"]) for column in columns):
            continue
        for pair in tested.method_pairs(name):
            titles = [plan.catalog.methods[cell.method].title for cell in (pair.a, pair.b)]
            model = plan.catalog.models[pair.model].title
            if "rank" not in pair.equal and claim["kind"] == "leads":
                continue
            if not _is(claim.get("model", model), model):
                continue
            if _is(titles[0], claim["of"]) and _is(titles[1], claim["over"]):
                yield pair
            elif _is(titles[1], claim["of"]) and _is(titles[0], claim["over"]):
                yield pair.turned()


def _differences(plan: Plan, claim: dict[str, Any], pairs: list[Pair]) -> list[Judged]:
    """The verdict of each pair: refuted only after Holm over them all."""
    due = claim.get("claimed", 0.0) / 100
    above = [pair.over.p_above(due) if pair.seeds > 1 else None for pair in pairs]
    smaller = holm([1.0 if p is None else 1 - p for p in above])
    return [(_held(pair, p < LEVEL), _pair_text(plan, pair)) for pair, p in zip(pairs, smaller, strict=True)]


def _held(pair: Pair, refuted: bool) -> str:
    if refuted or pair.outcome is Outcome.WORSE:
        return NOT
    return HOLDS if pair.outcome is Outcome.BETTER else UNCLEAR


def _pair_text(plan: Plan, pair: Pair) -> str:
    names = [ranked_title(plan, cell) for cell in (pair.a, pair.b)]
    text = f"{pair.table}, {model_title(plan, pair)}: {' over '.join(names)}"
    text += f" {100 * pair.difference:+.1f}"
    return text + ("" if pair.low is None or pair.high is None else f" [{100 * pair.low:.1f}, {100 * pair.high:.1f}]")


def _counted(plan: Plan, claim: dict[str, Any], footprints: list[dict[str, Any]]) -> Iterable[tuple[dict, dict]]:
    """Footprints of the claim's two methods in one table and model."""

    def by(name: str) -> list[dict[str, Any]]:
        methods = plan.catalog.methods
        return [row for row in footprints if row["method"] in methods and _is(methods[row["method"]].title, name)]

    for of, over in itertools.product(by(claim["of"]), by(claim["over"])):
        if (of["table"], of["model"]) == (over["table"], over["model"]):
            yield of, over


def _ratios(plan: Plan, claim: dict[str, Any], footprints: list[dict[str, Any]]) -> Iterable[Judged]:
    for of, over in _counted(plan, claim, footprints):
        if of["rank"] * claim["ranks"][1] == over["rank"] * claim["ranks"][0]:
            ratio = of["trainable_parameters"] / over["trainable_parameters"]
            holds = abs(ratio - claim["claimed"]) <= claim["within"] + 1e-9
            title = plan.catalog.models[of["model"]].title
            yield (HOLDS if holds else NOT), f"{title}: {ratio:.3f} at ranks {of['rank']} and {over['rank']}"


def _memory(plan: Plan, claim: dict[str, Any], footprints: list[dict[str, Any]]) -> Iterable[Judged]:
    for of, over in _counted(plan, claim, footprints):
        title = plan.catalog.models[of["model"]].title
        peak, other = of.get("peak_bytes"), over.get("peak_bytes")
        if _is(title, claim["model"]) and of["rank"] == over["rank"] == claim["rank"] and peak is not None and other:
            ratio = peak / other
            yield (HOLDS if ratio <= claim["claimed"] else NOT), f"{title}: {ratio:.3f}, estimated"
