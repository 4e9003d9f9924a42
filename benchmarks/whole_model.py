"""What an adapter adds to a forward and backward pass of a whole model, side by side with PEFT's LoRA.

    python benchmarks/whole_model.py --rounds 12 --output results/benchmarks/whole-model.json

SmolLM2-135M with random weights in its five target modules, 256 tokens. As in layers.py the methods take turns, the
overhead is over the frozen model, whose embedded inputs need a gradient too, and ratios are of medians over the rounds
with a bootstrap interval. Nothing is taken out here: the adapter is a small part of the pass, so intervals are wide.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from pathlib import Path

import torch
from peft import get_peft_model
from torch import nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from layers import METHODS, summarise
from sbora_bench.plan.catalog import load_catalog

SMOLLM2 = LlamaConfig(**load_catalog().models["smollm2-135m"].architecture)
TARGETS = {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}


def build(dtype: torch.dtype) -> dict[str, nn.Module]:
    """The frozen model, and a copy of it with every method's adapter."""
    torch.manual_seed(0)
    frozen = LlamaForCausalLM(SMOLLM2).to(dtype).requires_grad_(False)
    built: dict[str, nn.Module] = {"frozen": frozen}
    for name, config in METHODS.items():
        config = copy.deepcopy(config)
        config.target_modules = set(TARGETS)
        model = get_peft_model(copy.deepcopy(frozen), config)
        if "merged" in name:
            model.base_model.train_merged()
        built[name] = model
    return built


def measure(dtype: torch.dtype, tokens: int, rounds: int, threads: int) -> dict[str, list[tuple[float, float]]]:
    """For every method and round: seconds of a forward and backward pass (and 0, for `summarise`)."""
    now = time.thread_time if threads == 1 else time.perf_counter
    models = build(dtype)
    ids = torch.randint(SMOLLM2.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    embedded = models["frozen"].get_input_embeddings()(ids).detach()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    order = list(models)
    for number in tqdm(range(-1, rounds), desc=str(dtype)):  # the first warms up
        for name in order[number % len(order) :] + order[: number % len(order)]:
            model = models[name].train()
            model.zero_grad(set_to_none=True)
            x = embedded.clone().requires_grad_()
            start = now()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = model(inputs_embeds=x, labels=ids).loss
            loss.backward()
            if number >= 0:
                times[name].append((now() - start, 0.0))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/whole-model.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {}
    for dtype in (torch.bfloat16, torch.float32):
        key = str(dtype).removeprefix("torch.")
        times = measure(dtype, args.tokens, args.rounds, args.threads)
        results[key] = summarise(times)
        results[key]["frozen"] = {"milliseconds": 1e3 * statistics.median(total for total, _ in times["frozen"])}
        print(f"\n{key}: frozen {results[key]['frozen']['milliseconds']:.0f} ms")
        for name in METHODS:
            row = results[key][name]
            low, high = row["interval"]
            print(f"  {name:24s} {row['overhead_milliseconds']:8.1f} ms   {row['ratio']:5.2f}  [{low:.2f}, {high:.2f}]")
    report = {
        "tokens": args.tokens,
        "rounds": args.rounds,
        "threads": args.threads,
        "clock": "CPU time of the thread" if args.threads == 1 else "wall",
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "results": results,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
