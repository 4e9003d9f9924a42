PAPER_CATALOG = kept_here(
    f"experiments/catalog/{name}.yaml" for name in ("models", "methods", "protocols")
)

for table in EXPERIMENT.tables:

    rule:
        name:
            rule_name("footprint", table)
        input:
            code=code_of("cost.footprint"),
        output:
            [f"{RUNS}/{run.name}/footprint.json" for run in PLAN.runs_of(table)],
        log:
            f"{RESULTS}/logs/footprint/{table}.log",
        conda:
            "../../environment.yml"
        params:
            asked=ASKED,
            results=subpath(output[0], ancestor=3),
            table=table,
            settings=[PLAN.settings_hash(Run(cell)) for cell in PLAN.tuned_cells(table)],
        shell:
            "sbora-bench footprint {params.asked:q} --results {params.results:q} --table {params.table:q} > {log:q} 2>&1"


rule paper_memory:
    """Memory by kind of each method at each scale of the paper, foretold; needs no weights and no GPU."""
    input:
        code=code_of("cost.footprint"),
        catalog=PAPER_CATALOG,
    output:
        f"{RESULTS}/paper_memory.csv",
    log:
        f"{RESULTS}/logs/footprint/paper_memory.log",
    conda:
        "../../environment.yml"
    shell:
        "sbora-bench footprint --paper-memory --output {output:q} > {log:q} 2>&1"


rule paper_footprint:
    """Parameters of the paper's cells at true LLaMA scale; needs no weights."""
    input:
        code=code_of("cost.footprint"),
        catalog=PAPER_CATALOG,
    output:
        f"{RESULTS}/paper_footprint.csv",
    log:
        f"{RESULTS}/logs/footprint/paper.log",
    conda:
        "../../environment.yml"
    shell:
        "sbora-bench footprint --paper --output {output:q} > {log:q} 2>&1"
