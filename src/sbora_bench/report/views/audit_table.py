"""What does not agree when the numbers are recomputed; on the page, and by `audit` as `audit.{md,csv,tex,html}`."""

import shlex

from sbora_bench.errors import UserError
from sbora_bench.report import audit
from sbora_bench.report.render import PrintedTable
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.read import Results


def audit_table(results: Results, _: None = None) -> PrintedTable:
    """The findings that do not agree, worst first. Raises UserError where `audit` has not run."""
    path = results.folder / "audit.json"
    if not path.is_file():
        own = [] if results.plan.experiment.paper_footprint else ["--own"]
        command = [
            "sbora-bench",
            "audit",
            "--tables",
            f"{results.folder}/tables",
            "--output",
            str(results.folder),
            *own,
        ]
        raise UserError(f"{path}: no such file; make it with: {shlex.join(command)}")
    return audit.finding_table(audit.read_findings(path))


AUDIT = TableView(
    key="audit",
    subjects=of_experiment("audit"),
    make=audit_table,
    section="audit",
    formats=(),
    hints=(("Recomputed", "sbora-bench audit --own --tables {results}/tables --output somewhere"),),
)
