# As in finetune.smk, a rule for each job; the untuned bases are runs like the others.
for table in EXPERIMENT.tables:
    for number, runs in enumerate(jobs(table, "evaluate")):

        rule:
            name:
                rule_name("evaluate", table, number)
            input:
                trained(runs),
                data=f"{RESULTS}/data/{table}",
                base=f"resources/models/{runs[0].model}",
                code=code_of("score.evaluate"),
            output:
                of(runs, scored_files(table)),
                of(tuned(runs), [CARD]),
            log:
                f"{RESULTS}/logs/evaluate/{table}-{number}.log",
            conda:
                "../../environment.yml"
            threads: PLAN.protocol(table).threads
            resources:
                gpu=EXPERIMENT.gpus_per_job,
            params:
                asked=ASKED,
                results=subpath(output[0], ancestor=3),
                resources=subpath(input.base, ancestor=2),
                settings=[PLAN.settings_hash(run) for run in runs],
                runs=[run.name for run in runs],
            shell:
                "sbora-bench evaluate {params.asked:q} --results {params.results:q} --resources {params.resources:q} {params.runs:q} > {log:q} 2>&1"
