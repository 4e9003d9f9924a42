# As in finetune.smk, a rule for each job; the untuned bases are runs like the others.
for table in PLAN.experiment.tables:
    for number, runs in enumerate(jobs(PLAN, table, "evaluate")):

        rule:
            name:
                rule_name("evaluate", table, number)
            input:
                FILES.trained(runs),
                data=FILES.data_of(table),
                base=f"resources/models/{runs[0].model}",
            output:
                FILES.scored(runs),
            log:
                f"{FILES.root}/logs/evaluate/{table}-{number}.log",
            conda:
                "../../environment.yml"
            threads: PLAN.protocol(table).threads
            resources:
                gpu=PLAN.experiment.gpus_per_job,
            params:
                asked=ASKED,
                code=code("score.evaluate"),
                results=subpath(output[0], ancestor=FILES.depth(FILES.scored(runs))),
                resources=subpath(input.base, ancestor=2),
                settings=[PLAN.settings_hash(run) for run in runs],
                runs=[run.name for run in runs],
            shell:
                "sbora-bench evaluate {params.asked:q} --results {params.results:q} --resources {params.resources:q} {params.runs:q} > {log:q} 2>&1"
