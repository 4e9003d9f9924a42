"""The commands of `sbora-bench` for what the paper reports, and for its protocols."""

from pathlib import Path

import click

from sbora_bench.errors import UserError


@click.command()
@click.option("--tables", type=click.Path(path_type=Path, exists=True), help="Check the averages of these tables too.")
@click.option("--own", is_flag=True, help="Those of --tables alone.")
@click.option(
    "--reported", type=click.Path(path_type=Path, exists=True), help="The rest as it was found before, with --json."
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for audit.json and audit.{md,csv,tex,html}.")
@click.option("--json", "as_json", is_flag=True, help="Every finding, those that agree too.")
@click.option("--summary", is_flag=True, help="One line a claim, as a Markdown table.")
def audit(
    tables: Path | None, own: bool, reported: Path | None, output: Path | None, as_json: bool, summary: bool
) -> None:
    """Recompute the reported numbers and claims, and list what doesn't agree."""
    from sbora_bench.report import audit as stage

    if own and tables is None:
        raise UserError("audit: --own needs --tables")
    findings = list(stage.own_tables(tables)) if tables else []
    if reported is not None:
        findings = stage.read_findings(reported) + findings
    elif not own:
        from sbora_bench.cost import paper_cells
        from sbora_bench.plan.catalog import load_catalog
        from sbora_bench.results.paper.reported import read_reported

        catalog = load_catalog()
        count, memory = paper_cells.true_counts(catalog), lambda claim: paper_cells.memory_ratio(catalog, claim)
        findings = stage.audit(read_reported(), count, memory) + findings
    if output is not None:
        stage.write_findings(findings, output)
    if summary:
        from sbora_bench.report.render import markdown

        click.echo(markdown(stage.summary_table(findings)), nl=False)
    else:
        click.echo(stage.as_json(findings) if as_json else stage.as_text(findings))


@click.command()
@click.option("--into", type=click.Path(path_type=Path, exists=True), help="Put them between this file's markers.")
def protocols(into: Path | None) -> None:
    """Print protocols `official` and `clean` side by side, with sources and reasons."""
    from sbora_bench.plan import protocol_table
    from sbora_bench.plan.catalog import load_catalog

    catalog = load_catalog()
    if into is None:
        click.echo(protocol_table.drawn(catalog))
    else:
        protocol_table.write_into(catalog, into)


PAPER = (audit, protocols)
