"""Tokens a second and MFU on a GPU: LLaMA-7B's shape with random weights, PEFT's LoRA the plain way, and ours.

    python benchmarks/gpu.py --output results/benchmarks/gpu.json [--minutes 7] [--layers 32] [--peak-tflops 312]

Needs torch, transformers, peft, and bitsandbytes for NF4 (left out where it isn't installed). For want of a card only
some cases were run, on a CPU: `--try-on-cpu --layers 1 --rows 2 --length 16`. Each case is a micro-batch of rows of
several lengths, loss on the answer, forward and backward, after two that warm up; the plain way takes logits of all
positions, ours those of supervised positions, and padding-free the rows one after the other. What a card has no room
for is left out. MFU counts 4 FLOPs a base weight and token, for weights get no gradient.
"""

import argparse
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from sbora_bench import provenance
from sbora_bench.files import write_json
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.padding_free import packed, take_packed_rows
from sbora_bench.inputs.supervised_loss import SupervisedLoss
from sbora_bench.plan.catalog import load_catalog

CASES = [("lora", "all"), ("lora", "supervised"), ("lora", "padding-free"), ("dora", "supervised")]
CASES += [("sbora-fa", "supervised"), ("sbora-fb", "supervised")]
CASES += [("qlora", "all"), ("qlora", "supervised"), ("qsbora-fa", "supervised")]
TIMED = 5


PLACE = "cuda" if torch.cuda.is_available() else "cpu"


def base(config: LlamaConfig, nf4: bool) -> torch.nn.Module:
    """Random weights on the card, packed layer by layer where they are to be in 4 bits."""
    with torch.device(PLACE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if nf4:
        import bitsandbytes as bnb
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear

        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        weights = {name: part.weight for name, part in model.named_modules() if type(part) is torch.nn.Linear}
        replace_with_bnb_linear(model, ["lm_head"], settings)
        for name, part in model.named_modules():
            if isinstance(part, bnb.nn.Linear4bit):
                packed = bnb.nn.Params4bit(weights[name].data.cpu(), requires_grad=False, quant_type="nf4", module=part)
                part.weight = packed.to(PLACE)
        model.is_loaded_in_4bit = True
    return model


def batch(rows: int, longest: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Rows from 40 % of the longest up, padded on the right; the last quarter of each is the answer."""
    ids = torch.randint(3, vocabulary, (rows, longest), device=PLACE)
    mask, labels = torch.ones_like(ids), ids.clone()
    for row in range(rows):
        length = longest - int(0.6 * longest * row / max(rows - 1, 1))
        mask[row, length:] = 0
        labels[row, length:] = -100
        labels[row, : length * 3 // 4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def measure(model: torch.nn.Module, inputs: dict[str, torch.Tensor], way: str) -> dict[str, float]:
    row, tokens = inputs["input_ids"][0].tolist(), int(inputs["attention_mask"].sum())
    loss_of = None if way == "all" else SupervisedLoss(model, row)
    if way == "padding-free":
        if reason := take_packed_rows(model, row):
            raise ValueError(reason)
        inputs = packed(inputs)
    if PLACE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(2 + TIMED):
        torch.accelerator.synchronize() if PLACE == "cuda" else None
        began = time.perf_counter()
        loss = model(**inputs).loss if loss_of is None else loss_of(model, inputs)[0]
        loss.backward()
        torch.accelerator.synchronize() if PLACE == "cuda" else None
        seconds.append(time.perf_counter() - began)
        model.zero_grad()
    taken = statistics.median(seconds[2:])
    return {
        "seconds": taken,
        "tokens_per_second": tokens / taken,
        "peak_bytes": torch.cuda.max_memory_allocated() if PLACE == "cuda" else None,
        "loss": float(loss.detach()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--minutes", type=float, default=7.0, help="no case begins later")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--try-on-cpu", action="store_true", help="with few layers and tokens: does it run?")
    parser.add_argument("--peak-tflops", type=float, help="of the card in bfloat16, for MFU; see catalog/devices.yaml")
    arguments = parser.parse_args()
    if PLACE == "cpu" and not arguments.try_on_cpu:
        sys.exit("no GPU here")
    began, catalog = time.perf_counter(), load_catalog()
    sizes = dict(catalog.models["llama-7b"].architecture) | {"num_hidden_layers": arguments.layers}
    config = LlamaConfig(**sizes)
    changes = {"weights_dtype": "bfloat16", "autocast": None, "compute_dtype": "bfloat16"}
    protocol = catalog.protocol("clean", "commonsense", changes, "benchmark")
    inputs = batch(arguments.rows, arguments.length, config.vocab_size)
    record: dict = {
        "device": torch.cuda.get_device_name(0) if PLACE == "cuda" else "cpu",
        "cases": {},
        "versions": provenance.versions(),
    }
    for method, logits in CASES:
        if time.perf_counter() - began > 60 * arguments.minutes:
            record["cases"][f"{method}, {logits}"] = {"left_out": "no time"}
            continue
        torch.manual_seed(0)
        entry = catalog.methods[method]
        try:
            bare = base(config, entry.quantization is not None)
            weights = sum(p.numel() for p in bare.parameters())
            model = as_trained(bare, entry, adapter_config(entry, 32, 0, protocol), protocol).train()
            model.config.use_cache = False
            measured = measure(model, inputs, logits)
        except (ImportError, torch.OutOfMemoryError) as error:
            bare = model = None
            record["cases"][f"{method}, {logits}"] = {"left_out": str(error)}
            continue
        if arguments.peak_tflops and entry.quantization is None:
            measured["mfu"] = 4 * weights * measured["tokens_per_second"] / (arguments.peak_tflops * 1e12)
        record["cases"][f"{method}, {logits}"] = measured
        print(f"{method}, {logits}: {measured}", file=sys.stderr, flush=True)
        write_json(arguments.output, record)
        del bare, model
        torch.cuda.empty_cache()  # nothing without a card
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
