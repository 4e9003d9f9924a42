"""An experiment around the toy LLaMA whose runs can be trained."""

import json

from sbora_bench.files import read_json, sha256, write_jsonl
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.train import finetune as stage
from tests.factories import toy_runs

FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
SETTINGS = {"steps": 3, "batch_size": 4, "micro_batch": 2, "dropout": 0.1, "checkpoint_every": 2, "warmup_steps": 1}
METHODS = {
    "lora": {
        "title": "LoRA",
        "peft_type": "LORA",
        "arguments": {
            "r": "$rank",
            "lora_alpha": "$alpha",
            "lora_dropout": "$dropout",
            "target_modules": "$target_modules",
        },
    },
    "sbora-fa": {
        "title": "SBoRA-FA",
        "peft_type": "SBORA",
        "arguments": {
            "variant": "fa",
            "r": "$rank",
            "sbora_alpha": "$alpha",
            "sbora_dropout": "$dropout",
            "target_modules": "$target_modules",
            "random_seed": "$seed",
        },
    },
}


def house(root, rows: int = 24, methods=("lora", "sbora-fa"), **protocol):
    """A plan whose runs can be trained in `root`."""
    toy_runs.write_experiment(root, SETTINGS | protocol)
    catalog = root / "experiments" / "catalog" / "toy.yaml"
    entries = read_json(catalog) | {"methods": METHODS}
    catalog.write_text(json.dumps(entries))
    experiment = root / "experiments" / "toy.yaml"
    written = read_json(experiment)
    written["tables"]["toy"]["grids"][0]["methods"] = list(methods)
    experiment.write_text(json.dumps(written))
    training = [
        {"prompt": f"Question {prompt} the answer is", "response": ["red", "blue", "1 2"][index % 3]}
        for index, prompt in enumerate(toy_runs.prompts(rows))
    ]
    write_jsonl(root / "results" / "data" / "toy" / "train.jsonl", training)
    load_catalog.cache_clear()
    return load_plan(str(experiment))


def train(plan, root, *names) -> None:
    stage.finetune(plan, [plan.run(name) for name in names], root / "resources", root / "results")


def digests(root, name) -> list[str]:
    return [sha256(root / "results" / "runs" / name / file) for file in FILES]
