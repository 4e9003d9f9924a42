rule prepare_table:
    """Fetch, check and render what a table is trained and scored on; note which test items were in training."""
    output:
        directory(f"{FILES.root}/data/{{table}}"),
    log:
        f"{FILES.root}/logs/prepare/{{table}}.log",
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("inputs.prepare"),
        settings=FILES.data_settings,
    message:
        "prepare the data of {wildcards.table}; log: {log}"
    shell:
        "sbora-bench prepare {params.options:q} --table {wildcards.table:q} --output {output:q} > {log:q} 2>&1"


rule prepare_model:
    """Fetch a model's weights and check them."""
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/{model}.log",
    wildcard_constraints:
        model=FILES.models(pretrained=False),
    conda:
        "../../environment.yml"
    params:
        experiment=PLAN.path,
        code=code("inputs.models.fetch"),
        settings=FILES.model_settings,
    message:
        "fetch and check model {wildcards.model}; log: {log}"
    shell:
        "sbora-bench prepare --experiment {params.experiment:q} --model {wildcards.model:q} --output {output:q} > {log:q} 2>&1"


rule pretrain:
    """Train a small base from the synthetic corpus."""
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/{model}.log",
    wildcard_constraints:
        model=FILES.models(pretrained=True),
    priority: PICKING
    conda:
        "../../environment.yml"
    params:
        experiment=PLAN.path,
        code=code("train.pretrain"),
        settings=FILES.model_settings,
    message:
        "pre-train {wildcards.model}; log: {log}"
    shell:
        "sbora-bench pretrain --experiment {params.experiment:q} {wildcards.model:q} --output {output:q} > {log:q} 2>&1"
