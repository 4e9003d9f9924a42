"""Base layers, hooks and models that change tensors in place get what LoRA gives, whose matrix is one-hot here."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

X = torch.linspace(-1, 1, 60).view(3, 20)
VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])


class Net(nn.Module):
    """20 -> 20 by a layer whose input learns, and is used after it, too."""

    def __init__(self, learns=True):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.lin, self.learns = nn.Linear(20, 40), nn.Linear(20, 20), learns

    def forward(self, x):
        hidden = self.first(x)[:, :20] * 1.5
        hidden = hidden if self.learns else hidden.detach()
        return torch.relu_(self.lin(hidden)) + 3 * hidden


def _before(change):
    """Change the input in the base layer's forward."""

    def patch(base):
        forward = base.forward
        base.forward = lambda x: (change(x), forward(x))[1]

    return patch


def _behind(change):
    """Change the input after the product."""

    def patch(base):
        forward = base.forward

        def changing(x):
            y = forward(x)
            change(x)
            return y

        base.forward = changing

    return patch


def _inside(activation):
    def patch(base):
        forward = base.forward
        base.forward = lambda x: activation(forward(x))

    return patch


def _without_gradient(x):
    with torch.no_grad():
        x.mul_(2)


def _pre_hook(base):
    def normalise(module, args):
        with torch.no_grad():
            args[0].div_(args[0].norm())

    base.register_forward_pre_hook(normalise)


def _backward_hook(base):
    base.register_full_backward_hook(lambda module, grads_in, grads_out: None)


CHANGES = {
    "watched": _before(lambda x: x.mul_(2)),
    "a part": _before(lambda x: x[0].zero_()),
    "unwatched": _before(_without_gradient),
    "detached": _before(lambda x: x.detach().mul_(2)),
    "after the product": _behind(lambda x: x.mul_(2)),
    "after the product, unwatched": _behind(_without_gradient),
    "pre-hook": _pre_hook,
    "pre-hook, watched": lambda base: base.register_forward_pre_hook(lambda module, args: (args[0].add_(1), None)[1]),
    "returned": lambda base: setattr(base, "forward", lambda x: x.mul_(2)),
    "activation": _inside(torch.relu_),
    "activation, saved": _inside(lambda y: y.tanh_()),
    "hook of the output": lambda base: base.register_forward_hook(
        lambda module, args, output: (output.mul_(2), None)[1]
    ),
    "backward hook": _backward_hook,
}


def _results(model, how):
    x = X.clone().requires_grad_()
    if how == "inference":
        with torch.inference_mode():
            return [model(x)]
    y = checkpoint(model, x, use_reentrant=how == "reentrant") if how in ("checkpoint", "reentrant") else model(x)
    y.square().sum().backward()
    return [y, x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("how", ["plain", "an input that learns nothing", "checkpoint", "reentrant", "inference"])
@pytest.mark.parametrize("change", CHANGES)
@VARIANTS
def test_values_and_gradients_are_those_of_lora(adapt, one_hot_lora, variant, change, how):
    base = Net(learns=how != "an input that learns nothing")
    model = adapt(base, variant=variant, target_modules=["lin"])
    lora = one_hot_lora(base, model)
    got, wanted = [], []
    for tuned, results in ((model, got), (lora, wanted)):
        CHANGES[change](tuned.base_model.model.lin.base_layer)
        results.extend(_results(tuned, how))
    for one, other in zip(got, wanted, strict=True):
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@VARIANTS
def test_two_adapters_see_the_same_change(adapt, variant):
    """The sum of the two is one merged weight's, which sees what became of the input."""
    model = adapt(Net(), variant=variant, target_modules=["lin"])
    model.add_adapter("other", model.peft_config["default"])
    layer = model.base_model.model.lin
    model.base_model.set_adapter(["default", "other"])
    CHANGES["watched"](layer.base_layer)
    x = X.clone().requires_grad_()
    y = model(x)
    weight = layer.base_layer.weight + sum(layer.get_delta_weight(name) for name in ("default", "other"))
    inputs = X.clone().requires_grad_()
    hidden = model.base_model.model.first(inputs)[:, :20] * 3
    expected = torch.relu(F.linear(hidden, weight, layer.base_layer.bias)) + 3 * hidden
    torch.testing.assert_close(y, expected)
    for output in (y, expected):
        output.square().sum().backward()
    torch.testing.assert_close(x.grad, inputs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "fa", "fb"])
def test_what_autograd_forbids_stays_forbidden(adapt, one_hot_lora, kind):
    """A leaf that is changed, and an input that is kept and changed after the pass; FA keeps none."""
    base = nn.Sequential()
    base.add_module("lin", nn.Linear(20, 20))
    tuned = adapt(base, variant="fa" if kind == "lora" else kind, target_modules=["lin"])
    if kind == "lora":
        tuned = one_hot_lora(base, tuned)
        tuned.base_model.model.lin.lora_A["default"].weight.requires_grad_(True)
    hidden = X.clone().requires_grad_() * 1
    y = tuned(hidden)
    hidden.mul_(2)
    if kind == "fa":
        y.sum().backward()
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    CHANGES["watched"](tuned.base_model.model.lin.base_layer)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        tuned(X.clone().requires_grad_())
