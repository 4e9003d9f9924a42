"""Training on the merged weight: the same training, and the base comes back bit for bit."""

import copy
import pickle
import tempfile

import pytest
import torch
from accelerate import cpu_offload
from peft import get_peft_model
from torch import nn

from sbora import SboraConfig, SboraLayer

VARIANTS = ("fa", "fb")


def _steps(model, x, count=20):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(count):
        for part in x:  # gradients add up over several passes
            (model(part) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def _base_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_training_is_the_same(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    other = copy.deepcopy(model)
    other.base_model.train_merged()
    x = torch.randn(2, 3, 5, 20)
    untrained = model(x).detach()
    for tuned in (model, other):
        _steps(tuned, x)
    assert (model(x) - untrained).abs().max() > 0.1
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-4)
    grad = {}
    for tuned in (model, other):
        inputs = x.clone().requires_grad_(True)
        tuned(inputs).square().sum().backward()
        grad[tuned] = inputs.grad
    torch.testing.assert_close(grad[other], grad[model], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_comes_back_bit_for_bit(toy, adapt, variant, dtype):
    model = adapt(toy.to(dtype), variant=variant)
    before = _base_weights(model)
    model.base_model.train_merged()
    _steps(model, torch.randn(2, 3, 20, dtype=dtype), 3)
    assert any(not torch.equal(before[name], weight) for name, weight in _base_weights(model).items())
    model.base_model.train_merged(False)
    after = _base_weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_takes_the_last_step_along_and_unloading_leaves_nothing(toy, adapt, variant):
    x = torch.randn(2, 3, 20)
    model = adapt(toy, variant=variant)
    model.base_model.train_merged()
    _steps(model, x, 3)
    other = copy.deepcopy(model)
    expected = model(x).detach()
    merged = other.merge_and_unload()
    torch.testing.assert_close(merged(x), expected)
    assert all(p.is_contiguous() for p in merged.parameters())
    with model.disable_adapter():
        torch.testing.assert_close(model(x), toy(x))
    torch.testing.assert_close(model(x), expected)  # and it goes on
    assert torch.equal(model.unload()(x), toy(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_switching_adapters_writes_the_right_one(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    model.add_adapter("other", SboraConfig(variant=variant, r=3, target_modules=["lin"], init_weights=False))
    x = torch.randn(3, 20)
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        expected[name] = model(x).detach()
    model.base_model.train_merged()
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        torch.testing.assert_close(model(x), expected[name])


@pytest.mark.parametrize(
    ("settings", "message"), [({"sbora_dropout": 0.1}, "sbora_dropout = 0"), ({}, "one active adapter")]
)
def test_what_it_cannot_do_is_refused(toy, adapt, settings, message):
    model = adapt(toy, **settings)
    model.add_adapter("other", SboraConfig(r=2, target_modules=["lin"]))
    if not settings:
        model.base_model.set_adapter(["default", "other"])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.base_model.train_merged()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_second_derivative_is_refused(toy):
    model = get_peft_model(toy, SboraConfig(r=4, target_modules=["lin"]))
    model.base_model.train_merged()
    x = torch.randn(3, 20, requires_grad=True)
    weight = model.base_model.model.lin.sbora_weight["default"]
    (grad,) = torch.autograd.grad(model(x).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def _no_gradient(model, x):
    with torch.no_grad():
        model(x)


def _disabled(model, x):
    with torch.no_grad(), model.disable_adapter():
        model(x)


def _other(model, x):
    model.set_adapter("other")
    _no_gradient(model, x)
    model.set_adapter("default")


def _other_learns(model, x):
    model.set_adapter("other")
    model(x).sum().backward()
    model.set_adapter("default")


def _state(model, x):
    model.state_dict()


def _swapped(model, x):
    """Other weights for an evaluation, as a moving average is evaluated."""
    trained = [p for n, p in model.named_parameters() if n.endswith("default.weight")]
    kept = [p.data.clone() for p in trained]
    for p in trained:
        p.data.mul_(3)
    _no_gradient(model, x)
    for p, data in zip(trained, kept, strict=True):
        p.data.copy_(data)


def _scaled(model, x):
    layers = [m for m in model.modules() if isinstance(m, SboraLayer)]
    for layer in layers:
        layer.scale_layer(2)
    _no_gradient(model, x)
    for layer in layers:
        layer.unscale_layer(2)


def _saved(model, x):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)


def _copied(model, x):
    copy.deepcopy(model)(2 * x)


def _functional(model, x):
    trained = {n: 2 * p.detach() for n, p in model.named_parameters() if n.endswith("default.weight")}
    torch.func.functional_call(model, trained, (x,))


BETWEEN = [
    _no_gradient, _disabled, _other, _other_learns, _state, _swapped, _scaled, _saved, _copied, _functional
]  # fmt: skip


def _gradients(toy, adapt, variant, between, merged):
    torch.manual_seed(1)
    model = adapt(toy, variant=variant)
    model.add_adapter("other", SboraConfig(variant=variant, r=3, target_modules=["lin", "conv"], init_weights=False))
    if merged:
        model.base_model.train_merged()
    x = torch.linspace(-1, 1, 60).view(3, 20).requires_grad_()
    loss = model(x).square().sum()
    between(model, x.detach())
    loss.backward()
    return [x.grad, *(p.grad for n, p in model.named_parameters() if n.endswith("default.weight"))]


@pytest.mark.filterwarnings("ignore:Adapter cannot be set when the model is merged")
@pytest.mark.parametrize("between", BETWEEN, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_happens_between_a_pass_and_its_backward(toy, adapt, variant, between):
    """DPO's and KTO's references, other adapters, evaluations and checkpoints put the base's own bits back."""
    wanted, got = (_gradients(toy, adapt, variant, between, merged) for merged in (False, True))
    assert len(got) == 3
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def _left(model, x):
    model.base_model.train_merged(False)


def _merged_for_good(model, x):
    model.merge_adapter()
    model.unmerge_adapter()


def _unloaded(model, x):
    model.unload()


def _stepped(model, x):
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n.endswith("default.weight"):
                p.add_(1)


def _loaded(model, x):
    model.load_state_dict({n: t + 1 if t.is_floating_point() else t for n, t in model.state_dict().items()})


def _assigned(model, x):
    model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)


STALE = [_left, _merged_for_good, _unloaded, _stepped, _loaded, _assigned]


@pytest.mark.parametrize("between", STALE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_makes_a_backward_stale_is_refused(toy, adapt, variant, between):
    with pytest.raises(RuntimeError, match="unmerged for good|modified by an inplace operation"):
        _gradients(toy, adapt, variant, between, True)


def _loaded_alone(base):
    base.load_state_dict({name: t + 1 for name, t in base.state_dict().items()})


def _written_to(base):
    with torch.no_grad():
        base.weight.mul_(2)


def _replaced(base):
    base.weight = nn.Parameter(base.weight.detach() + 1, requires_grad=False)


@pytest.mark.parametrize("change", [_loaded_alone, _written_to, _replaced], ids=lambda f: f.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_base_weight_that_is_changed_between_passes_is_refused(toy, adapt, variant, change):
    """What it would be without the adapter is not known any more."""
    model = adapt(toy, variant=variant)
    model.base_model.train_merged()
    model(torch.ones(3, 20))
    change(model.base_model.model.lin.base_layer)
    for go_on in (lambda: model(torch.ones(3, 20)), lambda: model.base_model.train_merged(False), model.state_dict):
        with pytest.raises(RuntimeError, match="written to or replaced while adapter 'default' was merged into it"):
            go_on()


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda model: model.double().float(), lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copied", "cast", "pickled"],
)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_and_casts_between_passes_go_on(toy, adapt, variant, change, overwrite):
    model, x = adapt(toy, variant=variant), torch.linspace(-1, 1, 60).view(3, 20)
    expected, base = model(x), _base_weights(model)
    model.base_model.train_merged()
    model(x)
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    try:
        model = change(model)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    torch.testing.assert_close(model(x), expected)
    model.base_model.train_merged(False)
    assert all(torch.equal(weight, base[name]) for name, weight in _base_weights(model).items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_index_set_that_is_loaded_meanwhile(tmp_path, toy, adapt, variant):
    x = torch.randn(3, 20)
    torch.manual_seed(2)
    source = adapt(toy, variant=variant, random_seed=5)
    source.save_pretrained(tmp_path)
    model = adapt(toy, variant=variant)
    base = _base_weights(model)
    model.base_model.train_merged()
    model(x)
    model.load_adapter(str(tmp_path), "default")
    torch.testing.assert_close(model(x), source(x))
    model.base_model.train_merged(False)
    assert all(torch.equal(weight, base[name]) for name, weight in _base_weights(model).items())
    torch.testing.assert_close(model(x), source(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_state_taken_and_loaded_meanwhile(toy, adapt, variant):
    x = torch.randn(3, 20)
    model = adapt(toy, variant=variant)
    expected = model(x)
    model.base_model.train_merged()
    model(x)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = adapt(toy, variant=variant, random_seed=5)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(x), expected)
    fresh = adapt(toy, variant=variant, random_seed=5)
    fresh.base_model.train_merged()
    fresh(x)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(x), expected)
    fresh.base_model.train_merged(False)
    model.base_model.train_merged(False)
    base = _base_weights(model)
    assert all(torch.equal(weight, base[name]) for name, weight in _base_weights(fresh).items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_transforms_and_tracers_are_refused(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    x = torch.randn(3, 20)
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    model.base_model.train_merged()
    loss = lambda trained: torch.func.functional_call(model, trained, (x,)).square().sum()  # noqa: E731
    for run in (lambda: torch.func.grad(loss)(trained), lambda: torch.jit.trace(model, (x,))):
        with pytest.raises(RuntimeError, match="switch it off first"):
            run()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_output_may_be_written_to_and_the_owner_is_called(toy, adapt, variant):
    model = adapt(toy, variant=variant, target_modules=["lin"])
    model.base_model.train_merged()
    called = []
    layer = model.base_model.model.lin
    layer.sbora_weight.region("default").register_forward_hook(lambda *_: called.append(1))
    y = layer(torch.randn(3, 20))
    y += 1
    torch.relu_(y).sum().backward()
    assert called and layer.sbora_weight["default"].grad.abs().max() > 0


def test_offloaded_weights_are_refused(llama):
    model = get_peft_model(llama, SboraConfig(r=4, target_modules=["q_proj"]))
    cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="not sharded or offloaded"):
        model.base_model.train_merged()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_base_weight_that_learns_is_refused(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    model.base_model.train_merged()
    x = torch.randn(3, 20)
    model(x)
    model.base_model.model.lin.base_layer.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="needs a frozen base weight"):
        model(x)
