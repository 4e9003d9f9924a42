# Turns an experiment file into tables, figures and a report.
#   snakemake --cores all                                      experiment `ladder`
#   snakemake --cores all --config experiment=smollm2          another one
#   snakemake --cores all results/ladder/runs/RUN/scores.json  one cell again
#   snakemake --cores all --config retry_failed=true           runs that failed, again
#   snakemake --report results/ladder/snakemake.html           Snakemake's own report, once all is made
report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/run.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/footprint.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/report.smk"


# on a cluster these run where `snakemake` does: they read records, for seconds
localrules:
    collect,
    extend,
    pick,
    look,
    cards,
    tables,
    figures,
    paper_audit,
    audit,
    report,
    failures,


rule all:
    default_target: True
    input:
        FILES.beside_runs,
        required_files(FILES, checkpoints, "runs"),
    message:
        "all is made"


onsuccess:
    print(FILES.where)


onerror:
    if hint := nearly_full(Path(FILES.root)):
        print(f"snakemake: {hint}", file=sys.stderr)
