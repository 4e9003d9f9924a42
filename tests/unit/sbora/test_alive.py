"""What is alive when the backward pass begins, where memory peaks: the adapters' own part, by name."""

import copy
import gc
import weakref
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from sbora import SboraConfig

TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
R, TOKENS, WIDTH = 8, 2 * 10, 32
IDS = torch.arange(3, 23).view(2, 10)


class Alive(TorchDispatchMode):
    """Every storage that an operation makes, until it dies: how many bytes it has, and what made it."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = (weakref.ref(storage), storage.nbytes(), function.__name__)
        return result

    def counted(self):
        gc.collect()
        return Counter((made_by, size) for storage, size, made_by in self.storages.values() if storage() is not None)


def _alive(base, kind, dropout=0.0, frozen=False, **targets):
    model = copy.deepcopy(base).requires_grad_(False)
    common = {"r": R, "target_modules": TARGETS} | targets
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(lora_dropout=dropout, **common))
    elif kind != "frozen":
        model = get_peft_model(model, SboraConfig(variant=kind, sbora_dropout=dropout, **common))
    if frozen:
        model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
    with Alive() as alive:
        loss = model.train()(input_ids=IDS, labels=IDS).loss
        counts = alive.counted()
        loss.backward()
    return counts


def _bytes(counted):
    return sum(size * count for (_, size), count in counted.items())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fa_keeps_the_gathered_inputs_and_nothing_else(llama, dropout):
    own = _alive(llama, "fa", dropout) - _alive(llama, "frozen")
    gathered = 2 * len(TARGETS) * TOKENS * R * 4
    if not dropout:
        assert set(own) == {("index_select.default", TOKENS * R * 4)} and _bytes(own) == gathered
    assert _bytes(own) <= gathered * (3 if dropout else 1)  # and of these which were dropped
    assert _bytes(own) <= 0.2 * _bytes(_alive(llama, "lora", dropout) - _alive(llama, "frozen"))


def test_fb_keeps_the_inputs_that_the_model_does_not(llama):
    """Of a block: the two that come from its norms. That of `down_proj` is made anew, of what its activation keeps."""
    own = _alive(llama, "fb") - _alive(llama, "frozen")
    assert _bytes(own) == 2 * 2 * TOKENS * WIDTH * 4
    assert {size for _, size in own} == {TOKENS * WIDTH * 4}


EXPERT_INNER = 16
EXPERTS = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}


@pytest.fixture
def experts():
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": 0,
    }
    sizes |= {
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": EXPERT_INNER,
    }
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, head_dim=8))
    model.set_experts_implementation("grouped_mm")
    return model


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_of_experts_the_adapters_keep_inputs_and_no_copy_of_a_weight(experts, implementation):
    """Of a layer's two parameters and each pair of a token and an expert of its: FA keeps r inputs, FB all inputs, and
    neither the pair's indices, which would take more; LoRA all inputs and whole weights.
    """
    experts.set_experts_implementation(implementation)
    frozen, layers, pairs = _alive(experts, "frozen"), 2, TOKENS * 2
    chosen = "index.Tensor" if implementation == "grouped_mm" else "clone.default"
    inputs = {(chosen, pairs * WIDTH * 4): layers, ("mul.Tensor", pairs * EXPERT_INNER * 4): layers}
    of_fa, of_fb, of_lora = (dict(_alive(experts, kind, **EXPERTS) - frozen) for kind in ("fa", "fb", "lora"))
    assert of_fa == {("gather.default", pairs * R * 4): 2 * layers}
    assert of_fb == inputs
    smallest = 4 * WIDTH * EXPERT_INNER * 4  # `down_proj` of four experts
    assert max(size for _, size in [*of_fa, *of_fb]) < smallest
    if implementation == "grouped_mm":  # the other way the base makes a copy for each pair, too
        assert smallest <= max(size for _, size in of_lora)


@pytest.mark.parametrize("how", ["plain", "saved tensors packed", "checkpoint"])
def test_an_input_that_is_made_anew_gives_the_same_gradients(llama, how):
    grads = []
    for packed in (False, True):
        torch.manual_seed(1)
        model = get_peft_model(
            copy.deepcopy(llama), SboraConfig(variant="fb", r=R, target_modules=["down_proj"], init_weights=False)
        )
        if packed and how == "checkpoint":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)
        if packed and how == "saved tensors packed":
            with hooks:
                loss = model.train()(input_ids=IDS, labels=IDS).loss
        else:
            loss = model.train()(input_ids=IDS, labels=IDS).loss
        loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(grads[0]) == 2
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_adapters_keep_no_inputs(llama):
    """As LoRA's that are loaded for inference, with an input that learns."""
    for kind in ("lora", "fa", "fb"):
        assert _bytes(_alive(llama, kind, frozen=True)) == _bytes(_alive(llama, "frozen"))


class Gated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = (torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("kind", ["lora", "fa", "fb"])
def test_a_gated_input_that_is_changed_in_place_gives_the_gradient_of_what_it_became(kind):
    torch.manual_seed(0)
    common = {"r": 4, "target_modules": ["down"]}
    if kind == "lora":
        model = get_peft_model(Gated(), LoraConfig(init_lora_weights=False, **common))
    else:
        model = get_peft_model(Gated(), SboraConfig(variant=kind, init_weights=False, **common))
    layer, seen = model.base_model.model.down, []

    def clamp(module, args):
        with torch.no_grad():
            seen.append(args[0].clamp_(-0.05, 0.05).clone())

    layer.register_forward_pre_hook(clamp)
    y = model(torch.randn(6, 16, requires_grad=True))
    grad = torch.randn_like(y)
    y.backward(grad)
    of_weight = layer.scaling["default"] * grad.t() @ seen[0]
    if kind == "lora":
        got, expected = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.t() @ of_weight
    else:
        index = layer.sbora_index["default"]
        expected = of_weight[:, index] if kind == "fa" else of_weight[index]
        got = layer.sbora_weight["default"].grad
    torch.testing.assert_close(got, expected)
