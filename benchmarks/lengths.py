"""How long the real examples are: deciles of tokens, for the catalog's `lengths`.

    SBORA_DATA_ROOT=... python benchmarks/lengths.py --model resources/models/smollm2-135m \\
        --ladder resources/models/ladder-s > lengths.yaml

Of every file of the catalog's that lies below SBORA_DATA_ROOT, in the official prompts, by one model's tokenizer;
another one's counts differ. Of the ladder's training sets, in the prompts they are trained in, by Ladder S's. Goes to
experiments/catalog/lengths.yaml.
"""

import argparse
import os
import sys
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.files import read_json
from sbora_bench.inputs.data.prompts import render
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.data_entries import FileData
from sbora_bench.plan.lengths import deciles

# Sets that can't be measured here, and the one that stands for each: why.
ALIKE = {"math-10k": ("math-data", "written by the same makers for the same questions; math_10k.json was not at hand")}
LADDER = {"commonsense": "ladder-commonsense", "arithmetic": "ladder-math", "mmlu": "ladder-instruct"}


def measured(tokenizer, rows: list[dict], training: bool, template: str = "llm-adapters-train") -> dict[str, tuple]:
    count = lambda text: len(tokenizer(text)["input_ids"])  # noqa: E731
    if not training:
        return {"prompt": deciles([count(render("llm-adapters-score", row["instruction"])) for row in rows])}
    answers = [count(row["output"]) + 1 for row in rows]
    prompts = [count(render(template, row["instruction"], row.get("input", ""))) for row in rows]
    return {
        "example": deciles([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]),
        "answer": deciles(answers),
    }


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--ladder", required=True, type=Path, help="Ladder S as it was prepared")
    arguments = parser.parse_args()
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder laid out like LLM-Adapters")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    print("# Made by benchmarks/lengths.py: eleven deciles of tokens each, the shortest and the longest among them.")
    print("lengths:")
    catalog, known = load_catalog(), {}
    for name, entry in catalog.data.items():
        path = Path(root) / entry.path if isinstance(entry, FileData) else None
        if path is None or entry.stand_in or not path.is_file():
            continue
        lengths = measured(tokenizer, read_json(path), training="train" in entry.path)
        known[name] = lengths, f"{len(read_json(path)):,} rows of {entry.path}, tokens of {arguments.model.name}"
    ladder = AutoTokenizer.from_pretrained(arguments.ladder)
    for suite, name in LADDER.items():
        rows = read_examples(name, catalog.data[name])
        template = catalog.protocol("ladder", suite, {}, "ladder").train_prompt
        known[name] = measured(ladder, rows, True, template), f"{len(rows):,} rows made here, tokens of ladder-s"
    for name, (other, why) in ALIKE.items():
        if name not in known and other in known:
            known[name] = known[other][0], f"those of {known[other][1]}; {why}"
    for name, (lengths, source) in known.items():
        print(f"  {name}:")
        for key, values in lengths.items():
            print(f"    {key}: {list(values)}")
        print(f"    source: {source}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
