"""Toy models and the oracle for the tests of the method."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from sbora import SboraConfig, SboraLayer


class Toy(nn.Module):
    """20 -> 30 -> 10, an nn.Linear and a Conv1D."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(20, 30)
        self.conv = Conv1D(10, 30)

    def forward(self, x):
        return self.conv(torch.tanh(self.lin(x)))


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy()


@pytest.fixture
def adapt():
    """Put an SBoRA adapter on the toy (or on another model), random unless told otherwise."""

    def make(model, **settings):
        settings = {"r": 4, "sbora_alpha": 8, "target_modules": ["lin", "conv"], "init_weights": False} | settings
        return get_peft_model(copy.deepcopy(model), SboraConfig(**settings))

    return make


@pytest.fixture
def layers():
    """The SBoRA layers of a model, by name."""

    def find(model):
        return {name: m for name, m in model.named_modules() if isinstance(m, SboraLayer)}

    return find


@pytest.fixture
def one_hot_lora(layers):
    """PEFT's LoRA with the matrix that SBoRA replaces by its index set one-hot and frozen."""

    def make(base, model):
        config = model.peft_config["default"]
        lora = get_peft_model(
            copy.deepcopy(base),
            LoraConfig(r=config.r, lora_alpha=config.sbora_alpha, target_modules=list(config.target_modules)),
        )
        for name, layer in layers(model).items():
            other = lora.get_submodule(name)
            index, weight = layer.sbora_index["default"], layer.sbora_weight["default"].detach()
            a, b = other.lora_A["default"].weight, other.lora_B["default"].weight
            fixed, trained = (a, b) if config.variant == "fa" else (b, a)
            trained.data.copy_(weight)
            one_hot = torch.eye(fixed.shape[1 if config.variant == "fa" else 0])[index]
            fixed.data.copy_(one_hot if config.variant == "fa" else one_hot.t())
            fixed.requires_grad_(False)
        return lora

    return make


@pytest.fixture
def llama():
    """A LLaMA of two layers with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
