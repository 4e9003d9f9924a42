"""What the tests say of pairs of methods, in words: the one place where verdicts become prose."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from sbora_bench.analysis.judged import Judgement, judgements
from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.separation import Separation
from sbora_bench.analysis.sequential import Verdict
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import GOLD_LOSS
from sbora_bench.plan.titles import model_title, ranked_title
from sbora_bench.report.view import table_title
from sbora_bench.results.read import Results

ARROWS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?"}
RATE_MARKS = {"lowest": "†", "highest": "‡"}  # after a method whose learning rate was picked at that end
EQUAL = {"rank": " at equal rank", "parameters": " at equal parameters", "neither": ""}


def measured(judgement: Judgement) -> str:
    """What a planned comparison is measured in."""
    metric = judgement.planned.metric
    unit = "points" if metric.is_share else metric.unit
    name = judgement.planned.metric_name.replace("_", " ")
    return ", ".join(part for part in (name, unit, "" if metric.higher_is_better else "less is better") if part)


MORE_DIGITS = 3


def interval_text(judgement: Judgement) -> str:
    """`+1.0 [−0.6, 2.5]`; what is not known is left out. With as many digits more, up to `MORE_DIGITS`, as tell an end
    from 0 and from the margin, by which the verdict goes: `[0.0003, 0.0480]` leaves out 0.
    """
    difference, low, high = judgement.shown
    if difference is None:
        return "–"
    metric = judgement.planned.metric
    margin = metric.scale * judgement.planned.margin
    pairs = [(end, limit) for end in (low, high) if end is not None for limit in (0.0, margin, -margin)]
    digits = next(
        (
            digits
            for digits in range(metric.digits, metric.digits + MORE_DIGITS)
            if not any(end != limit and round(end, digits) == round(limit, digits) for end, limit in pairs)
        ),
        metric.digits + MORE_DIGITS,
    )
    text = f"{difference:+z.{digits}f}"
    text += "" if low is None or high is None else f" [{low:z.{digits}f}, {high:z.{digits}f}]"
    return text.replace("-", "−")


@dataclass(frozen=True)
class Said:
    """A planned comparison's verdict and its sentence."""

    verdict: str
    sentence: str


@dataclass(frozen=True)
class Verdicts:
    """The sentences on comparisons of a table and model that are measured alike, and what they are measured in."""

    heading: str
    said: list[Said]

    def part(self, decided: bool) -> "Verdicts":
        """The decided ones alone, or the others."""
        undecided = Verdict.UNDECIDED.value
        return Verdicts(self.heading, [one for one in self.said if (one.verdict != undecided) == decided])


def verdict_sentence(results: Results, judgement: Judgement) -> str:
    """What was found of a planned comparison, in a sentence: the numbers in the unit of its heading."""
    plan, planned, decision = results.plan, judgement.planned, judgement.decision
    ends = judgement.rate_ends
    a, b = (ranked_title(plan, cell) + RATE_MARKS.get(ends.get(cell, ""), "") for cell in planned.cells)
    finding = {
        Verdict.BETTER: f"{a} is better than {b}{EQUAL[planned.equal]}",
        Verdict.WORSE: f"{a} is worse than {b}{EQUAL[planned.equal]}",
        Verdict.EQUIVALENT: f"{a} and {b}{EQUAL[planned.equal]} are equivalent",
        Verdict.UNDECIDED: f"{a} against {b}{EQUAL[planned.equal]} is undecided",
    }
    remarks = "".join(f"; {remark}" for remark in remarks_on(judgement))
    return f"{finding[decision.verdict]}: {interval_text(judgement)}{remarks}."


def remarks_on(judgement: Judgement) -> list[str]:
    """What a reader of a verdict should know of it: that it matters, or rests on fewer seeds."""
    run, of = judgement.seeds_run, judgement.seeds_planned
    remarks = ["by more than the margin"] if judgement.beyond_margin else []
    if judgement.stopped_early:
        remarks.append(f"stopped after {run} of {of} seeds")
    elif run < of:
        remarks.append(f"{run} of {of} seeds so far")
    if judgement.failed:
        remarks.append(f"{judgement.failed} of {run} seeds failed")
    return remarks


def verdict_remarks(results: Results) -> list[str]:
    """What all the sentences have in common, said once: their intervals, early stops, the marks of rates at an end."""
    judged = judgements(results)
    remarks = []
    if judged:
        remarks.append(
            "Each number is the first method's mean less the second's, with its interval in brackets; a table's"
            " intervals hold all together, at 95 %. Better and worse: the interval leaves out 0, however small the"
            " difference; equivalent: it lies within the margin, a difference that doesn't matter."
        )
    if any(one.planned.metric_name == GOLD_LOSS for one in judged):
        remarks.append(
            "Gold loss: the loss of the right answer. Where the figures and the ranking have another score, a verdict"
            " may differ by that."
        )
    if any(one.stopped_early for one in judged):
        remarks.append("Stopped before all seeds: the mean leans away from 0; its interval allows for that.")
    at_ends = {end for one in judged for end in one.rate_ends.values()}
    marks = [f"{mark} at the {end} learning rate tried" for end, mark in RATE_MARKS.items() if end in at_ends]
    if marks:
        remarks.append(f"{', '.join(marks)}: a better one may lie beyond, so the method may do better.")
    return remarks


def decided_otherwise(plan: Plan, tables: Iterable[str]) -> list[str]:
    """What to note beside scores by which the planned comparisons of their tables are not decided; nothing where they
    are."""
    for table in tables:
        by_loss = any(planned.metric_name == GOLD_LOSS for planned in plan.comparisons(table))
        if by_loss and any(plan.metric(table, task).is_share for task in plan.tasks(table)):
            return ["The planned comparisons are decided by the gold loss, not by this score."]
    return []


def verdict_sentences(results: Results) -> list[Verdicts]:
    """Of each planned comparison the verdict and its sentence, under what it is of and measured in."""
    plan = results.plan
    groups: dict[str, list[Said]] = {}
    for one in judgements(results):
        planned = one.planned
        where = f"{table_title(plan, planned.table)}, {model_title(plan, planned)}"
        margin = f"margin {planned.metric.text(planned.margin)}"
        most = "up to " if plan.experiment.tables[planned.table].looks else ""
        heading = f"{where}: {measured(one)}; {margin}, {most}{one.seeds_planned} seeds"
        groups.setdefault(heading, []).append(Said(one.decision.verdict.value, verdict_sentence(results, one)))
    return [Verdicts(heading, lines) for heading, lines in groups.items()]


def outcome_text(pair: Pair) -> str:
    """`better` or `worse` of the first cell, or that no difference is shown; with one seed none can be."""
    return pair.outcome.value + ("" if pair.p_both is not None else "; one seed")


def verdict_summary(results: Results) -> str:
    """How many planned comparisons are decided, and how: `3 of 25 planned comparisons are decided: the first method is
    better in 1, equivalent in 2. ...`.
    """
    verdicts = [judgement.decision.verdict for judgement in judgements(results)]
    counts = {verdict: verdicts.count(verdict) for verdict in Verdict if verdict is not Verdict.UNDECIDED}
    counted = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
    decided = sum(counts.values())
    summary = f"{decided} of {len(verdicts)} planned comparisons are decided" + (
        f": the first method is {counted}." if counted else "."
    )
    apart = counts[Verdict.BETTER] + counts[Verdict.WORSE]
    beyond = sum(one.beyond_margin for one in judgements(results))
    verb = "is" if beyond == 1 else "are"
    size = f" Of the {apart} better or worse, {beyond or 'none'} {verb} shown to be so by more than the margin."
    return summary + (size if apart else "")


OF_PAIR = ("table", "model", "seeds", "sd", "low", "high", "p_both")  # what a pair knows beside its fields


def pair_values(pair: Pair) -> dict[str, Any]:
    """Column of a file of pairs -> its value."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    values |= {name: getattr(pair, name) for name in OF_PAIR}
    values |= {"task": pair.column, "measure": pair.column}
    for side, cell in (("a", pair.a), ("b", pair.b)):
        values |= {f"method_{side}": cell.method, f"rank_{side}": cell.rank}
    return values | {"q_both": pair.q_both, "word": outcome_text(pair)}


def outcome_of_methods(tested: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(pair.table for pair in tested.differences)
    pairs = [pair for table in tables for pair in tested.method_pairs(table)]
    if not pairs:
        return ""
    differ, shown = sum(pair.differs for pair in pairs), sum(pair.shown for pair in pairs)
    opening = (
        f"Not planned, so exploratory: of {len(pairs)} pairs of methods at equal rank or parameters, {differ} differ"
    )
    if all(pair.p_both is None for pair in pairs):
        return f"{opening} as trained here; one seed can't show that others would."
    return f"{opening} as trained here and {shown} with other seeds and items too (of those shown 5 % may be false)."
