"""The paper's cells at true scale: trainable parameters as counted here beside those reported."""

from typing import Any

from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.view import COUNT, TableView, of_experiment
from sbora_bench.results.paper.footprint import COLUMNS, read_paper_footprint
from sbora_bench.results.read import Results


def paper_footprint_table(results: Results, _: None = None) -> PrintedTable:
    """The paper's cells at true scale: parameters as counted here beside those reported."""
    plan, lines = results.plan, read_paper_footprint(results.folder)
    groups: dict[tuple[str, str], list[list[Text]]] = {}
    numbers = [[*COLUMNS, "agrees"]]
    for line in lines:
        count, reported = line["trainable_parameters"], line["reported_millions"]
        agrees = agreement(int(count), float(reported)) if count and reported else ""
        total, size = line["total_parameters"], line["adapter_bytes"]
        groups.setdefault((line["table"], line["model"]), []).append(
            [
                Text(line["table"]),
                Text(title_of(plan.catalog.models, line["model"])),
                Text(title_of(plan.catalog.methods, line["method"])),
                Text(line["rank"] or "–"),
                Text(f"{int(count):,}" if count else "not available"),
                Text(f"{100 * int(count) / int(total):.2f}" if count and total else "–"),
                Text(f"{int(size) / 2**20:,.1f}" if size else "–"),
                Text(f"{float(reported):.1f}" if reported else "–"),
                Text(agrees or "–"),
            ]
        )
        numbers.append([line[column] for column in COLUMNS] + [agrees])
    columns = ["Table", "Model", "Method", "Rank", "Trainable parameters", "of all, %", "Adapter, MiB"]
    columns += ["Reported, millions", "Agrees"]
    notes = [
        "Counted by building each model without weights. Agrees: the count rounds to the one reported; half: the"
        " reported one is half of it; other: neither."
    ]
    title = "Trainable parameters of the paper's cells, counted at true scale"
    return PrintedTable("paper_footprint", title, columns, list(groups.values()), notes, numbers, text_columns=3)


def agreement(count: int, reported_millions: float) -> str:
    """Whether a count rounds to the one printed in millions with one decimal (`yes`), twice that (`half`), or not."""
    slack = 0.05 + 1e-9
    if abs(count / 1e6 - reported_millions) <= slack:
        return "yes"
    return "half" if abs(count / 2e6 - reported_millions) <= slack else "other"


def title_of(section: dict[str, Any], name: str) -> str:
    """The title of a catalog's entry, or its name where the catalog no longer has it."""
    return section[name].title if name in section else name


PAPER_FOOTPRINT = TableView(
    key="paper footprint",
    subjects=of_experiment("paper_footprint", lambda plan: plan.experiment.paper_footprint),
    make=paper_footprint_table,
    caption="The paper's cells at true scale: trainable parameters as counted and as reported.",
    hints=(COUNT,),
)
