"""Whoever transforms or traces the pass gets what eager PyTorch computes, as with LoRA."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from sbora import ownership
from tests.factories.adapted import adapted as _adapted

VARIANTS = ("fa", "fb")
KINDS = ("lora", *VARIANTS)
X = torch.linspace(-1, 1, 60).view(3, 20)


def _loss(model, trained, x):
    return functional_call(model, trained, (x,)).square().sum()


@pytest.fixture(params=KINDS)
def adapted(request, toy):
    """A model, its trained matrices and their gradients."""
    model = _adapted(toy, request.param)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad(model(X).square().sum(), list(trained.values()))
    return model, {n: p.detach() for n, p in trained.items()}, dict(zip(trained, wanted, strict=True))


def test_gradients_of_functions(adapted):
    model, trained, wanted = adapted
    for name, got in grad(_loss, 1)(model, trained, X).items():
        torch.testing.assert_close(got, wanted[name])
    _, pull = vjp(lambda trained: _loss(model, trained, X), trained)
    for name, got in pull(torch.tensor(1.0))[0].items():
        torch.testing.assert_close(got, wanted[name])


def test_gradients_of_single_samples(adapted):
    model, trained, wanted = adapted
    singles = vmap(grad(lambda trained, x: _loss(model, trained, x[None])), (None, 0))(trained, X)
    for name, got in singles.items():
        torch.testing.assert_close(got.sum(0), wanted[name])


def test_directional_derivatives_forward(adapted):
    model, trained, wanted = adapted
    tangents = {name: torch.randn_like(p) for name, p in trained.items()}
    expected = sum((tangents[name] * wanted[name]).sum() for name in trained)
    _, got = jvp(lambda trained: _loss(model, trained, X), (trained,), (tangents,))
    torch.testing.assert_close(got, expected)
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(p, tangents[name]) for name, p in trained.items()}
        got = forward_ad.unpack_dual(_loss(model, duals, X)).tangent
    torch.testing.assert_close(got, expected)


def test_jacobians_and_hessians(adapted):
    model, _, _ = adapted
    x = X[0]
    by_columns, by_rows = jacfwd(model)(x), jacrev(model)(x)
    torch.testing.assert_close(by_columns, by_rows)
    inputs = X[0].clone().requires_grad_()
    torch.testing.assert_close(by_rows, torch.autograd.functional.jacobian(model, inputs))
    torch.testing.assert_close(by_rows, torch.autograd.functional.jacobian(model, inputs, vectorize=True))
    second = hessian(lambda x: model(x).square().sum())(x)
    expected = torch.autograd.functional.hessian(lambda x: model(x).square().sum(), inputs)
    torch.testing.assert_close(second, expected, rtol=1e-3, atol=1e-3)


def test_nothing_of_a_transform_stays_in_the_model(adapted):
    model, _, _ = adapted
    parameters, buffers = stack_module_state([model, copy.deepcopy(model)])
    together = vmap(lambda p, b: functional_call(model, (p, b), (X,)))(parameters, buffers)
    torch.testing.assert_close(together, model(X).expand_as(together))
    assert torch.equal(copy.deepcopy(model)(X), model(X))


def test_the_first_backward_of_a_process_may_be_vectorised(adapted):
    model, _, _ = adapted
    ownership.of_gradients.cache_clear(), ownership.of_a_result.cache_clear()
    inputs = X[0].clone().requires_grad_()
    at_once = torch.autograd.functional.jacobian(model, inputs, vectorize=True)
    torch.testing.assert_close(at_once, torch.autograd.functional.jacobian(model, inputs))
    assert ownership.of_a_result() and all(ownership.of_gradients())


def test_traced_by_torch_jit(adapted):
    model, _, _ = adapted
    traced = torch.jit.trace(model, (X,))
    other = torch.randn(5, 20, requires_grad=True)
    torch.testing.assert_close(traced(other), model(other))
    frozen = torch.jit.freeze(traced.eval())
    torch.testing.assert_close(frozen(other), model(other))


def test_exported_by_torch_export(adapted):
    model, _, _ = adapted
    program = torch.export.export(model, (X,))
    torch.testing.assert_close(program.module()(2 * X), model(2 * X))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("below", ["nothing", "another layer", "a held output", "merged"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_over_many_tokens_do_not_overflow_in_fp16(kind, below, dropout):
    """The matrix is kept in fp32, as PEFT keeps LoRA's, and so is its gradient."""
    if below == "merged" and (kind == "lora" or dropout):
        pytest.skip("LoRA has no such mode, and it has no dropout")
    torch.manual_seed(0)
    name = "lora_dropout" if kind == "lora" else "sbora_dropout"
    model = _adapted(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).half(), kind, target_modules=["1"])
    model.train()
    settings = {"target_modules": ["0", "1"] if below == "another layer" else ["0"], name: dropout}
    model = _adapted(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).half(), kind, **settings)
    if below == "merged":
        model.base_model.train_merged()
    if below == "a held output":
        kept = []
        for module in model.modules():
            if type(module) is nn.Linear:
                module.register_forward_hook(lambda module, args, output: kept.append(output))
    x = torch.full((4096, 16), 6.0, dtype=torch.half)
    (model(x).float() * 4).sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert grads and all(g.dtype == torch.float32 and torch.isfinite(g).all() and g.abs().max() > 0 for g in grads)
    assert any(g.abs().max() > 65504 for g in grads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_fp16_are_those_of_fp32(variant):
    torch.manual_seed(0)
    model = _adapted(nn.Sequential(nn.Linear(16, 16)).half(), variant, target_modules=["0"])
    exact = copy.deepcopy(model).float()
    x = torch.randn(1500, 16).half()  # more than is summed at once, and not a multiple of it
    for tuned in (model, exact):
        (tuned(x.to(tuned.base_model.model[0].base_layer.weight.dtype)).float()).sum().backward()
    got, wanted = (m.base_model.model[0].sbora_weight["default"].grad for m in (model, exact))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hidden_value_beyond_fp16_whose_contribution_is_not(kind):
    torch.manual_seed(0)
    name = "lora_alpha" if kind == "lora" else "sbora_alpha"
    model = _adapted(nn.Sequential(nn.Linear(16, 16)).half(), kind, target_modules=["0"], **{name: 1 / 64})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(4.0 if kind == "lora" else 60.0)
    assert torch.isfinite(model(torch.full((2, 16), 600.0, dtype=torch.half))).all()
