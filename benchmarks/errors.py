"""How often each test of docs/statistics.md errs where two methods are equally good, coverage and power of the looks.

    python benchmarks/errors.py [--draws 4000] [--output errors.json]

Simulated experiments: an item has a difficulty, the same in all runs, an effect of item x method, and each run an
effect of its own (normal, in log-odds); right or wrong answers are drawn on top. No network, no model.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import special, stats

from sbora_bench.analysis.estimate import Estimate, over_seeds, over_seeds_and_items
from sbora_bench.analysis.power import smallest_difference
from sbora_bench.analysis.sequential import decide
from sbora_bench.analysis.statistics import share_summary, sign_flip

VERDICTS = Path(__file__).parents[1] / "results" / "published" / "ladder" / "tables" / "verdicts.csv"
ITEMS, LOOKS = 100, (4, 6, 8, 12)
EFFECTS = {"items decide": (1.0, 1.0, 0.1), "runs decide": (1.0, 0.0, 0.4), "both": (1.5, 0.8, 0.6)}


def experiments(
    rng: np.random.Generator, draws: int, seeds: int, effects: tuple[float, ...], fresh: bool = False
) -> np.ndarray:
    """Differences of two equally good methods: draws x seeds x items."""
    of_item, of_method, of_run = effects
    rows = seeds if fresh else 1
    difficulty = rng.normal(0, of_item, (draws, 1, rows, ITEMS))
    by_method = rng.normal(0, of_method, (draws, 2, rows, ITEMS))
    run = rng.normal(0, of_run, (draws, 2, seeds, 1))
    right = rng.random((draws, 2, seeds, ITEMS)) < special.expit(0.5 + difficulty + by_method + run)
    return right[:, 0].astype(float) - right[:, 1]


def satterthwaite(one: Estimate) -> float:
    """p with Satterthwaite's degrees of freedom, for comparison."""
    free = 1 / sum(share**2 / degrees for share, degrees in one.parts)
    return float(2 * special.stdtr(free, -abs(one.mean) / (one.error or 1)))


def errors_of_tests(draws: int) -> list[dict]:
    """A row an effect and number of seeds: how often each procedure says that the methods differ."""
    rows = []
    for name, effects in EFFECTS.items():
        for seeds in (3, 4, 6, 12):
            made = experiments(np.random.default_rng(seeds), draws, seeds, effects, fresh=False)
            over = [over_seeds_and_items([one], share=True) for one in made]
            alone = np.array([over_seeds(one.mean(axis=1)).p() or 1.0 for one in made])
            items = np.array([sign_flip([one.sum(axis=0)]) for one in made])
            pooled = [stats.binomtest(int((one > 0).sum()), int((one != 0).sum()) or 1).pvalue for one in made[:1000]]
            both, by_degrees = np.array([one.p() for one in over]), np.array([satterthwaite(one) for one in over])
            fresh = experiments(np.random.default_rng(100 + seeds), draws, seeds, effects, fresh=True)
            of_fresh = np.array([over_seeds(one.mean(axis=1)).p() or 1.0 for one in fresh])
            rows.append(
                {
                    "effects": name,
                    "seeds": seeds,
                    "seeds and items": rate(both < 0.05),
                    "the same at 0.004": rate(both < 0.004),
                    "with Satterthwaite": rate(by_degrees < 0.05),
                    "that at 0.004": rate(by_degrees < 0.004),
                    "fresh items, t over seeds": rate(of_fresh < 0.05),
                    "t over seeds alone": rate(alone < 0.05),
                    "signs of items": rate(items < 0.05),
                    "larger of the two p": rate(np.maximum(alone, items) < 0.05),
                    "pooled McNemar": rate(np.array(pooled) < 0.05),
                }
            )
    return rows


def at_looks(differences: Sequence[float]) -> Iterator[Estimate]:
    """Of one difference a seed, the paired t's estimate at each look."""
    return (over_seeds(differences[:seeds]) for seeds in LOOKS)


def looks(draws: int) -> list[dict]:
    """A row a true difference over the standard deviation between seeds: verdicts, seeds, coverage."""
    rows = []
    for effect in (0.0, 0.5, 1.0, 1.5, 2.0):
        values = np.random.default_rng(1).normal(effect, 1, (draws, LOOKS[-1])).tolist()
        made = [decide(at_looks(row), LOOKS, alpha=0.05, margin=1e-9) for row in values]
        within = [one.low is not None and one.high is not None and one.low <= effect <= one.high for one in made]
        row = {word: rate([one.verdict == word for one in made]) for word in ("better", "worse", "undecided")}
        rows.append(
            {"effect": effect, **row, "covered": rate(within), "seeds": float(np.mean([o.seeds for o in made]))}
        )
    return rows


def looks_at_fixed_items(draws: int) -> list[dict]:
    """How often looks over seeds and items, and over seeds alone, call equal methods different."""
    rows = []
    for name, effects in EFFECTS.items():
        made = experiments(np.random.default_rng(2), draws, LOOKS[-1], effects, fresh=False)
        both = [decide([over_seeds_and_items([one[:n]], share=True) for n in LOOKS], LOOKS, 0.05, 1e-9) for one in made]
        alone = [decide(at_looks(one.mean(axis=1)), LOOKS, 0.05, 1e-9) for one in made]
        shown = {"seeds and items": both, "seeds alone": alone}
        rows.append({"effects": name} | {key: rate([o.decided for o in those]) for key, those in shown.items()})
    return rows


def shares_handed_on(draws: int, seeds: int = 8, margin: float = 1.0) -> list[dict]:
    """How often any verdict of a table is wrong, by what becomes of a decided comparison's share of 5 %.

    All but one of the true differences are the margin itself, seen clearly against 0; the last is none. Holm's step
    hands a share on; it is sound where both of a comparison's claims, equal and beyond the margin, are refuted.
    """
    rows = []
    for comparisons in (4, 12):
        true, spread = np.array([margin] * (comparisons - 1) + [0.0]), np.array([0.3] * (comparisons - 1) + [3.0])
        values = np.random.default_rng(4).normal(true[:, None], spread[:, None], (draws, comparisons, seeds))
        row: dict[str, float] = {"comparisons": comparisons}
        for way in ("kept", "handed on"):
            equivalent, different = _verdicts(values, margin, steps=comparisons if way == "handed on" else 1)
            row[way] = rate((equivalent & (true == margin) | different & (true == 0)).any(axis=1))
        rows.append(row)
    return rows


def _verdicts(values: np.ndarray, margin: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Of draws x comparisons x seeds, draws x comparisons each: is it equivalent, is it better or worse?"""
    seeds = values.shape[-1]
    mean, error = values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(seeds)
    equivalent = different = np.zeros(mean.shape, dtype=bool)
    for _ in range(steps):
        open_ones = ~(equivalent | different)
        level = 0.05 / np.maximum(open_ones.sum(axis=1, keepdims=True), 1)
        half = -special.stdtrit(seeds - 1, level / 2) * error
        within = (mean - half > -margin) & (mean + half < margin)
        equivalent = equivalent | open_ones & within
        different = different | open_ones & ~within & (np.abs(mean) > half)
    return equivalent, different


def intervals(draws: int) -> list[dict]:
    """Coverage of the log-odds interval of a score over four seeds."""
    rng, rows = np.random.default_rng(3), []
    for mean in (0.5, 0.9, 0.97):
        shares = special.expit(rng.normal(special.logit(mean), 0.4, (draws, 4)))
        counts = rng.binomial(ITEMS, shares) / ITEMS
        made = [share_summary(row, [ITEMS] * 4) for row in counts.tolist()]
        rows.append({"share": mean, "covered": rate([(o.low or 0) <= mean <= (o.high or 1) for o in made])})
    return rows


def variances_shared(draws: int) -> list[dict]:
    """How often a paired t errs whose variance is moderated or pooled over a table's comparisons, whose spreads differ
    as the published ladder's intervals do; and what it shows of the differences that the plain t shows 80 times of 100.

    `worst`: of the table's comparison that errs most.
    """
    rows = []
    for table, spreads in ladder_spreads().items():
        for seeds in (4, 6, 12):
            normal = np.random.default_rng(seeds).normal(size=(draws, len(spreads), seeds))
            variances = spreads**2 * normal.var(axis=-1, ddof=1)
            means = spreads * normal.mean(axis=-1)
            tests = {
                "plain": (variances, np.full((draws, 1), seeds - 1.0)),
                "moderated": moderated(variances, seeds - 1),
                "pooled": (variances.mean(axis=1, keepdims=True), np.array(len(spreads) * (seeds - 1.0))),
            }
            for level in (0.05, 0.004):
                row: dict = {"table": table, "comparisons": len(spreads), "seeds": seeds, "level": level}
                true = spreads * smallest_difference(seeds, level, 1.0)
                for name, (variance, degrees) in tests.items():
                    critical = -special.stdtrit(degrees, level / 2) * np.sqrt(variance / seeds)
                    wrong, shown = np.abs(means) > critical, np.abs(means + true) > critical
                    row |= {name: rate(wrong), f"{name}, worst": rate(wrong.mean(axis=0).max())}
                    row[f"{name} shows"] = rate(shown)
                rows.append(row)
    return rows


def ladder_spreads() -> dict[str, np.ndarray]:
    """A table of the published ladder -> half the interval's width of each of its comparisons, in nats a token."""
    with VERDICTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tables = dict.fromkeys(row["table"] for row in rows)
    halves = {name: [float(r["high"]) - float(r["low"]) for r in rows if r["table"] == name] for name in tables}
    return {name: np.array(widths) / 2 for name, widths in halves.items()}


def moderated(variances: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Of tables x comparisons, variances shrunk to their table's own, and the t's degrees of freedom, a table each.

    Smyth (Stat. Appl. Genet. Mol. Biol. 2004), as limma's fitFDist: the variances' prior is a scaled inverse
    chi-square whose two parameters follow from the mean and the variance of their logarithms.
    """
    logs = np.log(variances) - special.digamma(degrees / 2) + np.log(degrees / 2)
    excess = logs.var(axis=1, ddof=1, keepdims=True) - special.polygamma(1, degrees / 2)
    halves = np.logspace(-3, 5, 4001)  # half the prior's degrees of freedom, at most 200,000: all variances are equal
    half = np.interp(-excess, -special.polygamma(1, halves), halves)
    common = np.exp(logs.mean(axis=1, keepdims=True) + special.digamma(half) - np.log(half))
    shrunk = (2 * half * common + degrees * variances) / (2 * half + degrees)
    return shrunk, np.minimum(2 * half + degrees, degrees * variances.shape[1])


def rate(hits: list[bool] | np.ndarray) -> float:
    """Share of hits."""
    return round(float(np.mean(hits)), 4)


def main() -> None:
    """Measure all and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    measured = {
        "tests": errors_of_tests(given.draws),
        "looks": looks(given.draws),
        "looks at fixed items": looks_at_fixed_items(given.draws // 2),
        "intervals": intervals(given.draws),
        "shares of a table's 5 %": shares_handed_on(given.draws),
        "variances shared": variances_shared(20 * given.draws),
    }
    for title, rows in measured.items():
        print(f"\n{title}\n| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
        print("\n".join(f"| {' | '.join(map(str, row.values()))} |" for row in rows))
    if given.output:
        given.output.write_text(json.dumps({"draws": given.draws, **measured}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
