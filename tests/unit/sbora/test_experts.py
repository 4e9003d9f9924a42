"""Mixtures of experts: r columns or rows of each expert of a parameter, beside PEFT's LoRA."""

import copy
import warnings
from functools import partial

import accelerate
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.convbert.modeling_convbert import GroupedLinearLayer
from transformers.models.csm.modeling_csm import CsmCodebooksHead

from sbora import ParamWrapper, SboraConfig, export
from sbora.operand import Operand

from .test_alive import Alive

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
}
MODELS = {
    "qwen3": (Qwen3MoeForCausalLM, Qwen3MoeConfig, {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 4}),
    "gpt-oss": (GptOssForCausalLM, GptOssConfig, {"num_local_experts": 4, "head_dim": 8}),  # in x out
}
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]
IDS = torch.arange(3, 23).view(2, 10)
VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])
EVERY_MODEL = pytest.mark.parametrize("kind", MODELS)


def _base(kind, implementation="grouped_mm"):
    torch.manual_seed(0)
    cls, config, sizes = MODELS[kind]
    model = cls(config(**SIZES, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # gpt-oss leaves its experts at what the memory held
    model.set_experts_implementation(implementation)
    return model


def _adapt(base, **settings):
    torch.manual_seed(1)
    defaults = {"r": 4, "sbora_alpha": 2, "target_parameters": PARAMETERS, "target_modules": [], "init_weights": False}
    return get_peft_model(copy.deepcopy(base), SboraConfig(**defaults | settings)).eval()


def _wrappers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, ParamWrapper)}


def _of_the_sum(base, model, names=("default",)):
    """The base with the adapters' updates added to its parameters, as a model of its own, all trainable."""
    summed = copy.deepcopy(base)
    for name, layer in _wrappers(model).items():
        module = summed.get_submodule(name.removeprefix("base_model.model.").replace(".base_layer", ""))
        parameter = getattr(module, layer.parameter_name)
        parameter.data += sum(layer.get_delta_weight(n) for n in names)
    return summed


@EVERY_MODEL
@VARIANTS
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_outputs_and_gradients_are_those_of_the_sum(monkeypatch, kind, variant, implementation):
    def made(self):
        raise AssertionError("the sum of the experts and the adapter was made")

    base = _base(kind, implementation)
    model = _adapt(base, variant=variant)
    summed = _of_the_sum(base, model)
    monkeypatch.setattr(Operand, "dense", made)
    logits, expected = model(IDS).logits, summed(IDS).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(logits, base(IDS).logits, atol=1e-2)
    logits.square().sum().backward()
    expected.square().sum().backward()
    layers = _wrappers(model)
    assert len(layers) == 2
    for name, layer in layers.items():
        module = summed.get_submodule(name.removeprefix("base_model.model.").replace(".base_layer", ""))
        whole = getattr(module, layer.parameter_name).grad
        region = layer._read_region(whole, "default", layer.sbora_index["default"]) * layer.scaling["default"]
        region = region.transpose(-2, -1) if layer.fan_in_fan_out else region
        torch.testing.assert_close(layer.sbora_weight["default"].grad, region, rtol=1e-4, atol=1e-5)
    assert not any(p.grad is not None for n, p in model.named_parameters() if "sbora_" not in n)


@EVERY_MODEL
@VARIANTS
def test_each_expert_has_its_own_columns_or_rows(kind, variant):
    model = _adapt(_base(kind), variant=variant, rank_pattern={"down_proj": 3}, alpha_pattern={"gate_up_proj": 6})
    for layer in _wrappers(model).values():
        r = 3 if layer.parameter_name == "down_proj" else 4
        assert layer.scaling["default"] == (6 / 4 if r == 4 else 2 / 3)
        index = layer.sbora_index["default"]
        assert index.shape == (4, r)
        assert len({tuple(row) for row in index.tolist()}) == 4
        intermediate = 16 if kind == "qwen3" else 48
        sizes = (2 * intermediate, 32) if layer.parameter_name == "gate_up_proj" else (32, intermediate)
        assert (layer.out_features, layer.in_features) == sizes
        expected = (4, sizes[0], r) if variant == "fa" else (4, r, sizes[1])
        assert layer.sbora_weight["default"].shape == expected
        delta = layer.get_delta_weight("default")
        delta = delta.transpose(1, 2) if kind == "gpt-oss" else delta
        for expert, row in zip(delta, index, strict=True):
            changed = expert.any(0 if variant == "fa" else 1).nonzero().flatten()
            assert torch.equal(changed, row)


@EVERY_MODEL
@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_changes_the_region_and_unmerging_gives_back_the_same_bits(kind, variant, dtype):
    base = _base(kind).to(dtype)
    model = _adapt(base, variant=variant)
    model.add_adapter("other", SboraConfig(**{**model.peft_config["default"].to_dict(), "random_seed": 1, "r": 6}))
    expected = model(IDS).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.merge_adapter()
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-6 if dtype == torch.float32 else 0.2)
    for layer in _wrappers(model).values():
        delta = layer.get_delta_weight("default") != 0
        (old,) = (
            t for n, t in before.items() if n.replace(".base_layer", "").endswith(f"experts.{layer.parameter_name}")
        )
        assert torch.equal(layer.base_weight()[~delta], old[~delta])
        assert not torch.equal(layer.base_weight()[delta], old[delta])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another one is merged already
        model.merge_adapter(adapter_names=["other"])
    model.unmerge_adapter()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@EVERY_MODEL
@VARIANTS
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saving_and_loading(tmp_path, kind, variant, low_cpu_mem_usage):
    base = _base(kind)
    model = _adapt(base, variant=variant, target_modules=["q_proj"])
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@EVERY_MODEL
@VARIANTS
def test_export(tmp_path, kind, variant):
    _base(kind).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    patterns = {"rank_pattern": {"experts.down_proj": 3}, "alpha_pattern": {"experts.gate_up_proj": 6}}
    model = _adapt(base, variant=variant, task_type="CAUSAL_LM", target_modules=["q_proj"], **patterns)
    expected = model(IDS).logits
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(export(tmp_path / "adapter", "merged", tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-5, atol=1e-6)
    lora = PeftModel.from_pretrained(base, export(tmp_path / "adapter", "lora", tmp_path / "lora")).eval()
    torch.testing.assert_close(lora(IDS).logits, expected, rtol=1e-5, atol=1e-6)


@VARIANTS
def test_an_adapter_with_dropout_exports_to_what_peft_loads(tmp_path, variant):
    """LoRA on parameters refuses dropout, so it is left out: it is for training."""
    _base("qwen3").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model = _adapt(base, variant=variant, sbora_dropout=0.1)
    model.save_pretrained(tmp_path / "adapter")
    lora = PeftModel.from_pretrained(base, export(tmp_path / "adapter", "lora", tmp_path / "lora")).eval()
    torch.testing.assert_close(lora(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-6)


SHARED = {"n_routed_experts": 4, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}
SHARED |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}


def _with_shared_experts():
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES | SHARED | {"num_key_value_heads": 4}))


def test_an_adapter_that_peft_s_lora_would_put_elsewhere_is_refused(tmp_path):
    """Of DeepSeek's `down_proj` PEFT makes the experts' parameter for LoRA, and leaves the shared experts out."""
    _with_shared_experts().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    lora = get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=["o_proj", "shared_experts.down_proj"]))
    assert lora.peft_config["default"].target_parameters == {"down_proj"}
    model = _adapt(base, target_modules=["o_proj", "shared_experts.down_proj"], target_parameters=None)
    expected = model(IDS).logits
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"otherwise than it is: .*shared_experts.down_proj\. Export to 'merged'"):
        export(tmp_path / "adapter", "lora", tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
    merged = AutoModelForCausalLM.from_pretrained(export(tmp_path / "adapter", "merged", tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=1e-5, atol=1e-6)


@EVERY_MODEL
@VARIANTS
def test_several_adapters_disabling_and_deleting(kind, variant):
    base = _base(kind)
    model = _adapt(base, variant=variant)
    torch.manual_seed(2)
    model.add_adapter("other", SboraConfig(**{**model.peft_config["default"].to_dict(), "random_seed": 1, "r": 6}))
    assert len(_wrappers(model)) == 2
    first = model(IDS).logits
    model.set_adapter("other")
    second = model(IDS).logits
    torch.testing.assert_close(second, _of_the_sum(base, model, ["other"])(IDS).logits, rtol=1e-5, atol=1e-6)
    model.base_model.set_adapter(["default", "other"])
    both = _of_the_sum(base, model, ["default", "other"])
    torch.testing.assert_close(model(IDS).logits, both(IDS).logits, rtol=1e-5, atol=1e-6)
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, base(IDS).logits)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(model(IDS).logits, first)
    assert torch.equal(model.unload()(IDS).logits, base(IDS).logits)


@VARIANTS
def test_training_and_checkpoints_of_activations(variant):
    base = _base("qwen3")
    model = _adapt(base, variant=variant, init_weights=True)
    assert torch.equal(model(IDS).logits, base(IDS).logits)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    losses = []
    for _ in range(8):
        loss = model(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    grads = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        grads.append([p.grad.clone() for p in trained])
    torch.testing.assert_close(*grads)


class WatchStorage(TorchDispatchMode):
    """Notes the size, in numbers, of everything that is made anew."""

    def __init__(self, known):
        super().__init__()
        self.known = {parameter.untyped_storage().data_ptr() for parameter in known}
        self.sizes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.sizes.add(tensor.numel())
        return result


@VARIANTS
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_no_second_copy_of_the_experts_is_made(variant, implementation):
    """Forward, backward and gradients make nothing of the size of all experts or of one. LoRA makes all."""

    def made_by(model):
        with WatchStorage(model.parameters()) as watch:
            model(input_ids=IDS, labels=IDS).loss.backward()
        return watch.sizes

    base = _base("qwen3", implementation)
    experts = base.model.layers[0].mlp.experts
    sizes = {p.numel() for p in experts.parameters()}
    if implementation == "eager":  # which takes expert by expert
        sizes |= {p[0].numel() for p in experts.parameters()}
    assert not made_by(_adapt(base, variant=variant, r=3)) & sizes
    lora = LoraConfig(r=3, target_parameters=PARAMETERS, target_modules=[])
    assert made_by(get_peft_model(base, lora)) >= {p.numel() for p in experts.parameters()}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@VARIANTS
def test_less_is_kept_for_the_backward_pass_than_by_lora(variant, implementation):
    """Batched products would keep a copy of its expert's matrices for each token."""
    kept = {}
    for kind in ("lora", variant):
        base = _base("qwen3", implementation).requires_grad_(False)
        lora = LoraConfig(r=4, target_parameters=PARAMETERS, target_modules=[])
        model = get_peft_model(base, lora) if kind == "lora" else _adapt(base, variant=variant)
        model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.requires_grad_())
        with Alive() as alive:
            loss = model(input_ids=IDS, labels=IDS).loss
            kept[kind] = alive.counted()
        assert loss.requires_grad
    total = {kind: sum(size * count for (_, size), count in counted.items()) for kind, counted in kept.items()}
    assert total[variant] < 0.75 * total["lora"]
    assert not {size for _, size in kept[variant]} & {40 * n * 4 for n in (32 * 32, 16 * 32, 4 * 32, 4 * 16)}


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("variant", ["lora", "fa", "fb"])
def test_selective_checkpoints_that_save_products(variant, implementation):
    aten = torch.ops.aten
    products = {aten.mm.default, aten.addmm.default, aten.linear.default, aten.bmm.default, aten._grouped_mm.default}

    def policy(context, operator, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if operator in products else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)
    grads = []
    for selective in (False, True):
        base = _base("qwen3", implementation).requires_grad_(False)
        common = {"r": 4, "target_parameters": PARAMETERS, "target_modules": []}
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(**common)) if variant == "lora" else _adapt(base, variant=variant)
        block = base.model.layers[0].mlp
        if selective:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        model(input_ids=IDS, labels=IDS).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


class Products(TorchDispatchMode):
    """Holds all products that are made, beside copies of what they were."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator in (torch.ops.aten._grouped_mm.default, torch.ops.aten.bmm.default):
            self.pairs.append((result, result.clone()))
        return result


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize("variant", ["lora", "fa", "fb"])
def test_products_that_somebody_holds_stay_as_they_were(variant, implementation):
    base = _base("qwen3", implementation)
    if variant == "lora":
        model = get_peft_model(base, LoraConfig(target_parameters=PARAMETERS, target_modules=[]))
    else:
        model = _adapt(base, variant=variant)
    with Products() as held:
        model(IDS)
    assert held.pairs and all(torch.equal(*pair) for pair in held.pairs)


@VARIANTS
def test_gradients_of_single_samples(variant):
    """By torch.func, whose transforms PEFT's LoRA on parameters doesn't get through."""
    config = SboraConfig(variant=variant, r=2, target_parameters=["inner.weight"], init_weights=False)
    model = get_peft_model(Mixture(), config)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    x = torch.randn(5, 3, 8)
    loss = lambda trained, x: functional_call(model, trained, (x,)).square().sum()  # noqa: E731
    singles = vmap(grad(loss), (None, 0))(trained, x)
    for i in range(5):
        alone = torch.autograd.grad(model(x[i]).square().sum(), [model.get_parameter(name) for name in trained])
        torch.testing.assert_close([single[i] for single in singles.values()], list(alone), rtol=1e-4, atol=1e-4)


class Mixture(nn.Module):
    """Parameters of two and of one dimension, and one that is used in another way than by multiplication."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.weight = nn.Parameter(torch.randn(6, 8))
        self.inner.vector = nn.Parameter(torch.randn(8))
        self.inner.forward = lambda x: x @ self.inner.weight.t() * self.inner.weight.norm()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        return self.inner(self.lin(x))


@VARIANTS
def test_parameters_of_two_dimensions_and_of_linear_layers(variant):
    torch.manual_seed(0)
    base = Mixture()
    settings = {"r": 2, "target_modules": None, "target_parameters": ["inner.weight", "lin.weight"]}
    torch.manual_seed(1)
    model = get_peft_model(base, SboraConfig(variant=variant, init_weights=False, **settings))
    layers = _wrappers(model)
    assert sorted(layer.parameter_name for layer in layers.values()) == ["weight", "weight"]
    x = torch.randn(3, 8)
    inner, lin = (layers[f"base_model.model.{n}"] for n in ("inner", "lin"))
    weights = [layer.base_weight() + layer.get_delta_weight("default") for layer in (lin, inner)]
    expected = nn.functional.linear(x, weights[0], lin.base_layer.bias) @ weights[1].t() * weights[1].norm()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"target_parameters": ["inner.vector"]}, TypeError, "'inner.vector': it has 1 dimensions"),
        ({"target_parameters": ["inner.weight"], "r": 9}, ValueError, "r = 9 is too high for 'inner.weight'"),
        ({"target_parameters": "inner.weight"}, ValueError, "target_parameters is .* but must be a list"),
    ],
)
def test_what_cannot_be_adapted_leaves_the_model_alone(settings, error, message):
    model = Mixture()
    modules = list(model.modules())
    with pytest.raises(error, match=message):
        get_peft_model(model, SboraConfig(**{"r": 2} | settings))
    assert list(model.modules()) == modules


def test_parameters_take_no_mixed_batches_and_no_merged_training():
    model = _adapt(_base("qwen3"))
    with pytest.raises(ValueError, match="mixed adapter batches"):
        model(IDS, adapter_names=["default", "__base__"])
    with pytest.raises(ValueError, match="train_merged needs linear layers"):
        model.base_model.train_merged()
    other = SboraConfig(target_parameters=["experts.down_proj"], target_modules=[])
    with pytest.raises(ValueError, match="must name the same target_parameters"):
        model.add_adapter("other", other)
    with pytest.raises(ValueError, match="adapts parameters .*, which have no union"):
        model.add_weighted_adapter(["default"], "joined")
    assert list(model.peft_config) == ["default"]


@VARIANTS
@pytest.mark.parametrize("kind", ["qwen3", "gpt-oss"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_autocast_gives_what_the_sum_gives(kind, variant, implementation):
    base = _base(kind, implementation)
    model = _adapt(base, variant=variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, expected = model(IDS).logits.float(), _of_the_sum(base, model)(IDS).logits.float()
    assert (logits - expected).norm() < 0.01 * expected.norm()
    logits.sum().backward()
    assert all(layer.sbora_weight["default"].grad.any() for layer in _wrappers(model).values())


@VARIANTS
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_experts_are_adapted(tmp_path, variant, where):
    """Their weights are put in place when their module is called, past the adapter."""
    model = _adapt(_base("mixtral"), variant=variant)
    expected = model(IDS).logits.detach()
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu")
    else:
        accelerate.disk_offload(model, tmp_path, execution_device="cpu")
    assert _wrappers(model).popitem()[1].base_weight().is_meta
    assert torch.equal(model(IDS).logits, expected)


@pytest.mark.slow
@VARIANTS
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_compiled_experts_are_adapted(variant, implementation):
    model = _adapt(_base("qwen3", implementation), variant=variant)
    expected = model(IDS).logits
    logits = torch.compile(model, backend="aot_eager")(IDS).logits
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@EVERY_MODEL
@VARIANTS
@pytest.mark.parametrize("r", [3, 4])
def test_a_step_can_be_traced_on_meta(kind, variant, r):
    """As the harness does to count what is alive; in bf16 neither rank has rows of whole 16 bytes."""
    cls, config, sizes = MODELS[kind]
    with torch.device("meta"):
        base = cls(config(**SIZES, **sizes)).bfloat16()
        ids, mask = torch.zeros(2, 10, dtype=torch.long), torch.ones(2, 1, 10, 10, dtype=torch.bool)
    settings = {"target_parameters": PARAMETERS, "target_modules": [], "r": r}
    model = get_peft_model(base, SboraConfig(variant=variant, **settings), low_cpu_mem_usage=True)
    model(input_ids=ids, attention_mask=mask, position_ids=ids, labels=ids).loss.backward()
    for layer in _wrappers(model).values():
        assert layer.sbora_weight["default"].grad.shape == layer.sbora_weight["default"].shape


@VARIANTS
def test_transformers_loads_them(tmp_path, variant):
    model = _adapt(_base("qwen3"), variant=variant, target_modules=["q_proj"])
    model.save_pretrained(tmp_path)
    loaded = _base("qwen3")
    loaded.load_adapter(tmp_path)
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
def test_a_name_that_nothing_has_is_warned_of(kind):
    names = ["q_proj", "w1"] if kind == "mixtral" else ["q_proj", "up_proj"]
    with pytest.warns(UserWarning, match=rf"named {names[1]}, .*target_parameters: .*experts.gate_up_proj"):
        get_peft_model(_base(kind), SboraConfig(target_modules=names, r=4))
    with pytest.warns(UserWarning, match="target_parameters: nothing in the model is named experts.up_proj"):
        _adapt(_base(kind), target_parameters=[*PARAMETERS, "experts.up_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(_base(kind), SboraConfig(r=4, target_modules=["q_proj", "k_proj"], exclude_modules=["k_proj"]))
        if kind == "mixtral":
            get_peft_model(_base(kind), SboraConfig(r=4))  # PEFT's choice for the architecture


@pytest.mark.parametrize("targets", ["all-linear", r".*(q_proj|gate_proj|w1)"])
@pytest.mark.parametrize("kind", ["qwen3", "mixtral"])
def test_experts_that_a_pattern_leaves_out_are_warned_of(kind, targets):
    """PEFT's LoRA adapts them unasked."""
    with pytest.warns(UserWarning, match=r"experts are parameters, .*: experts.down_proj, experts.gate_up_proj\."):
        get_peft_model(_base(kind), SboraConfig(target_modules=targets, r=4))
    with pytest.warns(UserWarning, match=r"target_parameters: experts.down_proj\."):
        get_peft_model(_base(kind), SboraConfig(target_modules=targets, r=4, target_parameters=PARAMETERS[:1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(_base(kind), SboraConfig(target_modules=targets, r=4, target_parameters=PARAMETERS))
        others = nn.Sequential(nn.Conv1d(4, 4, 2), nn.Linear(4, 4))
        others.position = nn.Parameter(torch.zeros(1, 3, 4))
        get_peft_model(others, SboraConfig(target_modules=targets.replace("q_proj", "1"), r=2))


@pytest.mark.parametrize("names", [["o_proj", "down_proj"], ["o_proj", "shared_experts.down_proj"]])
def test_experts_whose_name_shared_experts_have_too_are_warned_of(names):
    """PEFT's LoRA adapts those of DeepSeek unasked."""
    base = _with_shared_experts()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(base, SboraConfig(target_modules=names, r=4))
    said = [str(warning.message) for warning in caught if "target_parameters" in str(warning.message)]
    assert len(said) == ("down_proj" in names)
    assert all("target_parameters: experts.down_proj." in message for message in said)


@VARIANTS
def test_experts_that_lora_adapts_already_are_refused(variant):
    """PEFT would wrap each in the other, and whoever looks for the base layer would never end."""
    lora = get_peft_model(_base("qwen3"), LoraConfig(target_parameters=PARAMETERS, target_modules=[]))
    names = {name for name, _ in lora.named_modules()}
    settings = {"variant": variant, "target_modules": ["q_proj"], "r": 4}
    with pytest.raises(TypeError, match="gate_up_proj.*another of PEFT's methods adapts its module"):
        get_peft_model(lora.base_model.model, SboraConfig(target_parameters=PARAMETERS, **settings))
    assert {name for name, _ in lora.named_modules()} == names
    merged = lora.merge_and_unload()
    assert len(_wrappers(get_peft_model(merged, SboraConfig(target_parameters=PARAMETERS, **settings)))) == 2


@pytest.mark.parametrize("parameters", [PARAMETERS, PARAMETERS[:1]])
@pytest.mark.parametrize("put", [get_peft_model, lambda model, config: inject_adapter_in_model(config, model, "other")])
@VARIANTS
def test_lora_over_experts_that_are_adapted_is_refused(variant, put, parameters):
    """PEFT would put the innermost layer's adapter around the outermost layer, a circle."""
    model = _adapt(_base("qwen3"), variant=variant, target_parameters=parameters)
    names, expected = {name for name, _ in model.named_modules()}, model(IDS).logits
    with pytest.raises(TypeError, match="SBoRA adapts the parameter 'gate_up_proj' already"):
        put(model.base_model.model, LoraConfig(target_parameters=parameters, target_modules=[]))
    assert {name for name, _ in model.named_modules()} == names
    assert torch.equal(model(IDS).logits, expected)


def test_a_layer_is_shown_under_the_package_s_name():
    assert repr(next(iter(_wrappers(_adapt(_base("qwen3"))).values()))).startswith("sbora.ParamWrapper(")


@pytest.mark.parametrize("variant", ["lora", "fa", "fb"])
def test_parameters_that_are_handed_on_in_lists(variant):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(16, 16)

        def forward(self, x):
            return self.rnn(x)[0]

    torch.manual_seed(1)
    common = {"r": 4, "target_modules": [], "target_parameters": ["rnn.weight_ih_l0"]}
    if variant == "lora":
        model = get_peft_model(Recurrent(), LoraConfig(init_lora_weights=False, **common))
    else:
        model = get_peft_model(Recurrent(), SboraConfig(variant=variant, init_weights=False, **common))
    x = torch.randn(3, 16)
    y = model(x)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.merge_adapter()
    torch.testing.assert_close(model(x), y)


@VARIANTS
@pytest.mark.parametrize("module", [partial(CsmCodebooksHead, 32, 5, 64), partial(GroupedLinearLayer, 32, 64, 4)])
def test_matrices_that_are_stored_the_other_way_without_saying_so(module, variant):
    """FA takes inputs all the same: LoRA has no columns that could be rows."""
    torch.manual_seed(0)
    base = nn.Sequential(module())
    for parameter in base.parameters():  # which the modules leave as memory had it
        nn.init.normal_(parameter)
    model = _adapt(base, variant=variant, target_parameters=["0.weight"])
    layer = model.base_model.model[0]
    assert (layer.in_features, layer.out_features) == tuple(base[0].weight.shape[1:])
    x = torch.randn(2, 4, 32)
    arguments = (x, torch.arange(1, 5)) if isinstance(base[0], CsmCodebooksHead) else (x,)
    torch.testing.assert_close(model.base_model.model[0](*arguments), _of_the_sum(base, model)[0](*arguments))
