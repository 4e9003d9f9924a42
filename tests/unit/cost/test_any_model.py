"""Models of other architectures, and methods that need values: counted as trained, and traced or said not to be."""

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sbora_bench.cost import one_cell, real_step
from sbora_bench.cost.counting import counts_and_twin
from sbora_bench.cost.footprint import footprint_record
from sbora_bench.inputs.models.config import read_config
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.runs import Cell
from tests.factories import shipped
from tests.factories.toy_runs import method_entry

COMMON = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
COMMON |= {"intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1}
GROUPED = COMMON | {"num_key_value_heads": 2, "pad_token_id": 0}
MODELS = {
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "opt": COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": COMMON,
    "gpt_neox": COMMON,
    "falcon": COMMON | {"new_decoder_architecture": False},
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mixtral": GROUPED | {"num_local_experts": 2},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "gemma": GROUPED | {"head_dim": 8},
    "mistral": GROUPED,
    "olmo2": GROUPED,
    "smollm3": GROUPED,
    "gemma3_text": GROUPED | {"head_dim": 8, "sliding_window": 8},
}
# every class with SBoRA, and LoRA on each kind of layer: apart, with q, k and v in one, transposed, with experts beside
CELLS = [(kind, "sbora-fa") for kind in MODELS]
CELLS += [(kind, "lora") for kind in ("qwen2", "gpt_neox", "gpt2", "mixtral", "opt")]
UNTRACED = {"opt", "bloom"}  # they make positions of a mask of two dimensions; a trace hands them one of four


@pytest.fixture(scope="module")
def catalog():
    return shipped.catalog()


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_a_model_is_counted_on_its_own_class(catalog, kind, method, tmp_path):
    """As many trained and total parameters as the real model has, from its config.json alone."""
    AutoConfig.for_model(kind, **MODELS[kind]).save_pretrained(tmp_path)
    figures = one_cell.cell_report(catalog, one_cell.CellRequest(str(tmp_path), method, 4, "smollm2", length=16))
    targets = figures["target_modules"]
    protocol = catalog.protocol(
        "smollm2", "arithmetic", {"target_modules": targets, "weights_dtype": "float32"}, "test"
    )
    real = real_step.random_model(read_config(catalog, str(tmp_path)), catalog.methods[method], 4, protocol)
    assert (figures["trainable_parameters"], figures["total_parameters"]) == real.get_nb_trainable_parameters()
    if kind in UNTRACED:
        assert figures["status"] == "not traced" and figures["reason"]
    else:
        assert figures["status"] == "ok" and figures["memory"]["peak"] > 0 and figures["flops_per_step"] > 0


EXPERTS = {
    "mixtral": MODELS["mixtral"],
    "qwen3_moe": GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
}


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("method", ["lora", "sbora-fa", "sbora-fb"])
def test_the_experts_of_a_mixture_are_counted(catalog, kind, method, tmp_path):
    """Both fused parameters of the experts beside the attention's layers; SBoRA's step is traced as well."""
    AutoConfig.for_model(kind, **EXPERTS[kind]).save_pretrained(tmp_path)
    entry = catalog.methods[method]
    own = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
    own[f"{method.partition('-')[0]}_dropout"] = 0.0  # PEFT's LoRA of a parameter has none
    adapted = entry.model_copy(update={"arguments": entry.arguments | own})
    with_experts = catalog.model_copy(update={"methods": catalog.methods | {"experts": adapted}})
    request = one_cell.CellRequest(str(tmp_path), "experts", 4, "smollm2", length=16, target_modules="q_proj,v_proj")
    figures = one_cell.cell_report(with_experts, request)
    sizes = {"target_modules": figures["target_modules"], "weights_dtype": "float32"}
    protocol = catalog.protocol("smollm2", "arithmetic", sizes, "test")
    real = real_step.random_model(read_config(catalog, str(tmp_path)), adapted, 4, protocol)
    assert (figures["trainable_parameters"], figures["total_parameters"]) == real.get_nb_trainable_parameters()
    if method != "lora":
        assert figures["status"] == "ok" and figures["memory"]["peak"] > 0


def test_a_folder_counts_by_its_own_config_whatever_the_entry_says(catalog, tmp_path):
    """Qwen3's heads are wider than its hidden size divided by their number, which an entry may not say."""
    AutoConfig.for_model("qwen3", **MODELS["qwen3"]).save_pretrained(tmp_path)
    for architecture in ({}, {key: GROUPED[key] for key in ("hidden_size", "num_attention_heads")}):
        source = {"kind": "folder", "path": str(tmp_path)}
        entry = ModelEntry(title="Mine", source=source, architecture=architecture)
        config = read_config(catalog.model_copy(update={"models": {"mine": entry}}), "mine")
        assert (config.model_type, config.head_dim) == ("qwen3", 16)
        assert AutoModelForCausalLM.from_config(config).model.layers[0].self_attn.q_proj.out_features == 64


TARGETS = {"target_modules": ["q_proj", "v_proj"]}
VALUES = {
    "shira": method_entry("SHIRA", r="$rank", **TARGETS),
    "adamss": method_entry("ADAMSS", r="$rank", num_subspaces=2, subspace_rank=1, **TARGETS),
    "frod": method_entry("FROD", **TARGETS),
}
PROMPTS = {
    "prompt": method_entry("PROMPT_TUNING", num_virtual_tokens="$rank"),
    "prefix": method_entry("PREFIX_TUNING", num_virtual_tokens="$rank"),
    "cartridge": method_entry("CARTRIDGE", num_virtual_tokens="$rank"),
    "p-tuning": method_entry("P_TUNING", num_virtual_tokens="$rank"),
}


def small_cell(catalog, name, method, tmp_path):
    """The record of a method on three layers, and the real adapter, saved beside the model."""
    AutoConfig.for_model("llama", **GROUPED).save_pretrained(tmp_path)
    protocol = catalog.protocol("smollm2", "arithmetic", {"weights_dtype": "float32"}, "test")
    protocol = protocol.model_copy(update={"max_length": 16, "gradient_checkpointing": False})
    record = footprint_record(catalog, Cell("t", str(tmp_path), name, 4), method, protocol, "cpu")
    real = real_step.random_model(read_config(catalog, str(tmp_path)), method, 4, protocol)
    assert (record.trainable_parameters, record.total_parameters) == real.get_nb_trainable_parameters()
    real.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert record.adapter_bytes == (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    return record


@pytest.mark.parametrize("name", VALUES)
def test_a_method_that_needs_values_costs_its_trace_alone(catalog, name, tmp_path):
    """Counts and bytes are those of the real adapter on all three layers; the reason stands in the record."""
    record = small_cell(catalog, name, VALUES[name], tmp_path)
    assert record.status == "not traced" and record.reason and record.flops_per_step is None
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 3


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_traced(catalog, name, tmp_path):
    """Though what is saved of it is its encoder's output, and it makes its mask itself."""
    record = small_cell(catalog, name, PROMPTS[name], tmp_path)
    assert record.status == "ok" and record.flops_per_step
    assert record.memory["peak"] == pytest.approx(record.measured_peak_bytes, rel=0.02)


QUESTIONS = {  # VB-LoRA asks whether a logit is infinite; LoHa a number drawn on the CPU, which has a value
    "vblora": method_entry("VBLORA", r="$rank", num_vectors=8, vector_length=16, topk=2, **TARGETS),
    "loha": method_entry("LOHA", r="$rank", alpha="$alpha", **TARGETS),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_of_values_are_answered_no(catalog, name):
    sizes = {"weights_dtype": "float32", "max_length": 16, "gradient_checkpointing": False}
    protocol = catalog.protocol("smollm2", "arithmetic", sizes, "test")
    record = footprint_record(catalog, Cell("t", "ladder-xs", name, 4), QUESTIONS[name], protocol, "cpu")
    assert record.status == "ok", record.reason
    assert record.memory["peak"] == pytest.approx(record.measured_peak_bytes, rel=0.02)


PUBLISHED = {  # Llama-3.2-3B as PEFT has it; the others: held fast, their pages were not opened
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "gemma-3-1b": 999_885_952,
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_models_of_one_card_keep_their_size(catalog, model):
    protocol = catalog.protocol("smollm2", "arithmetic", {}, "test")
    assert counts_and_twin(catalog, model, None, None, protocol)[0]["total_parameters"] == PUBLISHED[model]
