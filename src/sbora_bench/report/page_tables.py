"""The tables that stand on the page alone, listed here; each a module of `views/`."""

from sbora_bench.report.tables import TABLES
from sbora_bench.report.view import TableView
from sbora_bench.report.views.audit_table import AUDIT
from sbora_bench.report.views.budget_table import BUDGET
from sbora_bench.report.views.claim_table import CLAIMS
from sbora_bench.report.views.contamination_table import CONTAMINATION
from sbora_bench.report.views.footprint_table import FOOTPRINT
from sbora_bench.report.views.run_table import RUNS

PAGE_TABLES: list[TableView] = [BUDGET, CONTAMINATION, FOOTPRINT, CLAIMS, AUDIT, RUNS]


def all_tables() -> list[TableView]:
    """Every kind of table that the page shows, in its order."""
    return [*TABLES, *PAGE_TABLES]
