"""What Snakemake's own report (`--report`) shows: the tables, figures and pages of the registered views."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sbora_bench.files import hash_of, write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.figures import FIGURES
from sbora_bench.report.outputs import PAGE
from sbora_bench.report.tables import TABLES

OFFLINE = "Everything on one page that works offline: the answer, then all that it rests on."
RECOMPUTED = (
    "The averages of these tables recomputed, and where the paper's cells are counted the numbers and claims that the"
    " paper reports. What agrees is not shown."
)


@dataclass(frozen=True)
class ReportEntry:
    """How a file is shown: its text, its category and `kind`; `name`: of the file, without folder and ending."""

    caption: str
    category: str
    kind: str
    name: str

    @property
    def labels(self) -> dict[str, str]:
        """As Snakemake takes them: the kind of a view, and what it is of."""
        return {"kind": self.kind, "of": self.name.partition("-")[2] or self.name.replace("_", " ")}

    def write(self, folder: Path) -> str:
        """The caption as a file that Snakemake reads, which takes no text: its absolute path."""
        path = (folder / f"{hash_of(self.caption)[:16]}.rst").absolute()
        if not path.is_file():
            write_text(path, self.caption + "\n")
        return str(path)


def report_entries(plan: Plan, root: str) -> dict[str, ReportEntry]:
    """File below the results folder `root` -> its entry."""
    entries = {PAGE: ("Page", "page", OFFLINE), "audit.html": ("Audit", "audit", RECOMPUTED)}
    for view in TABLES:
        for name in view.subjects(plan) if "html" in view.formats else ():
            entries[f"tables/{name}.html"] = ("Tables", view.key, view.caption)
    for figure in FIGURES:
        for name, subject in figure.subjects(plan).items():
            entries[f"figures/{name}.svg"] = ("Figures", figure.key, figure.caption(plan, subject))
    return {
        f"{root}/{file}": ReportEntry(caption, category, kind, PurePosixPath(file).stem)
        for file, (category, kind, caption) in entries.items()
    }
