"""Counts against closed formulas and files, memory against the CPU's allocator, FLOPs against PyTorch's counter."""

import csv
import gc
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig

from sbora_bench.cost import counting, footprint, one_cell, paper_cells, real_step, traced_step
from sbora_bench.cost.storages import storage_bytes, weight_tensors
from sbora_bench.cost.tracer import aten, flop_registry
from sbora_bench.errors import UserError
from sbora_bench.inputs import meta_twin
from sbora_bench.inputs.models import scored_rows
from sbora_bench.inputs.models.config import read_config
from sbora_bench.plan.catalog import CATALOG
from sbora_bench.plan.protocol import Optimizer
from sbora_bench.plan.runs import Cell
from sbora_bench.results.records import MEMORY_KINDS
from tests.factories import paper, shipped
from tests.factories.workplace import workplace  # noqa: F401

TINY = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
ROWS, LENGTH, RANK = 4, 64, 4
METHODS = ["lora", "dora", "sbora-fa", "sbora-fb"]


@pytest.fixture(scope="module")
def catalog():
    return shipped.with_model(TINY)


def protocol_of(catalog, **overrides):
    ours = {"micro_batch": ROWS, "batch_size": ROWS, "weights_dtype": "float32", "optimizer": "adamw_torch"}
    return catalog.protocol("smollm2", "arithmetic", ours | overrides, "test")


def on_meta(catalog, method, protocol, rank=RANK):
    return meta_twin.build(catalog, "tiny", catalog.methods[method], rank, protocol)


def with_words(catalog, words):
    entry = catalog.models["tiny"].model_copy(update={"architecture": TINY | {"vocab_size": words}})
    return catalog.model_copy(update={"models": catalog.models | {"tiny": entry}})


def traced_over(catalog, method, protocol, rows):
    """Bytes over weights and adapter at the peak of a traced step on a CPU."""
    peak = footprint.trace(on_meta(catalog, method, protocol), protocol, "cpu", rows, LENGTH).peak()
    return peak["peak"] - peak["weights"] - peak["adapter"]


def real(catalog, method, protocol):
    return real_step.random_model(read_config(catalog, "tiny"), catalog.methods[method], RANK, protocol)


def by_formula(table, model, method, rank):
    """(trained, all) parameters by closed formulas (protocol section 8)."""
    count = paper.trained_parameters(table, model, method, rank)
    return count, paper.base_parameters(table, model) + count


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Nothing is left in the checkout, nor taken from what was left there; only what is published is."""
    monkeypatch.setattr(paper_cells, "CACHE", tmp_path / "cache")


def test_the_papers_44_cells(catalog, tmp_path, own_cache):
    paper_cells.paper_footprint(catalog, tmp_path / "paper.csv")
    rows = list(csv.DictReader((tmp_path / "paper.csv").open()))
    assert len(rows) == 44
    for row in rows:
        expected = by_formula(row["table"], row["model"], row["method"], int(row["rank"]))
        assert (int(row["trainable_parameters"]), int(row["total_parameters"])) == expected, row


def test_what_is_published_of_a_cell_of_the_paper_is_what_is_counted(catalog, tmp_path, own_cache):
    protocol = catalog.protocol("official", "commonsense", {}, "test")
    kept = paper_cells.paper_counts(catalog, {}, "commonsense", "llama-7b", "dora", 32)
    counted, _ = counting.counts_and_twin(catalog, "llama-7b", catalog.methods["dora"], 32, protocol)
    assert kept == counted


@pytest.mark.parametrize("method", METHODS)
def test_adapter_bytes_are_those_of_the_file(catalog, method, tmp_path):
    protocol = protocol_of(catalog)
    real(catalog, method, protocol).save_pretrained(tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    assert counting.counts(on_meta(catalog, method, protocol))["adapter_bytes"] == size


@pytest.mark.parametrize("method", ["qlora", "qdora", "qsbora-fa"])
def test_4_bit_storages_are_bitsandbytes_own(catalog, method, tmp_path):
    """Every tensor of every 4-bit layer has the dtype and the bytes of the real one; so has the whole model."""
    protocol = protocol_of(catalog)
    models = on_meta(catalog, method, protocol), real(catalog, method, protocol)

    def stored(model):
        layers = {n: part for n, part in model.named_modules() if isinstance(part, Linear4bit)}
        return {n: [(t.dtype, t.untyped_storage().nbytes()) for t in weight_tensors(p)] for n, p in layers.items()}

    assert stored(models[0]) and stored(models[0]) == stored(models[1])
    assert len({storage_bytes(weight_tensors(model)) for model in models}) == 1


def test_weights_of_4_bits_are_not_packed_anew(catalog, monkeypatch):
    """As in training; on CPUs of AVX512-BF16 bitsandbytes would, and then say that a layer's size doesn't divide."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    parts = [part for part in real(catalog, "qlora", protocol_of(catalog)).modules() if isinstance(part, Linear4bit)]
    assert len(parts) > 2 and not any(part.support_avx512bf16_for_cpu for part in parts)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "qlora", "qsbora-fb"])
def test_estimated_memory_is_what_the_allocator_did(catalog, method, checkpointing, tmp_path):
    protocol = protocol_of(catalog, gradient_checkpointing=checkpointing)
    traced = footprint.trace(on_meta(catalog, method, protocol), protocol, "cpu", length=LENGTH).peak()
    over = traced["peak"] - traced["weights"] - traced["adapter"]
    assert over == pytest.approx(real_step.step_peak(real(catalog, method, protocol), protocol, ROWS, LENGTH), rel=0.03)
    assert sum(value for kind, value in traced.items() if kind != "peak") == traced["peak"]


@pytest.mark.parametrize("logits", ["all", "supervised"])
@pytest.mark.parametrize(("words", "dtype"), [(512, "float32"), (20_000, "float32"), (20_000, "bfloat16")])
def test_estimated_memory_of_either_way_to_the_loss(catalog, logits, words, dtype):
    """With a vocabulary in several chunks too: what training does with `logits: supervised`, and what with `all`."""
    larger = with_words(catalog, words)
    protocol = protocol_of(larger, logits=logits, weights_dtype=dtype)
    rows = 16
    over = traced_over(larger, "lora", protocol, rows)
    measured = real_step.step_peak(real(larger, "lora", protocol), protocol, rows, LENGTH)
    assert over == pytest.approx(measured, rel=0.01)
    kept = 4 * words * rows * LENGTH  # all positions' logits in float32
    if words > 512:
        assert (measured > 2 * kept) == (logits == "all") or dtype == "bfloat16"


@pytest.mark.parametrize("logits", ["all", "supervised"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_estimated_memory_of_a_row_of_examples(catalog, logits, dtype):
    protocol = protocol_of(catalog, logits=logits, weights_dtype=dtype, padding_free=True)
    over = traced_over(catalog, "lora", protocol, 16)
    measured = real_step.step_peak(real(catalog, "lora", protocol), protocol, 16, LENGTH)
    assert over == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("method", ["lora", "sbora-fa"])
@pytest.mark.parametrize("words", [512, 20_000])
def test_estimated_memory_of_products_in_float32(catalog, method, words):
    """Both factors of a product are there in float32 for its time, and a head's logits never in bfloat16."""
    larger = with_words(catalog, words)
    narrow = protocol_of(larger, weights_dtype="bfloat16", padding_free=True)
    wide = narrow.model_copy(update={"products": "float32"})
    measured = real_step.step_peak(real(larger, method, wide), wide, 16, LENGTH)
    over = [traced_over(larger, method, way, 16) for way in (wide, narrow)]
    assert over[0] == pytest.approx(measured, rel=1e-4)
    assert abs(over[0] - measured) < abs(over[1] - measured) or words == 512


@pytest.mark.parametrize(
    ("method", "rows", "ways"),
    [
        *((method, 8, {}) for method in METHODS),
        *(("lora", 16, {"logits": logits, "weights_dtype": "bfloat16"}) for logits in ("all", "supervised")),
        ("lora", 8, {"padding_free": True, "logits": "supervised"}),
        ("sbora-fa", 8, {"gradient_checkpointing": True, "logits": "supervised"}),
        ("qlora", 8, {}),
        ("lora", 1, {}),  # a row that may be padded to its multiple, so that there is a mask
    ],
)
def test_estimated_memory_of_parts_is_what_the_allocator_did(catalog, method, rows, ways):
    """Micro-batches of 32 rows in parts of so many."""
    protocol = protocol_of(catalog, **ways)
    parted = protocol.model_copy(update={"tokens_at_once": rows * LENGTH})
    over = [traced_over(catalog, method, way, 32) for way in (protocol, parted)]
    measured = real_step.step_peak(real(catalog, method, parted), parted, 32, LENGTH)
    assert over[1] == pytest.approx(measured, rel=0.01)
    assert over[1] < 0.6 * over[0]


def test_the_largest_part_of_any_length_is_traced(catalog):
    """Of 64 tokens a row three fit into 240, of 48 five: those are the larger part; the work is of rows of 64."""
    protocol = protocol_of(catalog, tokens_at_once=240, logits="all")
    traced = footprint.trace(on_meta(catalog, "lora", protocol), protocol, "cpu", 8, LENGTH)
    over = traced.peak()["peak"] - traced.peak()["weights"] - traced.peak()["adapter"]
    measured = [real_step.step_peak(real(catalog, "lora", protocol), protocol, 8, n) for n in (48, LENGTH)]
    assert over == pytest.approx(measured[0], rel=0.01) and measured[0] > 1.1 * measured[1]
    whole = protocol.model_copy(update={"tokens_at_once": 0})
    whole_flops = footprint.trace(on_meta(catalog, "lora", whole), whole, "cpu", 8, LENGTH).flops()
    assert traced.flops() == whole_flops and traced.moved() > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_alone_has_no_mask(catalog, dtype):
    """Then keys and values stay as few as the model has them, which is estimated too."""
    protocol = protocol_of(catalog, weights_dtype=dtype, logits="all")
    rows = {}
    for kernels in ("cpu", "cuda"):
        peaks = [
            footprint.trace(on_meta(catalog, "lora", protocol), protocol, kernels, n, LENGTH).peak() for n in (1, 2)
        ]
        rows[kernels] = [peak["peak"] - peak["weights"] - peak["adapter"] for peak in peaks]
    measured = [real_step.step_peak(real(catalog, "lora", protocol), protocol, n, LENGTH) for n in (1, 2)]
    assert rows["cpu"] == pytest.approx(measured, rel=0.03)
    assert all(one < two for one, two in rows.values())


@pytest.mark.parametrize("tokens", [0, 240])
def test_a_small_cell_is_run_too(catalog, tokens):
    """The record of a cell holds the estimated peak and, where a step is cheap, the allocator's own."""
    protocol = protocol_of(catalog, max_length=LENGTH, micro_batch=8, batch_size=8, tokens_at_once=tokens)
    cell = Cell("table", "tiny", "lora", RANK)
    record = footprint.footprint_record(catalog, cell, catalog.methods["lora"], protocol, "cpu")
    assert record.memory["peak"] == pytest.approx(record.measured_peak_bytes, rel=0.03)
    assert record.notes[0] == f"memory: micro-batch 8 x 64 tokens{', 240 at once' if tokens else ''}, cpu kernels"
    assert (
        footprint.footprint_record(catalog, cell, catalog.methods["lora"], protocol, "cuda").measured_peak_bytes is None
    )


def test_memory_at_the_papers_scales(catalog, monkeypatch, tmp_path, own_cache):
    """A row for each method at each scale, its kinds adding up; small models in the place of the paper's."""
    cells = [(table, model, method, RANK, 0.0) for table, model, method, _, _ in paper_cells.paper_cells(catalog)]
    monkeypatch.setattr(paper_cells, "paper_cells", lambda _: cells)
    models = {model: catalog.models["tiny"] for _, model, _, _, _ in cells}
    paper_cells.paper_memory(catalog.model_copy(update={"models": models}), tmp_path / "memory.csv")
    rows = list(csv.DictReader((tmp_path / "memory.csv").open()))
    assert len(rows) == 20 and len({(row["table"], row["model"], row["method"]) for row in rows}) == 20
    for row in rows:
        assert sum(int(row[kind]) for kind in MEMORY_KINDS) == int(row["peak"]) > 0


def test_what_is_kept_of_the_papers_cells_needs_nothing_heavy(tmp_path):
    program = f"""
import sys
from pathlib import Path
from sbora_bench.cost import cell_work, paper_cells
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.results.records import MEMORY_KINDS
counts = dict.fromkeys(("trainable_parameters", "total_parameters", "adapter_bytes"), 7)
cell_work.remembered = lambda *_: counts if _[1] == "counts" else dict.fromkeys([*MEMORY_KINDS, "peak"], 7)
catalog = load_catalog({str(CATALOG.absolute())!r})
paper_cells.paper_footprint(catalog, Path("counts.csv"))
paper_cells.paper_memory(catalog, Path("memory.csv"))
assert paper_cells.true_counts(catalog)("commonsense", "LLaMA-7B", "LoRA", 32) == 7
print(*sorted({{"torch", "transformers", "peft", "bitsandbytes", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stdout + done.stderr
    assert len((tmp_path / "counts.csv").read_text().splitlines()) > 44
    assert len((tmp_path / "memory.csv").read_text().splitlines()) == 21


def test_flops_are_those_of_pytorchs_counter(catalog, tmp_path):
    protocol = protocol_of(catalog, dropout=0.0, logits="all")
    flops = footprint.trace(on_meta(catalog, "lora", protocol), protocol, "cpu", length=LENGTH).flops()
    flash = aten._scaled_dot_product_flash_attention  # the CPU's variant isn't in the counter's registry
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[flash],
        aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
            aten._scaled_dot_product_flash_attention_backward
        ],
    }
    mapping = {op: (lambda *a, formula=formula, **k: formula(*a, **k)) for op, formula in mapping.items()}
    for formula in mapping.values():
        formula._get_raw = True  # they take tensors already
    model = real(catalog, "lora", protocol)
    ids = torch.ones(ROWS, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert flops["forward"] + flops["backward"] == counter.get_total_flops()
    assert flops["recomputation"] == 0 and 0 < flops["adapter"] < 0.2 * counter.get_total_flops()
    quantized = footprint.trace(on_meta(catalog, "qlora", protocol), protocol, "cpu", length=LENGTH).flops()
    assert quantized == flops, "the same products, on weights that were made whole first"


@pytest.mark.parametrize("method", ["lora", "sbora-fa", "qsbora-fb"])
def test_checkpointing_computes_the_forward_pass_again(catalog, method):
    plain, again = (
        footprint.trace(on_meta(catalog, method, p), p, "cuda", length=LENGTH).flops()
        for p in (protocol_of(catalog, gradient_checkpointing=c) for c in (False, True))
    )
    assert plain["backward"] <= again["backward"] < 1.1 * plain["backward"], "the embeddings get gradients too"
    assert 0.5 * plain["forward"] < again["recomputation"] < plain["forward"]


def test_memory_grows_with_the_batch_and_sbora_needs_less(catalog):
    protocol = protocol_of(catalog)

    def peak(method, rows, optimizer="adamw_torch"):
        changed = protocol.model_copy(update={"optimizer": optimizer})
        return footprint.trace(on_meta(catalog, method, changed, rank=64), changed, "cuda", rows, LENGTH).peak()

    assert peak("lora", 8)["peak"] > peak("lora", 4)["peak"] > peak("sbora-fa", 4)["peak"]
    assert peak("lora", 4, "adamw_8bit")["optimizer"] < peak("lora", 4, "paged_adamw_32bit")["optimizer"]


def test_what_was_watched_before_is_not_taken_off_the_highest():
    """What an earlier watched step left in a cycle goes whenever Python looks for garbage: in the midst of the next."""

    def leave():
        left = [torch.empty(1_000_000)]
        left.append(left)

    def work():
        gc.collect()
        torch.empty(1000)

    real_step.highest(leave)
    assert real_step.highest(work) == 4000


GENERATED = [(*cell, "float32") for cell in itertools.product(METHODS, [LENGTH, 4])] + [("lora", LENGTH, "bfloat16")]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(("method", "prompt", "dtype"), GENERATED)
def test_estimated_memory_of_generating_is_what_the_allocator_did(catalog, method, prompt, dtype, beams, tmp_path):
    """At the prompts (long ones) and at the last token (short ones), with `generate` as the scorer calls it."""
    protocol, new = protocol_of(catalog, weights_dtype=dtype), 16 if prompt == LENGTH else 40
    estimated = traced_step.trace_generation(on_meta(catalog, method, protocol), ROWS, prompt, new, beams, "cpu")
    model = real(catalog, method, protocol).eval()
    mask = torch.ones(ROWS, prompt, dtype=torch.long)
    mask[0, 0] = 0
    inputs = {"input_ids": mask + 5, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    exactly = {"max_new_tokens": new, "min_new_tokens": new, "eos_token_id": 2, "pad_token_id": 0}
    config = GenerationConfig(num_beams=beams, do_sample=False, use_cache=True, **exactly)
    over = real_step.highest(lambda: model.generate(**inputs, generation_config=config))
    assert estimated["peak"] - estimated["weights"] == pytest.approx(over, rel=0.03)
    keys = ROWS * beams * TINY["num_key_value_heads"] * (prompt + new) * 32  # a head is 32 wide
    assert estimated["cache"] == 2 * TINY["num_hidden_layers"] * keys * getattr(torch, dtype).itemsize


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("length", [24, 160])
def test_batches_by_memory_take_a_third_to_half_of_it(catalog, length, beams):
    """Of 20 MB a beam beside the weights, by the trace of what the rows take."""
    protocol = protocol_of(catalog, score_batch="auto", num_beams=beams)
    model, memory = on_meta(catalog, "lora", protocol), 20_000_000 * beams
    rows = scored_rows.numbered(protocol, model.config, memory, length).score_batch
    traced = traced_step.trace_generation(model, rows, length - 8, 8, beams, "cuda")
    assert rows > 1 and 0.3 < (traced["peak"] - traced["weights"]) / memory < 0.5


def test_scoring_merges_where_the_protocol_does(catalog):
    peaks = {}
    for merge in (True, False):
        protocol = protocol_of(catalog, merge=merge)
        model = meta_twin.build_scored(catalog, "tiny", catalog.methods["lora"], RANK, protocol)
        peaks[merge] = traced_step.trace_generation(model, 2, 20, 4, 1, "cuda")["peak"]
    assert peaks[True] < peaks[False]


@pytest.mark.parametrize("curve", [lambda n: 100 + 7 * n, lambda n: 50 + 3 * n + n * n // 40])
@pytest.mark.parametrize("start", [1, 4, 300])
def test_largest_fits_and_is_near_the_most_that_does(curve, start):
    room = curve(90)
    largest = one_cell.largest(curve, curve(0), start, curve(start), cap=4096, room=room)
    assert 85 <= largest <= 90
    assert one_cell.largest(curve, curve(0), start, curve(start), cap=4096, room=curve(1) - 1) is None


def test_a_verdict(catalog):
    request = one_cell.CellRequest(
        "tiny", "sbora-fa", RANK, "smollm2", micro_batch=2, length=64, device="rtx-4090", sweep="rank"
    )
    report = one_cell.cell_report(catalog, request)
    device = report["device"]
    assert device["fits"] and device["largest_micro_batch"] >= 2 and device["largest_length"] == 256
    peaks = [row["peak"] for row in report["sweep"]]
    assert peaks == sorted(peaks) and len(set(peaks)) == len(peaks)
    assert "fits, to spare" in one_cell.as_text(report) and json.loads(one_cell.as_json(report)) == report


def test_tokens_at_once_of_a_cell(catalog):
    """Said, with a lower peak; and the micro-batch that fits has no end but the search's."""
    request = one_cell.CellRequest("tiny", "lora", RANK, "smollm2", micro_batch=16, length=64, device="rtx-4090")
    whole, parted = (
        one_cell.cell_report(catalog, replace(request, tokens_at_once=tokens)) for tokens in (None, 4 * LENGTH)
    )
    assert (whole["tokens_at_once"], parted["tokens_at_once"]) == (0, 256)
    assert parted["memory"]["peak"] < whole["memory"]["peak"]
    assert parted["flops_per_step"] == pytest.approx(whole["flops_per_step"], rel=1e-3), (
        "the head has a token a pass more"
    )
    assert "micro-batch 16 x 64 tokens (256 at once), adamw_torch" in one_cell.as_text(parted)
    assert "at once" not in one_cell.as_text(whole)
    assert parted["device"]["largest_micro_batch"] == one_cell.MOST


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "llama-7bb"}, "did you mean 'llama-7b'"),
        ({"device": "h10"}, "did you mean 'h100'"),
        ({"method": "lroa"}, "did you mean 'lora'"),
        ({"rank": 200}, "allowed 1 to"),
        ({"rank": -1}, "at least 1"),
        ({"micro_batch": 0}, "--micro-batch: found 0"),
        ({"tokens_at_once": -1}, "--tokens-at-once: found -1"),
        ({"length": 257}, "allowed 1 to 256, the positions"),
        ({"length": 200, "beams": 4}, "allowed 1 to 160, for the model has 256 positions"),
        ({"beams": 0}, "--beams: found 0"),
        ({"length": -5}, "--length: found -5"),
        ({"optimizer": "adam"}, "unknown optimizer"),
        ({"protocol": "officiall"}, "did you mean 'official'"),
        ({"rank": None}, "--rank: missing; method lora needs one: rank of the update"),
        ({"model": "/no/such/folder"}, "no such folder or config.json"),
        ({"method": "base", "rank": None, "device": "h100"}, "the base isn't trained"),
        ({"method": "base", "rank": None, "sweep": "rank"}, "the base isn't trained"),
    ],
)
def test_bad_input_is_one_line(catalog, wrong, words):
    request = {"model": "tiny", "method": "lora", "rank": RANK, "protocol": "smollm2", "length": 64} | wrong
    with pytest.raises(UserError) as caught:
        one_cell.cell_report(catalog, one_cell.CellRequest(**request))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_method_without_a_size_needs_no_rank(catalog):
    request = {"model": "tiny", "method": "ia3", "protocol": "smollm2", "length": 64}
    stated = one_cell.cell_report(catalog, one_cell.CellRequest(rank=1, **request))
    assert one_cell.cell_report(catalog, one_cell.CellRequest(rank=None, **request)) == stated
    assert stated["trainable_parameters"] > 0


def test_every_optimizer_of_a_protocol_can_be_traced():
    assert set(get_args(Optimizer)) == traced_step.OPTIMIZERS.keys()


def test_targets_that_the_model_lacks_are_one_line(catalog):
    protocol = catalog.protocol("smollm2", "arithmetic", {"target_modules": ["qq_proj"]}, "here")
    base = meta_twin.build_base(read_config(catalog, "tiny"), protocol)
    with pytest.raises(UserError, match="can't put this LORA on the model: Target modules .*qq_proj.* not found"):
        meta_twin.attach(base, catalog.methods["lora"], RANK, protocol)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "not a readable config.json"),
        ('{"model_type": "vit"}', "not a causal language model"),
        ('{"model_type": "nonsense"}', "not a configuration of a causal language model"),
        ('{"model_type": "llama", "hidden_size": -8}', "not a configuration of a causal language model"),
        ("[]", "not a readable config.json"),
    ],
)
def test_configs_that_are_no_causal_language_models(catalog, config, words, tmp_path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=words):
        one_cell.cell_report(catalog, one_cell.CellRequest(str(tmp_path / "config.json"), "lora", 2, length=8))


def test_a_model_without_fused_attention(catalog, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": "gemma2", "head_dim": 32}))
    peaks = [
        one_cell.cell_report(catalog, one_cell.CellRequest(str(tmp_path), "lora", RANK, "smollm2", None, rows, 64))[
            "memory"
        ]["peak"]
        for rows in (1, 2)
    ]
    assert 0 < peaks[0] < peaks[1]


def test_a_local_config_serves(catalog, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY | {"model_type": "llama"}))
    request = one_cell.CellRequest(str(tmp_path), "lora", RANK, "smollm2", length=64)
    here = one_cell.cell_report(catalog, request)
    known = one_cell.cell_report(catalog, one_cell.CellRequest("tiny", "lora", RANK, "smollm2", length=64))
    assert here["trainable_parameters"] == known["trainable_parameters"] and here["memory"] == known["memory"]


def test_footprint_of_a_table_says_what_it_wrote(workplace):  # noqa: F811
    file = workplace.experiment()
    status, out, err = workplace.run("footprint", "-e", file, "--table", "sums", "--only", "method=lora")
    assert status == 0 and out == "results/small_method-lora: footprint.json of 2 cells of sums\n", (out, err)
    assert len(list(workplace.folder.glob("results/small_method-lora/runs/*/footprint.json"))) == 3
