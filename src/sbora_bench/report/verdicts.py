"""What the tests say of pairs of methods, in words: the one place where verdicts become prose."""

from dataclasses import fields
from typing import Any

from sbora_bench.analysis.judged import Judgement, judgements
from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.separation import Separation
from sbora_bench.analysis.sequential import Verdict
from sbora_bench.plan.titles import model_titles, ranked_title
from sbora_bench.report.view import table_title
from sbora_bench.results.read import Results

ARROWS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?"}
EQUAL = {"rank": " at equal rank", "parameters": " at equal trainable parameters", "neither": ""}


def measured(judgement: Judgement) -> str:
    """What a planned comparison is measured in."""
    metric = judgement.planned.metric
    unit = "points" if metric.is_share else metric.unit
    name = judgement.planned.metric_name.replace("_", " ")
    return ", ".join(part for part in (name, unit, "" if metric.higher_is_better else "less is better") if part)


def plain_number(judgement: Judgement, value: float) -> str:
    """A difference without its sign, as it is shown."""
    return f"{judgement.planned.metric.scale * value:.{judgement.planned.metric.digits}f}"


def interval_text(judgement: Judgement) -> str:
    """`+1.0 [−0.6, 2.5]`; what is not known is left out."""
    difference, low, high = judgement.shown
    if difference is None:
        return "–"
    digits = judgement.planned.metric.digits
    text = f"{difference:+z.{digits}f}"
    text += "" if low is None or high is None else f" [{low:z.{digits}f}, {high:z.{digits}f}]"
    return text.replace("-", "−")


def verdict_sentence(results: Results, judgement: Judgement) -> str:
    """What was found of a planned comparison, in a sentence."""
    plan, planned, decision = results.plan, judgement.planned, judgement.decision
    a, b = (ranked_title(plan, cell.table, cell.method, cell.rank) for cell in planned.cells)
    unit = "points" if planned.metric.is_share else planned.metric.unit
    where = f"{table_title(plan, planned.table)}, {model_titles(plan, planned.table)[planned.model]}"
    seeds = f"{decision.seeds} of {judgement.seeds_planned} seeds"
    seeds += f", {judgement.failed} more failed" if judgement.failed else ""
    numbers = f"{interval_text(judgement)} {unit}, {seeds}"
    within = f"{plain_number(judgement, planned.margin)} {unit}"
    finding = {
        Verdict.BETTER: f"{a} is better than {b}{EQUAL[planned.equal]}",
        Verdict.WORSE: f"{a} is worse than {b}{EQUAL[planned.equal]}",
        Verdict.EQUIVALENT: f"{a} and {b}{EQUAL[planned.equal]} are equivalent within {within}",
        Verdict.UNDECIDED: f"{a} against {b}{EQUAL[planned.equal]} is undecided",
    }
    return f"{where}: {finding[decision.verdict]} ({numbers})."


def verdict_sentences(results: Results) -> list[tuple[str, str]]:
    """Of each planned comparison the verdict and its sentence."""
    return [
        (judgement.decision.verdict.value, verdict_sentence(results, judgement)) for judgement in judgements(results)
    ]


def verdict_text(pair: Pair) -> str:
    """`better` or `worse` of the first cell, or that no difference is shown; with one seed none can be."""
    return pair.verdict.outcome.value + ("" if pair.p_both is not None else "; one seed")


def verdict_summary(results: Results) -> str:
    """How many planned comparisons are decided, and how: `3 of 25 planned comparisons are decided: 1 worse, ...`."""
    verdicts = [judgement.decision.verdict for judgement in judgements(results)]
    counts = {verdict: verdicts.count(verdict) for verdict in Verdict if verdict is not Verdict.UNDECIDED}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    decided = sum(counts.values())
    return f"{decided} of {len(verdicts)} planned comparisons are decided" + (f": {counted}." if counted else ".")


OF_PAIR = ("table", "model", "seeds", "sd", "low", "high", "p_both")  # what a pair knows beside its fields


def pair_values(pair: Pair) -> dict[str, Any]:
    """Column of a file of pairs -> its value."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    values |= {name: getattr(pair, name) for name in OF_PAIR}
    values |= {"task": pair.column, "measure": pair.column}
    for side, cell in (("a", pair.a), ("b", pair.b)):
        values |= {f"method_{side}": cell.method, f"rank_{side}": cell.rank}
    return values | {"q_both": pair.verdict.q, "word": verdict_text(pair)}


def verdict_on_methods(tested: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(pair.table for pair in tested.differences)
    pairs = [pair for table in tables for pair in tested.method_pairs(table)]
    if not pairs:
        return ""
    differ, shown = sum(pair.differs for pair in pairs), sum(pair.verdict.shown for pair in pairs)
    opening = (
        f"Not planned, so exploratory: of {len(pairs)} pairs of methods at equal rank or parameters, {differ} differ"
    )
    if all(pair.p_both is None for pair in pairs):
        return f"{opening} as trained here; one seed can't show that others would."
    return f"{opening} as trained here and {shown} with other seeds and items too (of those shown 5 % may be false)."
