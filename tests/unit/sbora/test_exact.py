"""SBoRA is LoRA with a one-hot matrix: outputs, gradients and training agree with PEFT's LoRA."""

import copy

import pytest
import torch
from torch import nn

from sbora import functional
from tests.factories.adapted import adapted

VARIANTS = ("fa", "fb")


def _train(model, steps, inputs, dtype=None):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = (model(inputs) - 1).square().mean()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("init_weights", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_agrees_with_frozen_one_hot_lora(toy, adapt, one_hot_lora, variant, init_weights):
    model = adapt(toy, variant=variant, init_weights=init_weights)
    lora = one_hot_lora(toy, model)
    x = torch.randn(3, 5, 20)
    untrained = model(x).detach()
    for other in (model, lora):
        _train(other, 20, x)
    assert (untrained - model(x)).abs().max() > 0.1
    torch.testing.assert_close(model(x), lora(x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_under_autocast_stays_near_lora(toy, adapt, one_hot_lora, variant, dtype):
    model = adapt(toy, variant=variant)
    lora = one_hot_lora(toy, model)
    x = torch.randn(3, 5, 20)
    for other in (model, lora):
        _train(other, 20, x, dtype)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(model(x), lora(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(20,), (3, 20), (2, 3, 20), (2, 1, 2, 3, 20), (0, 20)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_of_any_number_of_dimensions_and_dtype(toy, adapt, variant, shape, dtype):
    model = adapt(toy.to(dtype), variant=variant)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    y = model(x)
    assert y.dtype == dtype
    assert y.shape == (*shape[:-1], 10)
    y.sum().backward()
    assert x.grad.shape == shape
    merged = model.merge_and_unload()
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-5}.get(dtype, 0.06)  # the adapter itself is fp32
    torch.testing.assert_close(merged(x), y, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "sizes"), [("lora", (20, 0)), ("lora", (0, 20)), ("fa", (20, 0)), ("fb", (0, 20))], ids=str
)
def test_layers_without_outputs_or_inputs(kind, sizes):
    model = adapted(nn.Sequential(nn.Linear(*sizes)), kind, target_modules=["0"])
    x = torch.randn(3, sizes[0], requires_grad=True)
    y = model(x)
    y.square().sum().backward()
    assert (y.shape, x.grad.shape) == ((3, sizes[1]), x.shape)


def _double(variant, scaling=1.5, dtype=torch.float64):
    torch.manual_seed(1)
    x = torch.randn(2, 3, 6, dtype=dtype, requires_grad=True)
    base = torch.randn(5, 6, dtype=dtype)
    weight = torch.randn((5, 3) if variant == "fa" else (3, 6), dtype=dtype, requires_grad=True)
    index = torch.tensor([0, 2, 3])

    def layer(x, weight):
        return functional.adapted(variant, x, weight, index, scaling, lambda x: x @ base.t())

    def dense(x, weight):
        delta = torch.zeros_like(base).index_copy(1 if variant == "fa" else 0, index, weight)
        return x @ (base + scaling * delta).t()

    return layer, dense, x, weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("variant", VARIANTS)
def test_first_and_second_derivatives(variant, dtype):
    layer, dense, x, weight = _double(variant, dtype=dtype)
    torch.testing.assert_close(layer(x, weight), dense(x, weight))
    assert torch.autograd.gradcheck(layer, (x, weight))
    assert torch.autograd.gradgradcheck(layer, (x, weight))


@pytest.mark.parametrize("frozen", ["x", "weight"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_only_one_of_the_two_needs_a_gradient(variant, frozen):
    layer, dense, x, weight = _double(variant)
    {"x": x, "weight": weight}[frozen].requires_grad_(False)
    free = weight if frozen == "x" else x
    (got,) = torch.autograd.grad(layer(x, weight).square().sum(), free)
    (expected,) = torch.autograd.grad(dense(x, weight).square().sum(), free)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_an_input_used_twice_are_not_overwritten(toy, adapt, variant):
    """In-place sums in the backward must not reach gradients that others hold."""
    model = adapt(toy, variant=variant)
    layer = model.base_model.model.lin
    x = torch.randn(4, 20, requires_grad=True)
    middle = x * 2
    seen = []
    middle.register_hook(lambda grad: seen.append(grad.clone()))
    y, z = layer(middle), layer(middle)
    (y.sum() + 3 * z.sum() + middle.sum()).backward()
    weight = layer.get_base_weight() + layer.get_delta_weight("default").detach()
    expected = 4 * weight.sum(0).expand(4, 20) + 1
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(x.grad, 2 * expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hook_on_the_base_layer_sees_the_base_output(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    layer, seen = model.base_model.model.lin, []
    x = torch.randn(4, 20)
    expected = layer.base_layer(x)
    layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    assert not torch.equal(layer(x), expected)
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_drops_inputs_of_the_adapter_alone(toy, adapt, variant):
    """With many draws the mean is the output without dropout; in eval mode nothing is dropped."""
    model = adapt(toy, variant=variant, sbora_dropout=0.5, target_modules=["lin"])
    layer, x = model.base_model.model.lin, torch.randn(1, 20)
    model.eval()
    plain = layer(x)
    assert torch.equal(layer(x), plain)
    model.train()
    torch.manual_seed(0)
    draws = torch.cat([layer(x) for _ in range(4000)])
    assert draws.std(0).max() > 0.1
    torch.testing.assert_close(draws.mean(0, keepdim=True), plain, rtol=0, atol=0.15)
    if variant == "fb":  # the other outputs see no dropout at all
        rest = torch.ones(30, dtype=torch.bool)
        rest[layer.sbora_index["default"]] = False
        assert torch.equal(draws[:, rest], plain[:, rest].expand(4000, -1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_of_the_size_of_the_output_is_kept_for_the_backward(adapt, variant):
    """FA keeps the r gathered inputs, FB the input itself; the frozen layer keeps its weight."""
    base = torch.nn.Sequential(torch.nn.Linear(64, 512, bias=False))
    layer = adapt(base, variant=variant, target_modules=["0"]).base_model.model[0]
    x, kept = torch.randn(100, 64, requires_grad=True), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    for tensor in (layer.base_layer.weight, layer.sbora_weight["default"], layer.sbora_index["default"]):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) == {"fa": 100 * 4 * 4, "fb": 100 * 64 * 4}[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_no_gradient(llama, adapt, variant):
    ids = torch.randint(3, 64, (2, 10))
    grads = []
    for use_reentrant in (None, False, True):
        torch.manual_seed(3)
        model = adapt(llama, variant=variant, target_modules="all-linear", sbora_dropout=0.3)
        if use_reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model.train()
        torch.manual_seed(7)
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for other in grads[1:]:
        for got, expected in zip(other, grads[0], strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_to_one_graph(toy, adapt, variant, backend):
    model = adapt(toy, variant=variant, target_modules=["lin"]).train()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(3, 20)
    for other in (compiled, plain):
        other(x).square().sum().backward()
    torch.testing.assert_close(compiled(x), plain(x))
    for got, expected in zip(model.parameters(), plain.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(got.grad, expected.grad)


@pytest.mark.parametrize("train_merged", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_complex_layer_learns_what_lora_s_does(one_hot_lora, variant, train_merged):
    base = nn.ModuleDict({"lin": nn.Linear(20, 30, dtype=torch.complex64)})
    model = adapted(base, variant, target_modules=["lin"])
    lora = one_hot_lora(base, model)
    if train_merged:
        model.base_model.train_merged()
    x, grads = torch.randn(3, 20, dtype=torch.complex64), []
    for other in (model, lora):
        z = x.clone().requires_grad_()
        other.base_model.model.lin(z).abs().square().sum().backward()
        grads.append([z.grad, *(p.grad for p in other.parameters() if p.grad is not None)])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_an_adapter_made_in_inference_mode_runs_outside_of_it(toy, kind):
    with torch.inference_mode():
        model = adapted(toy, kind)
        expected = model(torch.ones(3, 20)).clone()
    torch.testing.assert_close(model(torch.ones(3, 20)), expected)


@pytest.mark.parametrize("train_merged", [False, True])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_scaling_may_be_a_tensor_that_learns(toy, adapt, one_hot_lora, variant, shape, train_merged):
    model = adapt(toy, variant=variant)
    lora, results = one_hot_lora(toy, model), []
    model.base_model.train_merged(train_merged)
    for other in (model, lora):
        scaling = torch.full(shape, 0.7, requires_grad=True)
        for layer in (other.base_model.model.lin, other.base_model.model.conv):
            layer.scaling["default"] = scaling
        y = other(torch.ones(3, 20))
        y.square().sum().backward()
        matrices = [p.grad for p in other.parameters() if p.grad is not None]
        other.merge_adapter()
        results.append([y, scaling.grad, other(torch.ones(3, 20)), *matrices])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
