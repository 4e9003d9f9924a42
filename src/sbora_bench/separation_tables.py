"""What the experiment can tell apart, as files: `separation.{md,csv}`, `gains.csv` and `differences.csv`."""

from pathlib import Path
from typing import Any

from sbora_bench.experiment import Plan
from sbora_bench.files import write_text
from sbora_bench.render import Cell, View, csv, markdown
from sbora_bench.separation import CLAIM_LEVEL, DIFFERENCE_LEVEL, MARGIN, Separation

CLAIM_COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
CLAIM_COLUMNS += ["most_frequent_answer", "most_frequent_rate", "p", "p_holm", "holds"]
GAIN_COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
GAIN_COLUMNS += ["difference", "only_tuned", "only_base", "p", "p_holm", "differs"]
DIFFERENCE_COLUMNS = [
    "table",
    "model",
    "task",
    "method_a",
    "rank_a",
    "method_b",
    "rank_b",
    "pairs",
    "score_a",
    "score_b",
]
DIFFERENCE_COLUMNS += ["difference", "only_a", "only_b", "p", "p_holm", "differs"]


def write_separation(plan: Plan, found: Separation, folder: Path) -> None:
    """Write the four files."""
    heading = "# What this experiment can tell apart\n\n"
    write_text(folder / "separation.md", heading + "\n".join(markdown(view) for view in separation_views(plan, found)))
    for name, rows, columns in (
        ("separation", found.claims, CLAIM_COLUMNS),
        ("gains", found.gains, GAIN_COLUMNS),
        ("differences", found.differences, DIFFERENCE_COLUMNS),
    ):
        write_text(folder / f"{name}.csv", csv([columns, *(_numbers(row, columns) for row in rows)]))


def separation_views(plan: Plan, found: Separation) -> list[View]:
    """What `separation.md` and the report show."""
    gains = [gain_view(plan, found, table) for table in dict.fromkeys(row["table"] for row in found.gains)]
    return [claim_view(plan, found), *gains, difference_view(plan, found)]


def p_text(p: float) -> str:
    """A p value with two significant digits; below 1e-99 a bound, for it is no longer a number of use."""
    return "< 1e-99" if p < 1e-99 else f"{p:.2g}"


def _numbers(row: dict[str, Any], columns: list[str]) -> list[Any]:
    numbers = {key: f"{row[key]:.6e}" if key in ("p", "p_holm") else row[key] for key in columns}
    return [("yes" if value else "no") if isinstance(value, bool) else value for value in numbers.values()]


def method_title(plan: Plan, method: str, rank: int) -> str:
    return f"{plan.catalog.methods[method].title} r = {rank}"


def claim_view(plan: Plan, found: Separation) -> View:
    """LoRA at its top rank against the base and the most frequent answer, column by column."""
    groups: dict[tuple[str, str], list[list[Cell]]] = {}
    for row in found.claims:
        groups.setdefault((row["table"], row["model"]), []).append(
            [
                Cell(row["table"]),
                Cell(plan.catalog.models[row["model"]].title),
                Cell(plan.catalog.tasks[row["task"]].title),
                Cell(method_title(plan, row["method"], row["rank"])),
                Cell(f"{100 * row['score']:.1f}"),
                Cell(f"{100 * row['base']:.1f}"),
                Cell(f"{100 * row['most_frequent_rate']:.1f}"),
                Cell(f"{row['pairs']:,}"),
                Cell(p_text(row["p_holm"])),
                Cell("yes" if row["holds"] else "no", bold=row["holds"]),
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
    groups: dict[str, list[list[Cell]]] = {}
    for model, method, rank in dict.fromkeys(cell[:3] for cell in gains):
        line = [Cell(plan.catalog.models[model].title), Cell(method_title(plan, method, rank))]
        for task in tasks:
            row = gains.get((model, method, rank, task))
            text = f"{100 * row['difference']:+.1f}".replace("-", "−") if row else "–"
            text = "0.0" if text in ("+0.0", "−0.0") else text
            line.append(Cell(text, bool(row and row["differs"]), f"p {p_text(row['p_holm'])}" if row else ""))
        groups.setdefault(model, []).append(line)
    notes = [
        f"Points over the base on the same items, all seeds pooled. Bold: p < {DIFFERENCE_LEVEL} after Holm over this"
        " table (exact McNemar test). Counts: gains.csv."
    ]
    header = ["Model", "Method", *(plan.catalog.tasks[task].title for task in tasks)]
    title = f"What tuning changed: {plan.experiment.tables[table].title or table}"
    return View(f"gains-{table}", title, header, list(groups.values()), notes, text_columns=2)


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
    groups: dict[tuple[str, str], list[list[Cell]]] = {}
    for (table, model, task), rows in columns.items():
        differing = [row for row in rows if row["differs"]]
        widest = max(differing, key=lambda row: abs(row["difference"]), default=None)
        groups.setdefault((table, model), []).append(
            [
                Cell(table),
                Cell(plan.catalog.models[model].title),
                Cell(plan.catalog.tasks[task].title),
                Cell(_pair(plan, widest) if widest else "no difference shown"),
                Cell(f"{abs(100 * widest['difference']):.1f}" if widest else "–"),
                Cell(p_text(widest["p_holm"]) if widest else "–"),
                Cell(f"{len(differing)} of {len(rows)}"),
            ]
        )
    undecided = [
        f"{plan.catalog.tasks[task].title} ({table}, {plan.catalog.models[model].title})"
        for table, model, task in found.undecided()
    ]
    notes = [
        f"Columns in which two methods of one rank or two ranks of one method differ, p < {DIFFERENCE_LEVEL} after"
        " Holm over all pairs of a table (exact McNemar test on the same items and seeds):"
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
