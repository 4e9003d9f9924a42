"""Two tasks in lm-eval's own YAML, with their data."""

import json
from pathlib import Path

import yaml

SUMS = {
    "task": "toy_sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "test.jsonl", "train": "train.jsonl"}},
    "test_split": "test",
    "fewshot_split": "train",
    "num_fewshot": 2,
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{solution}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "temperature": 0.0, "max_gen_toks": 5},
    "filter_list": [
        {
            "name": "strict",
            "filter": [{"function": "regex", "regex_pattern": "#### ([0-9]+)"}, {"function": "take_first"}],
        },
        {
            "name": "last",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": "([0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
    "metric_list": [
        {"metric": "exact_match", "regexes_to_ignore": ["(?s).*#### "], "aggregation": "mean", "higher_is_better": True}
    ],
}
LETTERS = {
    "task": "toy_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "choice.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["red", "blue"],
    "doc_to_target": "{{label}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}


def write_tasks(folder: Path) -> None:
    """Two tasks of one's own, with their data."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, start, count in (("test", 0, 4), ("train", 5, 5)):
        rows = [{"question": f"{n} + 1", "solution": f"{n} and 1. #### {n + 1}"} for n in range(start, start + count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"question": f"the cat {n} is", "label": n % 2} for n in range(4)]
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(yaml.safe_dump(SUMS))
    (folder / "choice.yaml").write_text(yaml.safe_dump(LETTERS))
