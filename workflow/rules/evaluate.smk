# As in finetune.smk, one rule for each table and chunk of seeds; and one for the table's untuned bases.
for table in EXPERIMENT.tables:
    for number, seeds in enumerate(chunks(table)):

        rule:
            name:
                f"evaluate_{table}_{number}".replace("-", "_").replace(".", "_")
            input:
                expand(
                    f"{RUNS}/{{{{cell}}}}-s{{seed}}/{{name}}",
                    seed=seeds,
                    name=["train.json", *ADAPTER],
                ),
                data=f"{RESULTS}/data/{table}",
                base=base_weights,
                code=code_of("evaluate"),
            output:
                expand(
                    f"{RUNS}/{{{{cell}}}}-s{{seed}}/{{name}}",
                    seed=seeds,
                    name=["scores.json", *samples_of(table)],
                ),
            log:
                f"{RESULTS}/logs/evaluate/{{cell}}-{number}.log",
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
                "sbora-bench evaluate --experiment {FILE:q} {params.runs:q} > {log:q} 2>&1"

    rule:
        name:
            f"evaluate_{table}_base".replace("-", "_").replace(".", "_")
        input:
            data=f"{RESULTS}/data/{table}",
            base=base_weights,
            code=code_of("evaluate"),
        output:
            expand(
                f"{RUNS}/{{{{cell}}}}/{{name}}",
                name=["scores.json", *samples_of(table)],
            ),
        log:
            f"{RESULTS}/logs/evaluate/{{cell}}.log",
        wildcard_constraints:
            cell="|".join(
                run.name.replace(".", r"\.")
                for run in PLAN.runs_of(table)
                if run.is_base
            ),
        conda:
            "../../environment.yml"
        threads: PLAN.protocol(table).threads
        resources:
            gpu=EXPERIMENT.gpus_per_job,
        params:
            settings=settings,
        shell:
            "sbora-bench evaluate --experiment {FILE:q} {wildcards.cell:q} > {log:q} 2>&1"
