rule collect:
    """All records into three CSV files."""
    input:
        RECORDS,
    output:
        FILES.collected,
    log:
        f"{FILES.root}/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("analysis.collect"),
        results=subpath(output[0], parent=True),
    message:
        "collect the records; log: {log}"
    shell:
        "sbora-bench collect {params.options:q} --results {params.results:q} > {log:q} 2>&1"


rule tables:
    """The paper's tables, ours beside the reported ones."""
    input:
        RECORDS,
        SAMPLES,
        FILES.data,
        FILES.paper["footprint"],
        FILES.regions,
        FILES.collected,
    output:
        [in_report(name) for name in FILES.tables],
    log:
        f"{FILES.root}/logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("report.tables", without=("caption",)),
        results=subpath(output[0], ancestor=2),
    message:
        "draw the tables; log: {log}"
    shell:
        "sbora-bench tables {params.options:q} --results {params.results:q} > {log:q} 2>&1"


rule figures:
    """Score against trainable parameters, training curves, footprint."""
    input:
        RECORDS,
        FILES.paper["footprint"],
        FILES.paper["memory"],
        FILES.regions,
        FILES.collected,
    output:
        [in_report(name) for name in FILES.figures],
    log:
        f"{FILES.root}/logs/figures.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("report.figures", without=("caption",)),
        results=subpath(output[0], ancestor=2),
    message:
        "draw the figures; log: {log}"
    shell:
        "sbora-bench figures {params.options:q} --results {params.results:q} > {log:q} 2>&1"


rule paper_audit:
    """The reported numbers and claims, recomputed; needs nothing of ours."""
    output:
        f"{FILES.root}/paper_audit.json",
    log:
        f"{FILES.root}/logs/paper_audit.log",
    conda:
        "../../environment.yml"
    params:
        code=code("report.audit", "cost.footprint"),
        settings=paper_catalog(),
    message:
        "recompute the reported averages and claims; log: {log}"
    shell:
        "sbora-bench audit --json > {output:q} 2> {log:q}"


rule audit:
    """Our averages recomputed, beside the reported numbers where the experiment counts the paper's cells."""
    input:
        FILES.tables,
        reported=FILES.paper["audit"],
    output:
        [in_report(name) for name in FILES.audit],
    log:
        f"{FILES.root}/logs/audit.log",
    conda:
        "../../environment.yml"
    params:
        code=code("report.audit"),
        beside="--reported" if FILES.paper["audit"] else "--own",
        tables=subpath(input[0], parent=True),
        results=subpath(output[0], parent=True),
    message:
        "recompute our averages; log: {log}"
    shell:
        "sbora-bench audit --tables {params.tables:q} --output {params.results:q} {params.beside} {input.reported:q} > {log:q} 2>&1"


rule cards:
    """A model card beside each adapter."""
    input:
        RECORDS,
    output:
        touch(FILES.every_card) if STAGED else FILES.cards,
    log:
        f"{FILES.root}/logs/cards.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("report.cards"),
        results=subpath(output[0], ancestor=FILES.depth(FILES.cards)),
    message:
        "write the model cards; log: {log}"
    shell:
        "sbora-bench cards {params.options:q} --results {params.results:q} > {log:q} 2>&1"


rule report:
    """One self-contained page."""
    input:
        RECORDS,
        SAMPLES,
        FILES.data,
        FILES.collected,
        FILES.tables,
        FILES.figures,
        FILES.audit,
    output:
        in_report(FILES.page),
    log:
        f"{FILES.root}/logs/report.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("report.page"),
        results=subpath(output[0], parent=True),
    message:
        "draw the page; log: {log}"
    shell:
        "sbora-bench report {params.options:q} --results {params.results:q} > {log:q} 2>&1"


rule failures:
    """The end of a reproduction with status 1 where runs failed; all the rest is there by then."""
    input:
        RECORDS,
        FILES.page,
    output:
        touch(FILES.every_run_ok),
    log:
        f"{FILES.root}/logs/failures.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("results.failures"),
        results=subpath(output[0], parent=True),
    message:
        "list the failed runs; log: {log}"
    shell:
        "sbora-bench failures {params.options:q} --results {params.results:q} > {log:q} 2>&1"
