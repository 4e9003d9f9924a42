"""The tables of what tuning forgets: `also-<table>` and `forgetting-<table>`."""

from typing import Any

from sbora_bench.analysis.forgetting import COLUMNS, LOSS, also_rows, pair_rows
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.file_names import also_name, forgetting_name
from sbora_bench.report.render import Text, View
from sbora_bench.report.separation_tables import AVERAGE_COLUMNS, difference_text, method_title, p_text
from sbora_bench.results.read import Results


def measure_title(plan: Plan, measure: str) -> str:
    suite = measure.removesuffix(LOSS)
    title = plan.catalog.suites[suite].title
    return f"{title}, loss" if measure.endswith(LOSS) else title


def also_view(results: Results, table: str) -> View:
    """A row a cell: every suite's average, and the change over the base."""
    plan, rows = results.plan, also_rows(results, table)
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["method"], row["rank"]), {})[row["measure"]] = row
    groups: dict[str, list[list[Text]]] = {}
    for (model, method, rank), mine in cells.items():
        base = cells.get((model, "base", None), {})
        count = next(iter(mine.values()))["trainable_parameters"]
        name = "Base, untuned" if method == "base" else method_title(plan, method, rank)
        line = [Text(plan.catalog.models[model].title), Text(name), Text(f"{count:,}" if count else "–")]
        line += [_also_cell(mine.get(each), base.get(each) if method != "base" else None) for each in measures]
        groups.setdefault(model, []).append(line)
    trained = plan.experiment.tables[table].train
    notes = [
        f"All tuned on {trained}; the first column of scores is the suite that this is for, the others are what the"
        " models were not tuned for. Scores are averages of a suite's tasks in per cent, a loss is in nats a token;"
        " mean ± standard deviation over the seeds. Below: the change over the untuned base.",
        f"Which of two methods keeps more: {forgetting_name(table)}.",
    ]
    header = ["Model", "Method", "Trainable parameters", *(measure_title(plan, each) for each in measures)]
    numbers = [COLUMNS, *([row[key] for key in COLUMNS] for row in rows)]
    title = f"What tuning forgets: {plan.experiment.tables[table].title or table}"
    return View(also_name(table), title, header, list(groups.values()), notes, numbers, text_columns=2)


def _also_cell(row: dict[str, Any] | None, base: dict[str, Any] | None) -> Text:
    if row is None:
        return Text("–")
    scale, digits = (1, 3) if row["measure"].endswith(LOSS) else (100, 1)
    spread = "" if row["sd"] is None else f" ± {scale * row['sd']:.{digits}f}"
    below = () if base is None else (f"{scale * (row['mean'] - base['mean']):+.{digits}f}".replace("-", "−"),)
    return Text(f"{scale * row['mean']:.{digits}f}{spread}", below=below)


def forgetting_view(results: Results, table: str) -> View:
    """A row a pair of methods at equal rank or equal parameters: which keeps more, measure by measure."""
    plan, rows = results.plan, pair_rows(results, table)
    shown = [row for row in rows if row["equal"] != "method"]
    measures = list(dict.fromkeys(row["measure"] for row in shown))
    pairs: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in shown:
        names = tuple(row[key] for key in ("model", "method_a", "rank_a", "method_b", "rank_b", "equal"))
        pairs.setdefault(names, {})[row["measure"]] = row
    groups: dict[str, list[list[Text]]] = {}
    for (model, method_a, rank_a, method_b, rank_b, equal), mine in pairs.items():
        line = [Text(plan.catalog.models[model].title), Text(method_title(plan, method_a, rank_a))]
        line += [Text(method_title(plan, method_b, rank_b)), Text(equal)]
        groups.setdefault(model, []).append([*line, *(_pair_cell(mine.get(each)) for each in measures)])
    notes = [
        "Of the first method against the second, on what neither was tuned for: better keeps more, worse less. Points,"
        " or nats a token by which its loss is lower, with the 95 % t interval over the seeds; p: the larger of that"
        " over the items (exact McNemar test of a task, bootstrap of an average or a loss) and that over the seeds"
        f" (paired t test), Holm over a column's pairs, ranks of one method among them; better or worse below {LEVEL}.",
        "The same items for all; one seed gives no interval and no word.",
    ]
    header = ["Model", "Method", "Against", "Equal", *(measure_title(plan, each) for each in measures)]
    columns = ["measure" if column == "task" else column for column in AVERAGE_COLUMNS if column != "tasks"]
    columns = [column for column in columns if column not in ("items", "items_low", "items_high")]
    numbers: list[list[Any]] = [columns, *([row.get(column) for column in columns] for row in rows)]
    title = f"Which method forgets less: {plan.experiment.tables[table].title or table}"
    return View(forgetting_name(table), title, header, list(groups.values()), notes, numbers, text_columns=4)


def _pair_cell(row: dict[str, Any] | None) -> Text:
    if row is None:
        return Text("–")
    scale, digits = (1, 3) if row["measure"].endswith(LOSS) else (100, 1)
    word = row["word"] if row["word"] in ("better", "worse") else "no difference shown"
    p = () if row["p_both_holm"] is None else (f"p {p_text(row['p_both_holm'])}",)
    return Text(word, word != "no difference shown", (difference_text(row, scale, digits), *p))
