# What is decided on the way, where an experiment says so: which rates beyond its grid a cell tries, a learning rate for
# each cell, and which cells need more seeds. Every run that may be needed has its rule (run.smk). The picked rates are
# an input of it; a round of extending and a look, checkpoints, say which are needed.
checkpoint extend:
    """The cells whose best learning rate so far ends their grid, and the next rate beyond, which they try."""
    input:
        scores_of_rates(FILES, checkpoints),
    output:
        f"{FILES.root}/rounds/{{table}}-{{round}}.json",
    log:
        f"{FILES.root}/logs/extend/{{table}}-{{round}}.log",
    wildcard_constraints:
        table=FILES.extending_tables,
        round="[0-9]+",
    priority: 2 * PICKING
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("analysis.extend"),
        results=subpath(output[0], ancestor=2),
        settings=FILES.stage_settings,
    message:
        "{wildcards.table}, round {wildcards.round}: is a best learning rate at an end of its grid? log: {log}"
    shell:
        "sbora-bench extend {params.options:q} --results {params.results:q} --table {wildcards.table:q} --round {wildcards.round:q} > {log:q} 2>&1"


rule pick:
    """The learning rate of each cell of a table, by held-out training rows."""
    input:
        scores_of_rates(FILES, checkpoints),
    output:
        f"{FILES.root}/rates/{{table}}.json",
    log:
        f"{FILES.root}/logs/pick/{{table}}.log",
    wildcard_constraints:
        table=FILES.picking_tables,
    priority: 2 * PICKING
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("analysis.pick"),
        results=subpath(output[0], ancestor=2),
        settings=FILES.stage_settings,
    message:
        "{wildcards.table}: pick the learning rates; log: {log}"
    shell:
        "sbora-bench pick {params.options:q} --results {params.results:q} --table {wildcards.table:q} > {log:q} 2>&1"


checkpoint look:
    """The planned comparisons of a table on the seeds so far: decided, or in need of more."""
    input:
        scores_of_seeds(FILES, checkpoints),
    output:
        f"{FILES.root}/looks/{{table}}-{{look}}.json",
    log:
        f"{FILES.root}/logs/look/{{table}}-{{look}}.log",
    wildcard_constraints:
        table=FILES.looking_tables,
        look="[0-9]+",
    priority: 2 * PICKING
    conda:
        "../../environment.yml"
    params:
        options=OPTIONS,
        code=code("analysis.look"),
        results=subpath(output[0], ancestor=2),
        settings=FILES.stage_settings,
    message:
        "{wildcards.table}, look {wildcards.look}: are the planned comparisons decided? log: {log}"
    shell:
        "sbora-bench look {params.options:q} --results {params.results:q} --table {wildcards.table:q} --look {wildcards.look:q} > {log:q} 2>&1"
