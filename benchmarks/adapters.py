"""What SBoRA takes beside time: memory of a training step, merging, files; and its time on a 4-bit base.

    python benchmarks/adapters.py --output results/benchmarks/adapters.json

- Memory: a forward and backward pass of LLaMA-7B (bf16, batch 2 x 256, the paper's five target modules, r = 32) on
  the `meta` device, which computes nothing and needs no memory itself. Each storage that an operator makes is counted
  until it dies; the peak is over the weights that stood before, adapters included. With a CPU's flash kernel, and with
  attention in plain matrix products, which keep more.
- Merging: one layer of 4096 x 11008, r = 64, fp32: merge and unmerge, in turns, medians.
- Files: bytes of the saved adapter of LLaMA-7B at r = 32, from its tensors' sizes.
- 4 bits: the overhead over a frozen NF4 layer (double quantisation, bf16), as `layers.py` has it, but by the
  difference of whole passes, for bitsandbytes' product cannot be timed apart. SmolLM2-135M's block, 256 tokens.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
import weakref
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig

from sbora import SboraConfig
from sbora_bench.cost.tracer import Kernels

TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
LLAMA_7B = LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
METHODS = {
    "LoRA": LoraConfig(r=32, lora_alpha=64),
    "LoRA, dropout": LoraConfig(r=32, lora_alpha=64, lora_dropout=0.05),
    "DoRA": LoraConfig(r=32, lora_alpha=64, use_dora=True),
    "FA": SboraConfig(variant="fa", r=32, sbora_alpha=64),
    "FA, dropout": SboraConfig(variant="fa", r=32, sbora_alpha=64, sbora_dropout=0.05),
    "FB": SboraConfig(variant="fb", r=32, sbora_alpha=64),
}


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of the storages that operators make, less those of the dead ones."""

    def __init__(self):
        super().__init__()
        self.seen = weakref.WeakKeyDictionary()
        self.now = self.peak = 0

    def know(self, tensors) -> None:
        """These storages stood before."""
        for tensor in tensors:
            self.seen[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.seen:
                storage = tensor.untyped_storage()
                self.seen[storage] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._died, storage.nbytes())
                self.peak = max(self.peak, self.now)
        return result

    def _died(self, nbytes: int) -> None:
        self.now -= nbytes


def llama_on_meta(config, attention: str = "sdpa") -> nn.Module:
    """LLaMA-7B in bf16 with the adapter, on `meta`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA_7B, attn_implementation=attention).to(torch.bfloat16)
    config = copy.deepcopy(config)
    config.target_modules = set(TARGETS)
    return get_peft_model(model, config, low_cpu_mem_usage=True)


def step_peak(model: nn.Module, rows: int = 2, length: int = 256) -> int:
    """Bytes over the weights at the peak of a forward and backward pass."""
    with torch.device("meta"):
        ids = torch.zeros(rows, length, dtype=torch.long)
        flash = model.config._attn_implementation == "sdpa"
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool if flash else torch.bfloat16)  # 2-D would be read
        positions = torch.zeros(rows, length, dtype=torch.long)
    with LiveBytes() as live:
        live.know([*model.parameters(), *model.buffers(), ids, mask, positions])
        with Kernels("cpu").forward():  # attention as a CPU computes it
            output = model.train()(input_ids=ids, attention_mask=mask, position_ids=positions, labels=ids)
        output.loss.backward()
    return live.peak


def merging_times(rounds: int = 7) -> dict[str, float]:
    """Seconds that merge and unmerge of one layer take, by method."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(11008, 4096, bias=False))
    configs = {
        "LoRA": LoraConfig(r=64, lora_alpha=128, target_modules=["0"], init_lora_weights=False),
        "FA": SboraConfig(variant="fa", r=64, sbora_alpha=128, target_modules=["0"], init_weights=False),
        "FB": SboraConfig(variant="fb", r=64, sbora_alpha=128, target_modules=["0"], init_weights=False),
    }
    layers = {name: get_peft_model(copy.deepcopy(base), c).base_model.model[0] for name, c in configs.items()}
    times = {name: [] for name in layers}
    for _ in range(rounds):
        for name, layer in layers.items():
            with torch.no_grad():
                start = time.perf_counter()
                layer.merge()
                layer.unmerge()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def four_bit_overheads(rounds: int) -> dict[str, float]:
    """Seconds over the frozen NF4 layers that the five layers of a block take, forward and backward."""
    import bitsandbytes as bnb

    torch.manual_seed(0)
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times = {name: [] for name in ("frozen", *METHODS) if name != "DoRA"}
    for inp, out in [(576, 576), (576, 192), (576, 192), (576, 1536), (1536, 576)]:
        base = bnb.nn.Linear4bit(inp, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        base.load_state_dict({"weight": torch.randn(out, inp) / inp**0.5})
        base = nn.Sequential(base.to("cpu")).requires_grad_(False)
        layers = {"frozen": base[0]}
        for name in times:
            if name != "frozen":
                config = copy.deepcopy(METHODS[name])
                config.target_modules = {"0"}
                layers[name] = get_peft_model(copy.deepcopy(base), config).base_model.model[0]
        x = torch.randn(1, 256, inp, dtype=torch.bfloat16, requires_grad=True)
        grad = torch.randn(1, 256, out, dtype=torch.bfloat16)
        for number in range(-2, rounds):
            for name, layer in layers.items():
                x.grad = None
                layer.zero_grad(set_to_none=True)
                start = now()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    y = layer.train()(x)
                y.backward(grad)
                if number >= 0:
                    times[name] += [0.0] * (number + 1 - len(times[name]))
                    times[name][number] += now() - start
    rest = {name: [a - b for a, b in zip(times[name], times["frozen"], strict=True)] for name in times}
    return {name: statistics.median(values) for name, values in rest.items() if name != "frozen"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="of the 4-bit layers")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/adapters.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    memory, plain, files = {}, {}, {}
    for name, config in METHODS.items():
        plain[name] = step_peak(llama_on_meta(config, "eager"))
        model = llama_on_meta(config)
        memory[name] = step_peak(model)
        files[name] = sum(t.numel() * t.element_size() for t in get_peft_model_state_dict(model).values())
        print(
            f"{name:14s} peak over the weights {memory[name] / 2**30:5.2f} GiB, {memory[name] / memory['LoRA']:.3f} of "
            f"LoRA's ({plain[name] / plain['LoRA']:.3f} with plain attention); "
            f"adapter {files[name] / 1e6:6.1f} MB, {files[name] / files['LoRA']:.4f} of LoRA's",
            flush=True,
        )
    print(f"FA, dropout: {memory['FA, dropout'] / memory['LoRA, dropout']:.3f} of LoRA's with it")
    print(f"FA: {memory['FA'] / memory['DoRA']:.3f} of DoRA's")
    merging = merging_times()
    for name, seconds in merging.items():
        print(
            f"merge and unmerge, {name}: {1e3 * seconds:8.2f} ms, {merging['LoRA'] / seconds:5.1f} times LoRA's speed"
        )
    overheads = four_bit_overheads(args.rounds)
    for name, seconds in overheads.items():
        against = "LoRA, dropout" if name == "FA, dropout" else "LoRA"
        print(f"4 bits, {name}: overhead {1e3 * seconds:6.2f} ms, {seconds / overheads[against]:.2f} of Q{against}")
    results = {
        "threads": args.threads,
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "peak_bytes_over_weights": memory,
        "peak_bytes_over_weights_plain_attention": plain,
        "adapter_bytes": files,
        "merge_and_unmerge_seconds": merging,
        "four_bit_overhead_seconds": overheads,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
