# Where an experiment says of which runs: what their adapters change in the base's weights. A job a table and model.
for (table, model), runs in FILES.region_jobs.items():

    rule:
        name:
            rule_name("regions", table, model)
        input:
            FILES.trained(runs),
            base=f"resources/models/{model}",
        output:
            FILES.regions_of(runs),
        log:
            f"{FILES.root}/logs/regions/{table}-{model}.log",
        conda:
            "../../environment.yml"
        params:
            options=OPTIONS,
            code=code("score.regions"),
            results=subpath(output[0], ancestor=FILES.depth(FILES.regions_of(runs))),
            resources=subpath(input.base, ancestor=2),
            runs=[run.name for run in runs],
        message:
            f"{table}, {model}: what {len(runs)} adapters change; log: {{log}}"
        shell:
            "sbora-bench regions {params.options:q} --results {params.results:q} --resources {params.resources:q} --keep {params.runs:q} > {log:q} 2>&1"
