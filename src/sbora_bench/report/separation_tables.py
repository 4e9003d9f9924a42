"""What the experiment can tell apart: `separation.{md,csv}`, `gains.csv`, `differences.csv`, `averages.csv`."""

from pathlib import Path
from typing import Any

from sbora_bench.analysis.pairs import PARAMETERS_WITHIN
from sbora_bench.analysis.separation import CLAIM_LEVEL, DIFFERENCE_LEVEL, MARGIN, Separation
from sbora_bench.analysis.statistics import LEVEL, POWER
from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.render import Text, View, csv, markdown

CLAIM_COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
CLAIM_COLUMNS += ["most_frequent_answer", "most_frequent_rate", "p", "p_holm", "holds"]
GAIN_COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
GAIN_COLUMNS += ["difference", "only_tuned", "only_base", "p", "p_holm", "differs"]
PAIR_COLUMNS = ["table", "model", "task", "method_a", "rank_a", "method_b", "rank_b", "equal", "parameters_ratio"]
SEED_COLUMNS = ["p", "p_holm", "differs", "seeds", "sd", "low", "high", "p_seeds", "p_both_holm"]
SEED_COLUMNS += ["seeds_for_1_point", "word"]
DIFFERENCE_COLUMNS = [*PAIR_COLUMNS, "pairs", "score_a", "score_b", "difference", "only_a", "only_b", *SEED_COLUMNS]
AVERAGE_COLUMNS = [*PAIR_COLUMNS, "tasks", "items", "score_a", "score_b", "difference", "items_low", "items_high"]
AVERAGE_COLUMNS += SEED_COLUMNS


def write_separation(plan: Plan, found: Separation, folder: Path) -> None:
    """Write the five files."""
    heading = "# What this experiment can tell apart\n\n"
    write_text(folder / "separation.md", heading + "\n".join(markdown(view) for view in separation_views(plan, found)))
    for name, rows, columns in (
        ("separation", found.claims, CLAIM_COLUMNS),
        ("gains", found.gains, GAIN_COLUMNS),
        ("differences", found.differences, DIFFERENCE_COLUMNS),
        ("averages", found.averages, AVERAGE_COLUMNS),
    ):
        write_text(folder / f"{name}.csv", csv([columns, *(_numbers(row, columns) for row in rows)]))


def separation_views(plan: Plan, found: Separation) -> list[View]:
    """What `separation.md` and the report show."""
    gains = [gain_view(plan, found, table) for table in dict.fromkeys(row["table"] for row in found.gains)]
    methods = [method_view(plan, found, table) for table in plan.experiment.tables if method_rows(found, table)]
    return [*methods, claim_view(plan, found), *gains, difference_view(plan, found)]


def p_text(p: float) -> str:
    """A p value with two significant digits; below 1e-99 a bound, for it is no longer a number of use."""
    return "< 1e-99" if p < 1e-99 else f"{p:.2g}"


def _numbers(row: dict[str, Any], columns: list[str]) -> list[Any]:
    return [f"{row[key]:.6e}" if _is_p(key) and row[key] is not None else row[key] for key in columns]


def _is_p(key: str) -> bool:
    return key == "p" or key.startswith("p_")


def method_title(plan: Plan, method: str, rank: int) -> str:
    return f"{plan.catalog.methods[method].title} r = {rank}"


def difference_text(row: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """The difference of a pair and, where there are several seeds, its interval over them: `+1.0 [−0.6, 2.5]`."""
    text = f"{scale * row['difference']:+.{digits}f}"
    text += "" if row["low"] is None else f" [{scale * row['low']:.{digits}f}, {scale * row['high']:.{digits}f}]"
    return text.replace("-", "−")


def claim_view(plan: Plan, found: Separation) -> View:
    """LoRA at its top rank against the base and the most frequent answer, column by column."""
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for row in found.claims:
        groups.setdefault((row["table"], row["model"]), []).append(
            [
                Text(row["table"]),
                Text(plan.catalog.models[row["model"]].title),
                Text(plan.catalog.tasks[row["task"]].title),
                Text(method_title(plan, row["method"], row["rank"])),
                Text(f"{100 * row['score']:.1f}"),
                Text(f"{100 * row['base']:.1f}"),
                Text(f"{100 * row['most_frequent_rate']:.1f}"),
                Text(f"{row['pairs']:,}"),
                Text(p_text(row["p_holm"])),
                Text("yes" if row["holds"] else "no", bold=row["holds"]),
            ]
        )
    notes = [
        f"Holds on {count_text(plan, found.claims, 'holds')}. It holds where the score beats both by"
        f" {100 * MARGIN:.0f} points or more and p < {CLAIM_LEVEL} after Holm over all these columns (exact McNemar"
        " test against the base).",
        "Per cent of all items of all seeds. A pair is one item under one seed, so p speaks of the models trained here"
        " on these items, and not of how another draw of seeds would fall.",
    ]
    header = ["Table", "Model", "Task", "Method", "Score", "Base", "Most frequent answer", "Pairs", "p, Holm", "Holds"]
    title = "Does tuning show? LoRA at its top rank against the untuned base and the most frequent answer"
    return View("separation", title, header, list(groups.values()), notes, text_columns=4)


def gain_view(plan: Plan, found: Separation, table: str) -> View:
    """A table's tuned cells against their bases: the difference in points, and p."""
    gains = {
        (row["model"], row["method"], row["rank"], row["task"]): row for row in found.gains if row["table"] == table
    }
    tasks = plan.tasks(table)
    groups: dict[str, list[list[Text]]] = {}
    for model, method, rank in dict.fromkeys(cell[:3] for cell in gains):
        line = [Text(plan.catalog.models[model].title), Text(method_title(plan, method, rank))]
        for task in tasks:
            row = gains.get((model, method, rank, task))
            text = f"{100 * row['difference']:+.1f}".replace("-", "−") if row else "–"
            text = "0.0" if text in ("+0.0", "−0.0") else text
            below = (f"p {p_text(row['p_holm'])}",) if row else ()
            line.append(Text(text, bool(row and row["differs"]), below))
        groups.setdefault(model, []).append(line)
    notes = [
        f"Points over the base on the same items, all seeds pooled. Bold: p < {DIFFERENCE_LEVEL} after Holm over this"
        " table (exact McNemar test). Counts: gains.csv."
    ]
    header = ["Model", "Method", *(plan.catalog.tasks[task].title for task in tasks)]
    title = f"What tuning changed: {plan.experiment.tables[table].title or table}"
    return View(f"gains-{table}", title, header, list(groups.values()), notes, text_columns=2)


def method_rows(found: Separation, table: str) -> list[dict[str, Any]]:
    """A table's pairs of two methods: on the average of its tasks, or in the task where it has but one."""
    averages = [row for row in found.averages if row["table"] == table]
    rows = averages or [row for row in found.differences if row["table"] == table]
    return [row for row in rows if row["equal"] != "method"]


def verdict(found: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(row["table"] for row in found.differences)
    rows = [row for table in tables for row in method_rows(found, table)]
    shown = [row for row in rows if row["word"] in ("better", "worse")]
    if not rows:
        return ""
    differ = sum(row["differs"] for row in rows)
    told = f"Of {len(rows)} pairs of methods at equal rank or parameters, {differ} differ as trained here"
    told += f" and {len(shown)} are shown to differ with other seeds too"
    needed = sorted(row["seeds_for_1_point"] - row["seeds"] for row in rows if row["seeds_for_1_point"] is not None)
    if not needed:
        return f"{told}: one seed can't show any."
    return f"{told}; {max(needed[len(needed) // 2], 0):,} more seeds would show 1 point in half of them."


def method_view(plan: Plan, found: Separation, table: str) -> View:
    """Which method of a table is better, at equal rank and at equal trainable parameters: a row a pair."""
    groups: dict[str, list[list[Text]]] = {}
    for row in method_rows(found, table):
        ratio = row["parameters_ratio"]
        groups.setdefault(row["model"], []).append(
            [
                Text(plan.catalog.models[row["model"]].title),
                Text(method_title(plan, row["method_a"], row["rank_a"])),
                Text(row["word"], bold=row["word"] in ("better", "worse")),
                Text(method_title(plan, row["method_b"], row["rank_b"])),
                Text(row["equal"]),
                Text("–" if ratio is None else f"{ratio:.2f}"),
                Text(difference_text(row)),
                Text(p_text(row["p_holm"])),
                Text("–" if row["p_seeds"] is None else p_text(row["p_seeds"])),
                Text("–" if row["p_both_holm"] is None else p_text(row["p_both_holm"])),
            ]
        )
    averaged = any(row["table"] == table for row in found.averages)
    family = sum(row["table"] == table for row in (found.averages if averaged else found.differences))
    over = "the average of the tasks (bootstrap of the items)" if averaged else "the task (exact McNemar test)"
    notes = [
        f"Points of the first over the second, with the 95 % t interval over the seeds. p, items: would these very"
        f" models differ on other items, in {over}; after Holm. p, seeds: would other seeds differ on these items"
        f" (paired t test). p, both: the larger of the two, Holm over the {family} pairs of this table; better or worse"
        f" where it is below {LEVEL}. How many more seeds would show 1 point: with a power of {POWER}, by the spread"
        " found here, without Holm. One seed gives no interval over seeds.",
        f"Equal parameters: within {100 * PARAMETERS_WITHIN:.0f} %. Pairs of ranks of one method, and all numbers:"
        " averages.csv and differences.csv.",
    ]
    header = [
        "Model",
        "Method",
        "is",
        "than",
        "Equal",
        "Parameters, ratio",
        "Points",
        "p, items",
        "p, seeds",
        "p, both",
    ]
    title = f"Which method is better: {plan.experiment.tables[table].title or table}"
    return View(f"methods-{table}", title, header, list(groups.values()), notes, text_columns=5)


def count_columns(rows: list[dict[str, Any]], key: str) -> tuple[int, int]:
    """In how many columns (a table's task) `key` is true of any row, and how many columns there are."""
    columns: dict[tuple[str, str], bool] = {}
    for row in rows:
        place = row["table"], row["task"]
        columns[place] = columns.get(place, False) or row[key]
    return sum(columns.values()), len(columns)


def count_text(plan: Plan, rows: list[dict[str, Any]], key: str) -> str:
    """`13 of 15 columns (ladder-s 13 of 15, ladder-m 9 of 14)`; models are named where there are several."""
    models = dict.fromkeys(row["model"] for row in rows)
    of = "{} of {}".format
    parts = [
        f"{plan.catalog.models[model].title} {of(*count_columns([r for r in rows if r['model'] == model], key))}"
        for model in models
    ]
    total = of(*count_columns(rows, key)) + " columns"
    return f"{total} with one model or another ({', '.join(parts)})" if len(models) > 1 else total


def difference_view(plan: Plan, found: Separation) -> View:
    """Column by column: how many of the tested pairs differ, and the widest that does."""
    columns: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in found.differences:
        columns.setdefault((row["table"], row["model"], row["task"]), []).append(row)
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    for (table, model, task), rows in columns.items():
        differing = [row for row in rows if row["differs"]]
        widest = max(differing, key=lambda row: abs(row["difference"]), default=None)
        groups.setdefault((table, model), []).append(
            [
                Text(table),
                Text(plan.catalog.models[model].title),
                Text(plan.catalog.tasks[task].title),
                Text(_pair(plan, widest) if widest else "no difference shown"),
                Text(f"{abs(100 * widest['difference']):.1f}" if widest else "–"),
                Text(p_text(widest["p_holm"]) if widest else "–"),
                Text(f"{len(differing)} of {len(rows)}"),
            ]
        )
    undecided = [
        f"{plan.catalog.tasks[task].title} ({table}, {plan.catalog.models[model].title})"
        for table, model, task in found.undecided()
    ]
    notes = [
        "Columns in which two methods of equal rank or parameters, or two ranks of one method, differ,"
        f" p < {DIFFERENCE_LEVEL} after Holm over all pairs of a table (exact McNemar test, same items and seeds):"
        f" {count_text(plan, found.differences, 'differs')}.",
        f"Columns that show no difference: {', '.join(undecided) or 'none'}.",
        "All pairs: differences.csv.",
    ]
    header = ["Table", "Model", "Task", "Widest difference shown", "Points", "p, Holm", "Pairs that differ"]
    title = "Do methods and ranks differ?"
    return View("differences", title, header, list(groups.values()), notes, text_columns=4)


def _pair(plan: Plan, row: dict[str, Any]) -> str:
    better, worse = ("a", "b") if row["difference"] > 0 else ("b", "a")
    names = [method_title(plan, row[f"method_{side}"], row[f"rank_{side}"]) for side in (better, worse)]
    return " over ".join(names)
