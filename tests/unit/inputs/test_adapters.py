"""An adapter is put on a model as its entry says, and the entry stays as it was."""

from transformers import AutoModelForCausalLM, Qwen2Config

from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.meta_twin import attach, build_base
from sbora_bench.plan.method_entry import MethodEntry
from tests.factories import toy_runs

TIED = Qwen2Config(
    vocab_size=32,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=24,
    tie_word_embeddings=True,
)
ARGUMENTS = {
    "r": "$rank",
    "target_modules": "$target_modules",
    "modules_to_save": ["embed_tokens"],
    "ensure_weight_tying": True,
}


def method() -> MethodEntry:
    return MethodEntry(title="LoRA, embedding too", peft_type="LORA", arguments=ARGUMENTS)


def test_an_adapter_on_tied_embeddings_leaves_catalog_and_protocol_as_they_were():
    """PEFT adds names to the lists that its config is given."""
    entry, protocol = method(), toy_runs.protocol()
    before = entry.model_dump(), protocol.model_dump()
    config = adapter_config(entry, 4, 0, protocol)
    as_trained(AutoModelForCausalLM.from_config(TIED), entry, config, protocol)
    assert config.modules_to_save != ["embed_tokens"]  # so it does
    assert (entry.model_dump(), protocol.model_dump()) == before
    assert config.target_modules is not protocol.target_modules


def test_a_tied_matrix_that_is_saved_counts_once_as_it_is_trained():
    entry, protocol = method(), toy_runs.protocol()
    real = as_trained(AutoModelForCausalLM.from_config(TIED), entry, adapter_config(entry, 4, 0, protocol), protocol)
    twin = attach(build_base(TIED, protocol), entry, 4, protocol)
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (twin, real)]
    assert counts[0] == counts[1]
