"""What an adapter adds to a mixture of experts, side by side with PEFT's LoRA: time and memory of a training step.

    python benchmarks/experts.py --output results/benchmarks/experts.json

The experts are those of one layer of Qwen3-30B-A3B, 32 of its 128, in bf16 with random weights and routing (256
tokens, 8 experts each); both of their parameters are adapted. "Overhead" is the time of a forward and backward
pass less that of the frozen experts, whose input needs a gradient too. The methods take turns; figures are
medians over rounds, with a bootstrap interval. One thread, timed by its own CPU time, which other jobs do not
count towards. Memory is what operators make, counted until it dies, over the weights that stood before; the
adapters' gradients are among it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from adapters import LiveBytes
from sbora import SboraConfig

EXPERTS, TOKENS, TOP = 32, 256, 8
CONFIG = Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_experts=EXPERTS, num_experts_per_tok=TOP)
PARAMETERS = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
METHODS = {
    "frozen": None,
    "LoRA r=16": LoraConfig(r=16, lora_alpha=32, **PARAMETERS),
    "FA r=16": SboraConfig(variant="fa", r=16, sbora_alpha=32, **PARAMETERS),
    "FB r=16": SboraConfig(variant="fb", r=16, sbora_alpha=32, **PARAMETERS),
    "FA r=32": SboraConfig(variant="fa", r=32, sbora_alpha=64, **PARAMETERS),
}


class Layer(nn.Module):
    """The experts, behind a router that draws."""

    def __init__(self, implementation: str):
        super().__init__()
        config = copy.deepcopy(CONFIG)
        config._experts_implementation = implementation
        self.experts = Qwen3MoeExperts(config).bfloat16()
        for parameter in self.experts.parameters():
            nn.init.normal_(parameter, std=0.02)
        scores = torch.rand(TOKENS, EXPERTS)
        self.weights, self.chosen = scores.softmax(-1).topk(TOP)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts(x, self.chosen, self.weights.to(x.dtype))


def make(name: str, implementation: str) -> nn.Module:
    torch.manual_seed(0)
    layer = Layer(implementation).requires_grad_(False)
    return layer if METHODS[name] is None else get_peft_model(layer, copy.deepcopy(METHODS[name]))


def step(model: nn.Module, x: torch.Tensor) -> None:
    model.zero_grad()
    model(x).sum().backward()


def peak(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes over the weights at the peak of a step."""
    model.zero_grad()
    x.grad = None
    with LiveBytes() as live:
        live.know([*model.parameters(), *model.buffers(), model(x).detach(), x])
        model(x).sum().backward()
    return live.peak


def interval(ratios_of: callable, rounds: int, draws: int = 1000) -> tuple[float, float]:
    """The 95 % interval of a bootstrap over rounds."""
    generator = random.Random(0)
    values = sorted(ratios_of([generator.randrange(rounds) for _ in range(rounds)]) for _ in range(draws))
    return values[int(0.025 * draws)], values[int(0.975 * draws)]


def measure(implementation: str, rounds: int) -> dict:
    models = {name: make(name, implementation) for name in METHODS}
    x = torch.randn(TOKENS, CONFIG.hidden_size).bfloat16().requires_grad_()
    peaks = {name: peak(model, x) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.thread_time()
            step(model, x)
            times[name].append(time.thread_time() - start)

    def overhead(name: str, rows: list[int]) -> float:
        return statistics.median(times[name][i] - times["frozen"][i] for i in rows)

    summary = {}
    for name in models:
        summary[name] = {"seconds": statistics.median(times[name]), "peak_bytes": peaks[name]}
        if name != "frozen":
            every = list(range(rounds))
            summary[name]["overhead"] = overhead(name, every) / overhead("LoRA r=16", every)
            summary[name]["interval"] = interval(
                lambda rows, name=name: overhead(name, rows) / overhead("LoRA r=16", rows), rounds
            )
            summary[name]["parameters"] = sum(p.numel() for p in models[name].parameters() if p.requires_grad)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for implementation in ("grouped_mm", "eager"):
        results[implementation] = measure(implementation, args.rounds)
        for name, values in results[implementation].items():
            milliseconds, mebibytes = 1e3 * values["seconds"], values["peak_bytes"] / 2**20
            line = f"{implementation}, {name:10}: {milliseconds:8.0f} ms, {mebibytes:7.1f} MiB"
            if "overhead" in values:
                low, high = values["interval"]
                line += f", overhead {values['overhead']:.2f} ({low:.2f}-{high:.2f}) of LoRA's"
            print(line, flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = args.output.with_suffix(".part")
        unfinished.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(unfinished, args.output)


if __name__ == "__main__":
    main()
