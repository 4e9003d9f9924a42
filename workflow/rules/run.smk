# A rule for each job, since outputs can't be functions. A job carries several runs, and trains and scores each, for
# imports cost as much as a short run. A finished run also stands in the results folder's store, its training and its
# scores apart: neither a sibling's crash nor an edit of scoring takes a training along.
for table in PLAN.experiment.tables:
    tokens = tokens_of_a_run(PLAN, table)
    for number, runs in enumerate(jobs(PLAN, table)):
        # not within the message: from Python 3.12 on snakefmt takes the spaces out of a sum there
        noun = "run" if len(runs) == 1 else "runs"

        rule:
            name:
                rule_name("run", table, number)
            input:
                FILES.rates_of(runs),
                data=FILES.data_of(table),
                base=f"resources/models/{runs[0].model}",
            output:
                FILES.made(runs),
            log:
                f"{FILES.root}/logs/run/{table}-{number}.log",
            priority: priority(PLAN, runs, tokens)
            conda:
                "../../environment.yml"
            threads: PLAN.protocol(table).threads
            resources:
                gpu=PLAN.experiment.gpus_per_job,
            params:
                options=OPTIONS,
                code=code("train.finetune", "score.evaluate"),
                results=subpath(output[0], ancestor=FILES.depth(FILES.made(runs))),
                resources=subpath(input.base, ancestor=2),
                settings=FILES.settings(runs),
                runs=[run.name for run in runs],
            message:
                f"{table}, {runs[0].model}: train and score {len(runs)} {noun}; log: {{log}}"
            shell:
                "sbora-bench run {params.options:q} --results {params.results:q} --resources {params.resources:q} {params.runs:q} > {log:q} 2>&1"
