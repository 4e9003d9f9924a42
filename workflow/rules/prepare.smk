from sbora_bench.inputs.models.sources import source_of

PRETRAINED = [
    name
    for name, model in PLAN.catalog.models.items()
    if source_of(name, model).command == "pretrain"
]


rule prepare_table:
    """Fetch, check and render what a table is trained and scored on; note which test items were in training."""
    input:
        code=code_of("inputs.prepare"),
    output:
        directory(f"{RESULTS}/data/{{table}}"),
    log:
        f"{RESULTS}/logs/prepare/{{table}}.log",
    conda:
        "../../environment.yml"
    params:
        asked=ASKED,
        settings=data_settings,
    shell:
        "sbora-bench prepare {params.asked:q} --table {wildcards.table:q} --output {output:q} > {log:q} 2>&1"


rule prepare_model:
    """Fetch a model's weights and check them."""
    input:
        code=code_of("inputs.models.fetch"),
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/{model}.log",
    wildcard_constraints:
        model="|".join(name for name in PLAN.catalog.models if name not in PRETRAINED),
    conda:
        "../../environment.yml"
    params:
        experiment=FILE,
        settings=model_settings,
    shell:
        "sbora-bench prepare --experiment {params.experiment:q} --model {wildcards.model:q} --output {output:q} > {log:q} 2>&1"


rule pretrain:
    """Train a small base from the synthetic corpus."""
    input:
        code=code_of("train.pretrain"),
    output:
        directory("resources/models/{model}"),
    log:
        "resources/logs/{model}.log",
    wildcard_constraints:
        model="|".join(PRETRAINED),
    priority: 10
    conda:
        "../../environment.yml"
    params:
        experiment=FILE,
        settings=model_settings,
    shell:
        "sbora-bench pretrain --experiment {params.experiment:q} {wildcards.model:q} --output {output:q} > {log:q} 2>&1"
