"""A tiny random LLaMA with a word-level tokenizer, and an experiment around it whose runs can be scored."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sbora_bench.files import sha256, write_json, write_jsonl
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Run
from sbora_bench.results.records import BaseRecord, ContaminationRecord, TaskData, write_record
from tests.factories import made_results

LABELS = ["true", "false", "answer1", "answer2", "answer3", "A", "B", "C", "D", "E", "(", ")", ".", "###", "Response:"]
WORDS = [*LABELS, "Question", "the", "answer", "is", "red", "blue", "cat", "dog", "house", *map(str, range(10))]
ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
PROTOCOL = made_results.PROTOCOL | {
    "title": "toy",
    "target_modules": ["q_proj", "v_proj"],
    "schedule": "constant",
    "steps": 1,
    "max_new_tokens": 6,
    "num_beams": 2,
    "score_batch": 4,
    "extraction": "official",
}
TEMPLATE = {  # of lm-eval, for tasks of one's own
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "prompt",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
METHODS = {
    "lora": {
        "title": "LoRA",
        "peft_type": "LORA",
        "arguments": {"r": "$rank", "lora_alpha": "$alpha", "target_modules": "$target_modules"},
    }
}
ITEMS = {"toy": "toy-items"}
TASKS = {
    "choose": {"title": "Choose", "template": "choice", "answer": {"official": "answer1|answer2|answer3"}},
    "count": {"title": "Count", "template": "number", "answer": {"official": "last-number"}},
    "pick": {"title": "Pick", "template": "option", "answer": {"official": "first-capital"}},
    "letters": {"title": "Letters", "template": "letter", "answer": {}},
    "absent": {"title": "Absent", "template": "number", "answer": {"official": "last-number"}},
}
ANSWERS = {
    "choose": ["answer1", "answer2", "answer3"],
    "count": ["1.0", "2.0", "3.0"],
    "pick": ["A", "B", "C"],
    "letters": ["A", "B", "C", "D"],
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; BOS before every text."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def protocol(**changes) -> Protocol:
    return Protocol.model_validate(PROTOCOL | changes)


def method_entry(peft_type: str = "LORA", hooks: dict | None = None, **arguments) -> MethodEntry:
    return MethodEntry(title="M", peft_type=peft_type, arguments=arguments, hooks=hooks)


def llama(**settings) -> LlamaForCausalLM:
    """A toy of ARCHITECTURE, changed so, with random weights of torch's seed as it is."""
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(WORDS) + 4} | ARCHITECTURE | settings))


def model(seed: int = 0, spread: float = 0.3) -> LlamaForCausalLM:
    """Random weights, wide enough that the next words differ clearly."""
    torch.manual_seed(seed)
    return llama(bos_token_id=1, eos_token_id=2, initializer_range=spread).eval()


def prompts(count: int) -> list[str]:
    """Prompts of 1 to 17 words, no two alike for 24 of them."""
    generator = torch.Generator().manual_seed(7)
    lengths = [1 + (5 * i) % 17 for i in range(count)]
    draw = lambda n: torch.randint(len(WORDS), (n,), generator=generator).tolist()  # noqa: E731
    return [" ".join(WORDS[index] for index in draw(n)) for n in lengths]


def write_experiment(
    root: Path, protocol: dict | None = None, tasks: dict | None = None, seeds=(0, 1), table: dict | None = None
) -> Plan:
    """`experiments/toy.yaml` with a catalog of its own (JSON is YAML), prepared weights and prepared items.

    `table`: further keys of its one table.
    """
    tasks = tasks or TASKS
    catalog = {
        "models": {
            "tiny": {"title": "Tiny", "source": {"kind": "folder", "path": "unused"}, "architecture": ARCHITECTURE}
        },
        "methods": METHODS,
        "data": {"toy-items": {"kind": "synthetic", "maker": "items", "name": "toy", "seed": 0}},
        "tasks": {name: {**entry, "items": ITEMS} for name, entry in tasks.items()},
        "suites": {"toy": {"title": "Toy", "tasks": list(tasks)}},
        "protocols": {"toy": PROTOCOL | (protocol or {})},
    }
    experiment = {
        "title": "Toy",
        "items": "toy",
        "tables": {
            "toy": {
                "suite": "toy",
                "train": "toy-items",
                "protocol": "toy",
                "seeds": list(seeds),
                "grids": [{"models": ["tiny"], "methods": ["lora"], "ranks": [4]}],
                **(table or {}),
            }
        },
    }
    write_json(root / "experiments" / "catalog" / "toy.yaml", catalog)
    write_json(root / "experiments" / "toy.yaml", experiment)
    plan = load_plan(str(root / "experiments" / "toy.yaml"))
    write_base(root / "resources" / "models" / "tiny")
    write_items(root / "results" / "data" / "toy", list(tasks))
    return plan


def write_base(folder: Path, source: dict | None = None, weights: PreTrainedModel | None = None) -> None:
    """A prepared toy model, or one of such `weights`; `source`: of the catalog's entry in whose place it is."""
    (weights or model()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    files = {name: sha256(folder / name) for name in names}
    write_record(folder / "base.json", BaseRecord(model="tiny", source=source or {"kind": "folder"}, files=files))


def items(task: str, count: int = 10) -> list[dict]:
    answers = ANSWERS.get(task, ["1.0"])
    return [
        {
            "id": f"{task}-{index}",
            "prompt": f"Question {prompt} ### Response: ",
            "answer": answers[index % len(answers)],
            "contaminated": task == "count" and index < 4,
            **({"subject": ["birds", "maths"][index % 2]} if task == "letters" else {}),
        }
        for index, prompt in enumerate(prompts(count))
    ]


def write_items(folder: Path, tasks: list[str]) -> None:
    task_data = {}
    for task in tasks:
        if task == "absent":
            task_data[task] = TaskData(status="not available", reason="test.json is not here")
            continue
        write_jsonl(folder / f"{task}.jsonl", items(task))
        task_data[task] = TaskData(sha256=sha256(folder / f"{task}.jsonl"), n=10)
    record = ContaminationRecord(
        experiment="toy", table="toy", train="toy-items", train_rows=1, train_sha256="", policy="keep", tasks=task_data
    )
    write_record(folder / "contamination.json", record)


def save_adapter(plan: Plan, run: Run, folder: Path, seed: int = 1) -> None:
    """A random adapter of the run's method, which changes what the model says, saved as PEFT saves it."""
    from peft import get_peft_model

    from sbora_bench.inputs.adapters import adapter_config

    config = adapter_config(plan.catalog.methods[run.method], run.rank, run.seed, plan.protocol(run.table))
    tuned = get_peft_model(model(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
    tuned.save_pretrained(str(folder))


def write_adapter(plan: Plan, root: Path, run: Run) -> Path:
    """A random adapter where training would leave it."""
    folder = root / "results" / "runs" / run.name / "adapter"
    save_adapter(plan, run, folder, 100 + run.seed)
    return folder


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
