"""What an experiment says, in sentences made from its tests: the first thing that a reader of the report sees."""

from sbora_bench.analysis.entries import Entry
from sbora_bench.analysis.pairs import Outcome
from sbora_bench.analysis.separation import Separation
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout, layouts
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.collected import entries_of, scores
from sbora_bench.report.counts import count_columns, differences_shown, references_shown
from sbora_bench.report.texts import signed
from sbora_bench.report.verdicts import outcome_of_methods
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

OURS = "SBORA"  # the PEFT type of the paper's methods


def conclusions(plan: Plan, tested: Separation) -> list[str]:
    """Three sentences: the paper's method against others, what all pairs of methods show, and whether tuning shows."""
    holds, columns = count_columns(references_shown(tested))
    differ, compared = count_columns(differences_shown(tested))
    tuning = (
        f"LoRA at its top rank is shown to beat both the untuned base and the most frequent answer by more than ten"
        f" points on {holds} of {columns} columns (one-sided, over seeds and items, 1 % of all columns together);"
        f" methods or ranks differ, as trained here, on {differ} of the {compared} columns where several were run."
    )
    return [
        sentence for sentence in (ours_against_others(plan, tested), outcome_of_methods(tested), tuning) if sentence
    ]


def ours_against_others(plan: Plan, tested: Separation) -> str:
    """How SBoRA's pairs with other methods, at equal rank or equal parameters, came out; empty where there is none."""

    def ours(method: str) -> bool:
        return plan.catalog.methods[method].peft_type == OURS

    pairs = [
        pair.turned() if ours(pair.b.method) else pair
        for table in plan.experiment.tables
        for pair in tested.method_pairs(table)
        if ours(pair.a.method) != ours(pair.b.method)
    ]
    if not pairs:
        return ""
    outcomes = [pair.outcome for pair in pairs]
    better, worse, same = (outcomes.count(outcome) for outcome in Outcome)
    points = [100 * pair.difference for pair in pairs if pair.metric.is_share]
    ranging = f"; as measured it lies {signed(min(points))} to {signed(max(points))} points from them" if points else ""
    return (
        "Exploratory, by the tables' own scores: SBoRA against other methods at equal rank or equal"
        f" trainable parameters is better in {better}, worse in {worse} and no difference is shown in {same} of"
        f" {len(pairs)} pairs, taking items and seeds together{ranging}."
    )


def highest_scores(results: Results) -> list[str]:
    """The highest score of every table, which no test has to confirm, and how many runs have none."""
    plan, frame, sentences = results.plan, scores(results), []
    for layout in layouts(plan):
        names = [AVERAGE.lower()] if layout.averaged else [column.title for column in layout.columns]
        cells = entries_of(results, layout)
        for place, name in enumerate(names, start=-1 if layout.averaged else 0):
            if any("micro" in entries[place].beside for entries in cells.values()):
                name += " (mean over subjects)"
            sentences.append(f"{layout.title}: {_highest(plan, layout, cells, place, name)}")
    failed = frame[frame.status.isin(["failed", "not run"])].run.nunique()
    missing = f"{failed} of {len(plan.runs)} runs have no score: they failed or were not run."
    return sentences + ([missing] if failed else [])


def _highest(plan: Plan, layout: Layout, cells: dict[Cell, list[Entry]], place: int, name: str) -> str:
    scored = {row: entries[place] for row, entries in cells.items() if entries[place].summary is not None}
    means = ((row, entry.rounded) for row, entry in scored.items() if not row.is_base)
    tuned = {row: mean for row, mean in means if mean is not None}
    if not tuned:
        return f"no tuned run has a score ({name})."
    metric = next(iter(scored.values())).metric
    top = max(tuned.values()) if metric.higher_is_better else min(tuned.values())
    best = [row for row, mean in tuned.items() if mean == top]
    who = [_at_rank(plan, layout, row) for row in best]
    base = next((row for row in scored if row.is_base and row.model == best[0].model), None)
    unit = f" {metric.shown_unit}" if metric.shown_unit else ""
    untuned = f" (untuned: {scored[base].text}{unit})" if base else ""
    word = "highest" if metric.higher_is_better else "lowest"
    return f"the {word} {name} is {scored[best[0]].text}{unit}, {' and '.join(who)}{untuned}."


def _at_rank(plan: Plan, layout: Layout, row: Cell) -> str:
    """`LoRA at rank 16 on Ladder S`; a method without a size of its own has no rank."""
    model, method = row_titles(plan, layout.tables, row)
    sized = plan.catalog.methods[row.method].has_size
    return f"{method} at rank {row.rank} on {model}" if sized else f"{method} on {model}"
