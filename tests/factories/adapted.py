"""An adapter with random values on a copy of a model, of SBoRA or of PEFT's LoRA beside it."""

import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from sbora import SboraConfig


def adapted(model: nn.Module, kind: str, **settings) -> PeftModel:
    """`kind`: fa, fb or lora; on the layers of the toy in conftest.py unless `target_modules` says otherwise."""
    torch.manual_seed(1)
    settings = {"r": 4, "target_modules": ["lin", "conv"]} | settings
    if kind == "lora":
        return get_peft_model(copy.deepcopy(model), LoraConfig(init_lora_weights=False, **settings))
    return get_peft_model(copy.deepcopy(model), SboraConfig(variant=kind, init_weights=False, **settings))
