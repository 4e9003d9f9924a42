# A rule for each job, since outputs can't be functions: a job carries several runs, for imports cost as much as a short
# run. A finished run also stands in the results folder's store, so that a sibling's crash doesn't take it along.
for table in PLAN.experiment.tables:
    for number, runs in enumerate(jobs(PLAN, table, "finetune")):

        rule:
            name:
                rule_name("finetune", table, number)
            input:
                data=FILES.data_of(table),
                base=f"resources/models/{runs[0].model}",
            output:
                FILES.trained(runs),
            log:
                f"{FILES.root}/logs/finetune/{table}-{number}.log",
            conda:
                "../../environment.yml"
            threads: PLAN.protocol(table).threads
            resources:
                gpu=PLAN.experiment.gpus_per_job,
            params:
                asked=ASKED,
                code=code("train.finetune"),
                results=subpath(output[0], ancestor=3),
                resources=subpath(input.base, ancestor=2),
                settings=[PLAN.training_hash(run) for run in runs],
                runs=[run.name for run in runs],
            shell:
                "sbora-bench finetune {params.asked:q} --results {params.results:q} --resources {params.resources:q} {params.runs:q} > {log:q} 2>&1"
