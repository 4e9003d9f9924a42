"""What does not agree when the numbers are recomputed; on the page, and by `audit` as `audit.{md,csv,tex,html}`."""

from sbora_bench.report import audit
from sbora_bench.report.render import PrintedTable
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.read import Results


def audit_table(results: Results, _: None = None) -> PrintedTable:
    """The findings that do not agree, worst first. Raises UserError where `audit` has not run."""
    return audit.finding_table(audit.read_findings(results.folder / "audit.json"))


AUDIT = TableView(
    key="audit",
    subjects=of_experiment("audit"),
    make=audit_table,
    section="audit",
    formats=(),
    hints=(("Recomputed", "sbora-bench audit --own --tables {results}/tables --output somewhere"),),
)
