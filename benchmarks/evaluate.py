"""Beam search in batches with cache against the authors' evaluator (batch 1, no cache): seconds, and the same tokens.

    SBORA_DATA_ROOT=... python benchmarks/evaluate.py --model resources/models/smollm2-135m \\
        --output results/published/evaluate-cpu.json [--items 24] [--new-tokens 256] [--batches 1 8 24] [--adapter DIR]

The first AddSub questions in the official prompt. In float32 an item whose tokens differ must have two best beams whose
scores lie within 1e-4 of each other, or the benchmark ends with status 1; in bfloat16 the differing share is printed.
Processor seconds stand beside wall seconds, for a machine that does other work too.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import sbora  # noqa: F401  (registers SBORA with PEFT)
from sbora_bench import provenance
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.inputs.data.prompts import render
from sbora_bench.score.lm_eval_model import Scorer

CLOSE = 1e-4


def questions(count: int) -> list[str]:
    """The first AddSub test items as official scoring prompts."""
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder with dataset/AddSub/test.json")
    items = read_json(Path(root) / "dataset" / "AddSub" / "test.json")[:count]
    return [render("llm-adapters-score", item["instruction"]) for item in items]


def load(arguments, dtype: str) -> Scorer:
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, dtype), use_safetensors=True)
    model.generation_config = GenerationConfig()
    if arguments.adapter:
        model = PeftModel.from_pretrained(model, arguments.adapter).merge_and_unload()
    return Scorer(model, tokenizer, 1, 2048)


def authors_way(scorer: Scorer, ids: list[int], beams: int, new_tokens: int, returned: int = 1):
    """Batch 1, no mask, no cache: (new token ids up to EOS, score) of the best `returned` beams."""
    config = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        num_return_sequences=returned,
        max_new_tokens=new_tokens,
        use_cache=False,
        eos_token_id=scorer.tokenizer.eos_token_id,
        pad_token_id=scorer.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=returned > 1,
    )
    made = scorer.model.generate(input_ids=torch.tensor([ids]), generation_config=config)
    eos = scorer.tokenizer.eos_token_id
    rows = [row[len(ids) :] for row in made.sequences.tolist()]
    rows = [row[: row.index(eos) + 1] if eos in row else row for row in rows]
    return rows, made.sequences_scores.tolist() if returned > 1 else []


def batched(scorer: Scorer, prompts: list[list[int]], batch: int, beams: int, new_tokens: int) -> list[list[int]]:
    """Ours: longest first, in batches, with cache; in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    generated: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        rows = scorer.generate_ids([prompts[index] for index in chosen], new_tokens, num_beams=beams)
        generated.update(zip(chosen, rows, strict=True))
    return [generated[index] for index in range(len(prompts))]


def timed(work):
    """(result, wall seconds, processor seconds)."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - processor


def measure(arguments, dtype: str) -> dict:
    scorer = load(arguments, dtype)
    prompts = [scorer.context_ids(text) for text in questions(arguments.items)]
    beams, new = arguments.beams, arguments.new_tokens
    authors_way(scorer, prompts[0], beams, 2)  # warm
    expected, wall, processor = timed(lambda: [authors_way(scorer, ids, beams, new)[0][0] for ids in prompts])
    rows = [row("authors: no cache", 1, wall, processor, expected)]
    print(dtype, rows[0], file=sys.stderr)
    failed = 0
    for batch in arguments.batches:
        generated, wall, processor = timed(lambda size=batch: batched(scorer, prompts, size, beams, new))
        differing = []
        for index in (index for index in range(len(prompts)) if generated[index] != expected[index]):
            _, scores = authors_way(scorer, prompts[index], beams, new, returned=2)
            differing.append({"item": index, "best_beams_apart": scores[0] - scores[1]})
        failed += sum(item["best_beams_apart"] > CLOSE for item in differing)
        ours = row("ours: cache", batch, wall, processor, generated) | {
            "speedup": round(rows[0]["seconds"] / wall, 2),
            "speedup_processor": round(rows[0]["processor_seconds"] / processor, 2),
            "same_tokens": len(prompts) - len(differing),
            "differing": differing,
        }
        rows.append(ours)
        print(dtype, ours, file=sys.stderr)
    return {"dtype": dtype, "rows": rows, "failed": failed if dtype == "float32" else None}


def row(how: str, batch: int, wall: float, processor: float, tokens: list[list[int]]) -> dict:
    return {
        "how": how,
        "batch": batch,
        "seconds": round(wall, 2),
        "processor_seconds": round(processor, 2),
        "new_tokens": sum(map(len, tokens)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--output", required=True)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 24])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    settings = {key: getattr(arguments, key) for key in ("items", "new_tokens", "beams", "threads")}
    settings |= {
        "model": Path(arguments.model).resolve().name,
        "adapter": arguments.adapter and Path(arguments.adapter).name,
    }
    record = {
        "settings": settings,
        "results": [],
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }
    for dtype in arguments.dtypes:
        record["results"].append(measure(arguments, dtype))
        write_json(arguments.output, record)
    if any(result["failed"] for result in record["results"]):
        sys.exit("tokens differ where the two best beams do not tie")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
