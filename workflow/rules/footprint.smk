for table in PLAN.experiment.tables:

    rule:
        name:
            rule_name("footprint", table)
        output:
            FILES.footprints(table),
        log:
            f"{FILES.root}/logs/footprint/{table}.log",
        conda:
            "../../environment.yml"
        params:
            options=OPTIONS,
            code=code("cost.footprint"),
            results=subpath(output[0], ancestor=FILES.depth(FILES.footprints(table))),
            table=table,
            settings=FILES.cell_settings(table),
        message:
            f"{table}: count and trace the cells; log: {{log}}"
        shell:
            "sbora-bench footprint {params.options:q} --results {params.results:q} --table {params.table:q} > {log:q} 2>&1"


rule paper_memory:
    """Memory by kind of each method at each scale of the paper, estimated; needs no weights and no GPU."""
    output:
        f"{FILES.root}/paper_memory.csv",
    log:
        f"{FILES.root}/logs/footprint/paper_memory.log",
    conda:
        "../../environment.yml"
    params:
        code=code("cost.footprint"),
        settings=paper_catalog(),
    message:
        "estimate the memory of the paper's methods; log: {log}"
    shell:
        "sbora-bench footprint --paper-memory --output {output:q} > {log:q} 2>&1"


rule paper_footprint:
    """Parameters of the paper's cells at true LLaMA scale; needs no weights."""
    output:
        f"{FILES.root}/paper_footprint.csv",
    log:
        f"{FILES.root}/logs/footprint/paper.log",
    conda:
        "../../environment.yml"
    params:
        code=code("cost.footprint"),
        settings=paper_catalog(),
    message:
        "count the parameters of the paper's cells; log: {log}"
    shell:
        "sbora-bench footprint --paper --output {output:q} > {log:q} 2>&1"
