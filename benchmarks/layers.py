"""What an adapter adds to the forward and backward of the layers it adapts, side by side with PEFT's LoRA.

    python benchmarks/layers.py --rounds 40 --output results/benchmarks/layers.json
    python benchmarks/layers.py --profile  # where the time of LoRA r=32 and FA r=64 goes, operator by operator

The layers are the five that the paper adapts (q, k, v, up, down) of one block, with random weights: they cost
the same as trained ones. "Overhead" is the time of a forward and backward pass with the adapter less that of
the same frozen layers, whose inputs need a gradient too; the overhead of LoRA is 1.

At LLaMA's size the adapter is a few per cent of the layer, and the noise of the frozen matrix products drowns
it. They are the same in every method, so their time is taken inside of every pass and left out of it. The
methods take turns, layer by layer, and a round is one pass of each; ratios are of medians over the rounds, with
a bootstrap interval over rounds. With one thread the clock is that of the thread's own CPU time, which other
jobs on the machine do not count towards; with more it is the wall's.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn

from sbora import SboraConfig

BLOCKS = {  # tokens; (in_features, out_features) of q, k, v, up, down
    "SmolLM2-135M, 768 tokens": (768, [(576, 576), (576, 192), (576, 192), (576, 1536), (1536, 576)]),
    "LLaMA-7B, 256 tokens": (256, [(4096, 4096), (4096, 4096), (4096, 4096), (4096, 11008), (11008, 4096)]),
}
METHODS = {
    "LoRA r=32": LoraConfig(r=32, lora_alpha=64),
    "LoRA r=32, dropout": LoraConfig(r=32, lora_alpha=64, lora_dropout=0.05),
    "FA r=32": SboraConfig(variant="fa", r=32, sbora_alpha=64),
    "FA r=32, train_merged": SboraConfig(variant="fa", r=32, sbora_alpha=64),
    "FB r=32": SboraConfig(variant="fb", r=32, sbora_alpha=64),
    "FB r=32, train_merged": SboraConfig(variant="fb", r=32, sbora_alpha=64),
    "FA r=32, dropout": SboraConfig(variant="fa", r=32, sbora_alpha=64, sbora_dropout=0.05),
    "FA r=64": SboraConfig(variant="fa", r=64, sbora_alpha=128),
}
BASELINE = {"FA r=32, dropout": "LoRA r=32, dropout"}  # what a method is compared with, if not LoRA r=32


class Clock:
    """Adds up the time that passes inside the frozen matrix products."""

    def __init__(self, threads: int):
        self.now = time.thread_time if threads == 1 else time.perf_counter
        self.frozen = 0.0

    def timed(self, product, *args):
        start = self.now()
        result = product(*args)
        self.frozen += self.now() - start
        return result


class FrozenProduct(torch.autograd.Function):
    """x W^T and its backward, each timed."""

    @staticmethod
    def forward(ctx, x, weight, clock):
        ctx.save_for_backward(weight)
        ctx.clock = clock
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        return clock.timed(F.linear, x, weight)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return ctx.clock.timed(torch.matmul, grad, weight), None, None


class TimedLinear(nn.Linear):
    """A frozen linear layer without a bias, as LLaMA's are."""

    def __init__(self, weight: torch.Tensor, clock: Clock):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.clock = clock

    def forward(self, x):
        return FrozenProduct.apply(x, self.weight, self.clock)


def build(shapes: list[tuple[int, int]], dtype: torch.dtype, clock: Clock) -> dict[str, list[nn.Module]]:
    """For every method its five layers; the weights are shared but for those that are merged into."""
    weights = [torch.randn(out, inp).mul_(inp**-0.5).to(dtype) for inp, out in shapes]
    built = {"frozen": [TimedLinear(weight, clock) for weight in weights]}
    names = [str(i) for i in range(len(shapes))]
    for name, config in METHODS.items():
        own = [w.clone() for w in weights] if "merged" in name else weights
        model = nn.Sequential(*(TimedLinear(weight, clock) for weight in own))
        config = copy.deepcopy(config)
        config.target_modules = set(names)
        model = get_peft_model(model, config)
        if "merged" in name:
            model.base_model.train_merged()
        built[name] = list(model.base_model.model)
    return built


def measure(block: str, dtype: torch.dtype, rounds: int, threads: int) -> dict[str, list[tuple[float, float]]]:
    """For every method and round: seconds outside, and inside, of the frozen products of the five layers."""
    tokens, shapes = BLOCKS[block]
    clock = Clock(threads)
    built = build(shapes, dtype, clock)
    times = {name: [] for name in built}
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    for number in range(rounds + 2):
        order = list(built)[number % len(built) :] + list(built)[: number % len(built)]
        sums = dict.fromkeys(built, (0.0, 0.0))
        for i, (inp, out) in enumerate(shapes):
            x = torch.randn(tokens, inp).to(dtype).requires_grad_()
            grad = torch.randn(tokens, out).to(dtype)
            for name in order:
                layer = built[name][i]
                x.grad = None
                for p in layer.parameters():
                    p.grad = None
                clock.frozen = 0.0
                start = clock.now()
                with autocast:
                    y = layer(x)
                y.backward(grad)
                total = clock.now() - start
                sums[name] = (sums[name][0] + total - clock.frozen, sums[name][1] + clock.frozen)
        if number >= 2:  # the first two warm up
            for name, pair in sums.items():
                times[name].append(pair)
    return times


def summarise(times: dict[str, list[tuple[float, float]]], resamples: int = 2000) -> dict[str, dict]:
    """Overheads in milliseconds and as ratios of LoRA's, with a 95 % bootstrap interval over rounds."""
    rest = {name: torch.tensor([pair[0] for pair in pairs]) for name, pairs in times.items()}
    rounds = len(rest["frozen"])
    drawn = torch.randint(rounds, (resamples, rounds), generator=torch.Generator().manual_seed(0))

    def overhead(name):
        median = (rest[name] - rest["frozen"]).median
        return median().item(), (rest[name] - rest["frozen"])[drawn].median(dim=1).values

    summary = {"frozen": {"milliseconds": 1e3 * statistics.median(pair[1] for pair in times["frozen"])}}
    for name in METHODS:
        against = BASELINE.get(name, "LoRA r=32")
        (my_overhead, my_draws), (theirs, their_draws) = overhead(name), overhead(against)
        low, high = torch.quantile(my_draws / their_draws, torch.tensor([0.025, 0.975])).tolist()
        summary[name] = {
            "overhead_milliseconds": 1e3 * my_overhead,
            "against": against,
            "ratio": my_overhead / theirs,
            "interval": [low, high],
        }
    return summary


def profile(block: str, passes: int = 20) -> None:
    """Print the operators that take the most time in fp32, frozen products included, for two methods."""
    tokens, shapes = BLOCKS[block]
    built = build(shapes, torch.float32, Clock(torch.get_num_threads()))
    for name in ("LoRA r=32", "FA r=64"):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(passes):
                for layer, (inp, out) in zip(built[name], shapes, strict=True):
                    layer(torch.randn(tokens, inp).requires_grad_()).backward(torch.ones(tokens, out))
        print(f"\n{name}, {block}, float32, {passes} passes")
        print(profiler.key_averages(group_by_input_shape=True).table(sort_by="self_cpu_time_total", row_limit=14))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/layers.json"))
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.profile:
        profile(next(iter(BLOCKS)))
        return
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": args.threads,
        "clock": "CPU time of the thread" if args.threads == 1 else "wall",
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    results = {}
    for block in BLOCKS:
        for dtype in (torch.bfloat16, torch.float32):
            rounds = args.rounds if "135M" in block else max(args.rounds // 4, 5)
            key = f"{block}, {str(dtype).removeprefix('torch.')}"
            results[key] = summarise(measure(block, dtype, rounds, args.threads)) | {"rounds": rounds}
            print(f"\n{key} ({rounds} rounds; frozen products {results[key]['frozen']['milliseconds']:.1f} ms)")
            for name in METHODS:
                row = results[key][name]
                print(
                    f"  {name:24s} {row['overhead_milliseconds']:8.2f} ms   {row['ratio']:5.2f} of {row['against']}"
                    f"  [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]",
                    flush=True,
                )
            args.output.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
