# One rule for each table and chunk of seeds: a job carries the chunk, for imports cost as much as a short run.
# A finished run also stands in the results folder's store, so that a sibling's crash doesn't take it along.
for table in EXPERIMENT.tables:
    for number, seeds in enumerate(chunks(table)):

        rule:
            name:
                f"finetune_{table}_{number}".replace("-", "_").replace(".", "_")
            input:
                data=f"{RESULTS}/data/{table}",
                base=base_weights,
                code=code_of("finetune"),
            output:
                expand(
                    f"{RUNS}/{{{{cell}}}}-s{{seed}}/{{name}}",
                    seed=seeds,
                    name=["train.json", *ADAPTER],
                ),
            log:
                f"{RESULTS}/logs/finetune/{{cell}}-{number}.log",
            wildcard_constraints:
                cell=cells(table),
            conda:
                "../../environment.yml"
            threads: PLAN.protocol(table).threads
            resources:
                gpu=EXPERIMENT.gpus_per_job,
            params:
                settings=settings,
                runs=expand("{{cell}}-s{seed}", seed=seeds),
            shell:
                "sbora-bench finetune --experiment {FILE:q} {params.runs:q} > {log:q} 2>&1"
