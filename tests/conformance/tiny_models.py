"""Tiny random models under the ids that PEFT's tests name, so that these find them as local folders, offline.

`write(folder)` makes `folder/<org>/<name>/{config.json, model.safetensors}`; the tests run with `folder` as
their working directory. No tokenizer is needed. One seed a model: every run sees the same weights.
"""

from pathlib import Path

TOKENS = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
ENCODER = {"vocab_size": 128, **LAYERS, "hidden_size": 32, "intermediate_size": 37, "initializer_range": 0.1}
DECODER = {**ENCODER, **TOKENS, "num_key_value_heads": 2}
OPT = {**TOKENS, **LAYERS, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 32, "init_std": 0.1}
GPT = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.1}
T5 = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0}
# PEFT's quantisation tests count twelve layers, and bitsandbytes wants whole 4-bit blocks of 64 in each row
OPT_125M = {**OPT, "num_hidden_layers": 12, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 64}
BART = {"vocab_size": 128, "d_model": 32, "max_position_embeddings": 64, "init_std": 0.1}
BART |= {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 37}
BART |= {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 37}
EXPERTS = {**DECODER, "num_local_experts": 4, "head_dim": 8}
LLAMA4 = {**EXPERTS, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 40}
GPT_OSS = {**EXPERTS, "intermediate_size": 32, "num_experts_per_tok": 2}

PEFT, TRL, HF = "peft-internal-testing", "trl-internal-testing", "hf-internal-testing"
# id: (architecture, its config)
MODELS = {
    f"{PEFT}/tiny-random-OPTForCausalLM": ("OPTForCausalLM", OPT),
    f"{PEFT}/opt-125m": ("OPTForCausalLM", OPT_125M),
    f"{PEFT}/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", GPT),
    f"{PEFT}/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    f"{TRL}/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", DECODER),
    f"{PEFT}/tiny-dummy-qwen2": ("Qwen2ForCausalLM", DECODER),
    f"{HF}/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", {**DECODER, "head_dim": 8}),
    f"{TRL}/tiny-Llama4ForCausalLM": ("Llama4ForCausalLM", LLAMA4),
    f"{TRL}/tiny-GptOssForCausalLM": ("GptOssForCausalLM", GPT_OSS),
    f"{PEFT}/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", T5),
    f"{PEFT}/tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", BART),
    f"{PEFT}/tiny-random-BertModel": ("BertModel", ENCODER),
    f"{PEFT}/tiny-random-RobertaModel": ("RobertaModel", ENCODER),
    f"{PEFT}/tiny-random-DebertaModel": ("DebertaModel", ENCODER),
    f"{PEFT}/tiny-random-DebertaV2Model": ("DebertaV2Model", ENCODER),
    f"{PEFT}/tiny-random-BertForSequenceClassification": ("BertForSequenceClassification", ENCODER),
    f"{PEFT}/tiny-random-RobertaForSequenceClassification": ("RobertaForSequenceClassification", ENCODER),
    f"{TRL}/tiny-LlamaForSequenceClassification-3.2": ("LlamaForSequenceClassification", DECODER),
}
ADAPTER = f"{PEFT}/tiny-opt-lora-revision"  # PEFT's config tests read its adapter_config.json


def write(folder: Path) -> None:
    """Write every model and the adapter's configuration below `folder`."""
    import peft
    import torch
    import transformers

    peft.LoraConfig(base_model_name_or_path=f"{PEFT}/opt-125m").save_pretrained(folder / ADAPTER)

    with torch.random.fork_rng(devices=[]):
        for model_id, (architecture, config) in MODELS.items():
            model_class = getattr(transformers, architecture)
            torch.manual_seed(0)
            model_class(model_class.config_class(**config)).save_pretrained(folder / model_id)
