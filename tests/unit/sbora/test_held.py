"""What others hold is never written to: gradients, outputs of the base layer, activations, caches. As with LoRA."""

import sys

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.autograd import gradcheck
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from sbora import SboraConfig, ownership
from sbora import functional as sbora_functional
from tests.factories.adapted import adapted as _adapted

KINDS = ("lora", "fa", "fb")
X = torch.linspace(-1, 1, 60).view(3, 20)


class Held:
    """Tensors that somebody keeps, beside copies of what they were."""

    def __init__(self):
        self.pairs = []

    def keep(self, tensor):
        self.pairs.append((tensor, tensor.detach().clone()))

    def check(self):
        assert self.pairs
        for tensor, copied in self.pairs:
            assert torch.equal(tensor, copied)


def _backward_hook(base, held):
    base.register_full_backward_hook(lambda module, grads_in, grads_out: held.keep(grads_in[0]))


def _backward_pre_hook(base, held):
    base.register_full_backward_pre_hook(lambda module, grads_out: held.keep(grads_out[0]))


def _tensor_hook(base, held):
    base.register_forward_pre_hook(lambda module, args: args[0].register_hook(held.keep) and None)


def _detached(base, held):
    base.register_forward_pre_hook(lambda module, args: args[0].register_hook(lambda g: held.keep(g.detach())) and None)


def _numpy(base, held):
    hook = lambda grad: held.keep(torch.from_numpy(grad.numpy()))  # noqa: E731
    base.register_forward_pre_hook(lambda module, args: args[0].register_hook(hook) and None)


def _node_hook(base, held):
    hook = lambda grads_in, grads_out: [held.keep(g) for g in grads_in if g is not None] and None  # noqa: E731
    base.register_forward_hook(lambda module, args, output: output.grad_fn.register_hook(hook) and None)


def _output(base, held):
    base.register_forward_hook(lambda module, args, output: held.keep(output))


def _detached_output(base, held):
    base.register_forward_hook(lambda module, args, output: held.keep(output.detach()))


def _patched_forward(base, held):
    forward = base.forward

    def keeping(x):
        y = forward(x)
        held.keep(y)
        return y

    base.forward = keeping


def _retained(base, held):
    base.register_forward_pre_hook(lambda module, args: args[0].retain_grad())
    base.register_forward_hook(lambda module, args, output: held.keep(args[0]))


WAYS = [
    _backward_hook,
    _backward_pre_hook,
    _tensor_hook,
    _detached,
    _numpy,
    _node_hook,
    _output,
    _detached_output,
    _patched_forward,
    _retained,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_hook_was_handed_stays_as_it_was(toy, kind, way):
    held, model = Held(), _adapted(toy, kind)
    for name in ("lin", "conv"):
        way(model.base_model.model.get_submodule(name).base_layer, held)
    x = X.clone().requires_grad_()
    model(x).square().sum().backward()
    held.check()
    other, y = _adapted(toy, kind), X.clone().requires_grad_()
    other(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    for got, expected in zip(model.parameters(), other.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad)


def test_retained_gradients_of_the_base_layers_input_are_those_of_the_base_layer(toy):
    """A retained gradient is kept by autograd itself, and not seen by a hook."""
    grads = {}
    for kind in ("fa", "fb"):
        for way in ("retained", "hook"):
            model, got = _adapted(toy, kind), []
            base = model.base_model.model.lin.base_layer
            if way == "retained":
                base.register_forward_pre_hook(lambda module, args: args[0].retain_grad())
            else:
                base.register_forward_pre_hook(
                    lambda module, args, got=got: args[0].register_hook(lambda g: got.append(g.clone())) and None
                )
            base.register_forward_hook(lambda module, args, output, got=got: got.append(args[0]))
            model(X.clone().requires_grad_()).square().sum().backward()
            grads[kind, way] = got[0].grad if way == "retained" else got[1]
        torch.testing.assert_close(grads[kind, "retained"], grads[kind, "hook"])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_several_inputs_at_once(toy, kind):
    model, inner = _adapted(toy, kind), []
    for name in ("lin", "conv"):
        model.base_model.model.get_submodule(name).base_layer.register_forward_pre_hook(
            lambda module, args: inner.append(args[0]) and None
        )
    x = X.clone().requires_grad_()
    loss = model(x).square().sum()
    together = torch.autograd.grad(loss, [*inner, x], retain_graph=True)
    for i, tensor in enumerate([*inner, x]):
        (alone,) = torch.autograd.grad(loss, [tensor], retain_graph=True)
        torch.testing.assert_close(together[i], alone)


class Activated(nn.Linear):
    """A linear layer with its activation inside, which autograd keeps."""

    def __init__(self, activation):
        super().__init__(20, 30)
        self.activation = activation

    def forward(self, x):
        return self.activation(super().forward(x))


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu, torch.sigmoid, torch.exp], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_inside_of_the_base_layer(kind, activation):
    torch.manual_seed(0)
    base = nn.Sequential(Activated(activation))
    model = _adapted(base, kind, target_modules=["0"])
    x = X.double().requires_grad_()
    assert gradcheck(model.double(), (x,))
    if kind != "lora":
        layer = model.base_model.model[0]
        expected = base.double()(x) + x @ layer.get_delta_weight("default").t()
        torch.testing.assert_close(model(x), expected)


PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.linear.default}


@pytest.mark.parametrize("saved", [PRODUCTS, None], ids=["products", "everything"])
@pytest.mark.parametrize("kind", KINDS)
def test_selective_checkpointing(toy, kind, saved):
    def policy(context, operator, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if saved is None or operator in saved else CheckpointPolicy.PREFER_RECOMPUTE

    grads = []
    for contexts in (None, lambda: create_selective_checkpoint_contexts(policy)):
        model, x = _adapted(toy, kind), X.clone().requires_grad_()
        y = model(x) if contexts is None else checkpoint(model, x, use_reentrant=False, context_fn=contexts)
        y.square().sum().backward()
        grads.append([x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_layer_that_gives_back_a_buffer_of_its_own(toy, kind):
    """A workspace that is filled anew in every pass."""
    model = _adapted(toy, kind, target_modules=["lin"])
    base = model.base_model.model.lin.base_layer
    base.workspace = torch.empty(3, 30)

    def into_workspace(x):
        return torch.addmm(base.bias, x, base.weight.t(), out=base.workspace)

    base.forward = into_workspace
    with torch.no_grad():
        base.bias.requires_grad_(False), base.weight.requires_grad_(False)
        model(X)
        assert torch.equal(base.workspace, toy.lin(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_layer_that_gives_back_its_input(kind):
    class Same(nn.Linear):
        def forward(self, x):
            return x

    model = _adapted(nn.Sequential(Same(20, 20)), kind, target_modules=["0"])
    x = X.clone().requires_grad_()
    given = torch.ones(3, 20)
    model(x).backward(given)
    assert torch.equal(x, X) and torch.equal(given, torch.ones(3, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_layer_that_gives_back_a_leaf(toy, kind):
    """A sum in its memory is what autograd forbids."""
    layer = _adapted(toy, kind).base_model.model.lin
    layer.base_layer.forward = lambda x: torch.ones(3, 30, requires_grad=True)
    x = X.clone().requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_on_the_trained_matrix_of_two_adapters(toy, kind):
    """The output of the adapter below is held, too."""
    held, model = Held(), _adapted(toy, kind)
    other = {"r": 3, "target_modules": ["lin", "conv"]}
    config = (
        LoraConfig(init_lora_weights=False, **other)
        if kind == "lora"
        else SboraConfig(variant=kind, init_weights=False, **other)
    )
    model.add_adapter("other", config)
    model.base_model.set_adapter(["default", "other"])
    for name, module in model.named_modules():
        if name.endswith((".default", ".other")):
            module.register_forward_hook(lambda module, args, output: held.keep(output))
            module.register_full_backward_hook(lambda module, grads_in, grads_out: held.keep(grads_out[0]))
    model(X.clone().requires_grad_()).square().sum().backward()
    held.check()


def test_memory_that_nobody_else_holds_is_written_to(toy, monkeypatch):
    """Without this the tests above would pass for a layer that always copies."""
    assert ownership.of_a_result() and all(ownership.of_gradients())
    written = []
    add_at = sbora_functional._add_at
    monkeypatch.setattr(sbora_functional, "_add_at", lambda x, *rest: written.append(x.shape) or add_at(x, *rest))
    for kind, shapes in (("fa", [(3, 30), (3, 20)]), ("fb", [(3, 30)])):
        written.clear()
        model = _adapted(toy, kind)
        model(X.clone().requires_grad_()).square().sum().backward()
        assert written == shapes  # FA: both gradients of inputs; FB: an output that is no view, as Conv1D's is
    model = _adapted(toy, "fa")
    outputs = []
    model.base_model.model.lin.base_layer.register_forward_hook(
        lambda module, args, output: outputs.append(output.data_ptr())
    )
    layer = model.base_model.model.lin
    assert layer(X).data_ptr() == outputs[0]


@pytest.mark.parametrize("watch", [sys.settrace, sys.setprofile])
def test_a_debugger_that_looks_at_local_variables_is_not_counted(watch):
    """It would stand in every later count for somebody who holds the tensor."""

    def look(frame, event, arg):
        dict(frame.f_locals)
        return look

    before = sys.gettrace() if watch is sys.settrace else sys.getprofile()
    watch(look)
    try:
        measured = ownership.of_a_result.__wrapped__(), ownership.of_gradients.__wrapped__()
    finally:
        watch(before)
    assert measured == (ownership.of_a_result(), ownership.of_gradients())


@pytest.mark.parametrize("kind", KINDS)
def test_a_storage_that_is_kept(toy, kind):
    """Not the tensor, but the memory below it."""
    model, kept = _adapted(toy, kind, target_modules=["lin"]), []
    base = model.base_model.model.lin.base_layer

    def forward(x):
        y = nn.functional.linear(x, base.weight, base.bias)
        kept.append(y.untyped_storage())
        return y

    base.forward = forward
    model(X)
    assert torch.equal(torch.empty(0).set_(kept[0]).view(3, 30), toy.lin(X))


class _IntoNumpy(torch.autograd.Function):
    """x weight^T, and the gradient of x, in memory of numpy's."""

    @staticmethod
    def forward(ctx, x, weight, output, gradient):
        ctx.save_for_backward(weight)
        ctx.gradient = gradient
        output[:] = (x @ weight.t()).numpy()
        return torch.from_numpy(output)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        ctx.gradient[:] = (grad @ weight).numpy()
        return torch.from_numpy(ctx.gradient), None, None, None


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_torch_only_borrows(toy, kind):
    """Of numpy, DLPack, another process: nobody counts who holds it."""
    model = _adapted(toy, kind, target_modules=["lin"])
    base = model.base_model.model.lin.base_layer
    output, gradient = torch.empty(3, 30).numpy().copy(), torch.empty(3, 20).numpy().copy()
    base.forward = lambda x: _IntoNumpy.apply(x, base.weight, output, gradient)
    y = model.base_model.model.lin(X.clone().requires_grad_() * 1)
    assert torch.equal(torch.from_numpy(output), X @ base.weight.t())
    y.backward(torch.ones(3, 30))
    assert torch.equal(torch.from_numpy(gradient), torch.ones(3, 30) @ base.weight)
