"""Tiny models of every architecture whose attention or head differs, over the toy's words."""

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from tests.factories import toy_runs

WORDS = len(toy_runs.tokenizer())
SMALL = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "initializer_range": 0.3}
SIZES = SMALL | toy_runs.ARCHITECTURE | {"max_position_embeddings": 64}
WHOLE = {"num_key_value_heads": 4, "tie_word_embeddings": False}
KINDS = {
    "llama": LlamaConfig(**SIZES | WHOLE),
    "llama-grouped-queries": LlamaConfig(**SIZES | {"tie_word_embeddings": False}),
    "llama-tied": LlamaConfig(**SIZES | {"tie_word_embeddings": True}),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2-soft-cap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0),
    "cohere-scaled": CohereConfig(**SIZES, logit_scale=0.25),
    "granite-scaled": GraniteConfig(**SIZES, logits_scaling=4.0),
    "qwen2-window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "gemma2-soft-caps-and-window": Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=2.0, sliding_window=6),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma3-window": Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=6),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "gpt2": GPT2Config(**SMALL, n_positions=64, n_embd=32, n_layer=2, n_head=4),
}
KINDS["gpt2"].resid_pdrop = KINDS["gpt2"].embd_pdrop = KINDS["gpt2"].attn_pdrop = 0.0


def base(config) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
