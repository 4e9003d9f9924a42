SCORES = [
    f"{RUNS}/{run.name}/{name}"
    for run in PLAN.runs
    for name in ("footprint.json", *scored_files(run.table))
    if name.endswith(".json")
]
TRAINED = [f"{RUNS}/{run.name}/train.json" for run in PLAN.runs if not run.is_base]
SAMPLES = [
    f"{RUNS}/{run.name}/{name}"
    for run in PLAN.runs
    for name in scored_files(run.table)
    if name != "scores.json"
]
DATA = [f"{RESULTS}/data/{table}" for table in EXPERIMENT.tables]
PAPER = [f"{RESULTS}/paper_footprint.csv"] if EXPERIMENT.paper_footprint else []
MEMORY = [f"{RESULTS}/paper_memory.csv"] if EXPERIMENT.paper_footprint else []
REPORTED = [f"{RESULTS}/paper_audit.json"] if EXPERIMENT.paper_footprint else []

CSV = [f"{RESULTS}/{name}.csv" for name in ("scores", "footprint", "budget")]


rule collect:
    """All records into three CSV files."""
    input:
        SCORES,
        TRAINED,
        code=code_of("analysis.collect"),
    output:
        CSV,
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        results=subpath(output[0], parent=True),
    shell:
        "sbora-bench collect {params.asked:q} --results {params.results:q} > {log:q} 2>&1"


rule tables:
    """The paper's tables, ours beside the reported ones."""
    input:
        SCORES,
        TRAINED,
        SAMPLES,
        DATA,
        PAPER,
        CSV,
        code=code_of("report.tables"),
    output:
        [in_report(name) for name in TABLES],
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        results=subpath(output[0], ancestor=2),
    shell:
        "sbora-bench tables {params.asked:q} --results {params.results:q} > {log:q} 2>&1"


rule figures:
    """Score against trainable parameters, training curves, footprint."""
    input:
        SCORES,
        TRAINED,
        PAPER,
        MEMORY,
        CSV,
        code=code_of("report.figures"),
    output:
        [in_report(name) for name in FIGURES],
    log:
        f"{RESULTS}/logs/figures.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        results=subpath(output[0], ancestor=2),
    shell:
        "sbora-bench figures {params.asked:q} --results {params.results:q} > {log:q} 2>&1"


rule paper_audit:
    """The reported numbers and claims, recomputed; needs nothing of ours."""
    input:
        code=code_of("report.audit") + code_of("cost.footprint"),
        catalog=PAPER_CATALOG,
    output:
        f"{RESULTS}/paper_audit.json",
    log:
        f"{RESULTS}/logs/paper_audit.log",
    conda:
        "../../environment.yml"
    shell:
        "sbora-bench audit --json > {output:q} 2> {log:q}"


rule audit:
    """Our averages recomputed, beside the reported numbers where the experiment counts the paper's cells."""
    input:
        TABLES,
        reported=REPORTED,
        code=code_of("report.audit"),
    output:
        [in_report(name) for name in AUDIT],
    log:
        f"{RESULTS}/logs/audit.log",
    conda:
        "../../environment.yml"
    params:
        beside="--reported" if REPORTED else "--own",
        tables=subpath(input[0], parent=True),
        results=subpath(output[0], parent=True),
    shell:
        "sbora-bench audit --tables {params.tables:q} --output {params.results:q} {params.beside} {input.reported:q} > {log:q} 2>&1"


rule report:
    """One self-contained page."""
    input:
        SCORES,
        TRAINED,
        SAMPLES,
        DATA,
        CSV,
        TABLES,
        FIGURES,
        AUDIT,
        code=code_of("report.page"),
    output:
        in_report(f"{RESULTS}/report.html"),
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        results=subpath(output[0], parent=True),
    shell:
        "sbora-bench report {params.asked:q} --results {params.results:q} > {log:q} 2>&1"


rule failures:
    """The end of a reproduction with status 1 where runs failed; all the rest is there by then."""
    input:
        SCORES,
        TRAINED,
        f"{RESULTS}/report.html",
        code=code_of("results.failures"),
    output:
        touch(CHECKED),
    log:
        f"{RESULTS}/logs/failures.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        results=subpath(output[0], parent=True),
    shell:
        "sbora-bench failures {params.asked:q} --results {params.results:q} > {log:q} 2>&1"
