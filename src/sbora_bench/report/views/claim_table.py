"""What the paper claims, with a verdict on its numbers and on ours; on the page."""

from sbora_bench.analysis.separation import separation
from sbora_bench.report import paper_claims
from sbora_bench.report.audit import read_findings
from sbora_bench.report.render import PrintedTable
from sbora_bench.report.view import AGAIN, TableView, of_experiment
from sbora_bench.results.read import Results


def claim_table(results: Results, _: None = None) -> PrintedTable:
    """A row a claim. Raises UserError where `audit` has not run."""
    return paper_claims.printed_claims(results, separation(results), read_findings(results.folder / "audit.json"))


CLAIMS = TableView(
    key="claims",
    subjects=of_experiment("claims"),
    make=claim_table,
    section="claims",
    formats=(),
    hints=(("What the paper reports, recomputed", "sbora-bench audit"), AGAIN),
)
