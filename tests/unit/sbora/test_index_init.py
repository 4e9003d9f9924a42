"""Index sets chosen by weights, activations or gradients: the highest scores, worked out here by hand."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import distributed, nn

from sbora import SboraConfig, SboraLayer, preprocess_index
from sbora.region import in_order

VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])
X = torch.linspace(-2, 3, 120).view(6, 20)


def _config(variant, **settings):
    return SboraConfig(
        **{"variant": variant, "r": 4, "target_modules": ["lin", "conv"], "init_weights": False} | settings
    )


def _top(scores, r=4):
    return scores.topk(r).indices.sort().values


def _chosen(model, name="default"):
    inner = model.base_model.model
    return inner.lin.sbora_index[name], inner.conv.sbora_index[name]


def _backward(model, batches=(X[:2], X[2:])):
    def run():
        for x in batches:
            model(x).square().sum().backward()

    return run


@VARIANTS
def test_by_weight_the_largest_norms(toy, variant):
    model = get_peft_model(toy, _config(variant, index_init="weight"))
    lin, conv = toy.lin.weight, toy.conv.weight.t()  # conv's is stored in x out
    lin, conv = (w.base_layer.weight if isinstance(w, nn.Module) else w for w in (lin, conv))
    dim = 0 if variant == "fa" else 1
    assert torch.equal(_chosen(model)[0], _top(lin.norm(dim=dim)))
    assert torch.equal(_chosen(model)[1], _top(conv.norm(dim=dim)))


@VARIANTS
def test_by_activation_the_largest_mean_squares(toy, variant):
    config = _config(variant, index_init="activation")
    preprocess_index(toy, config, lambda: (toy(X[:2]), toy(X[2:])))
    hidden = toy.lin(X)
    expected = (X, torch.tanh(hidden)) if variant == "fa" else (hidden, toy(X))
    model = get_peft_model(toy, config)
    for index, values in zip(_chosen(model), expected, strict=True):
        assert torch.equal(index, _top(values.square().mean(0)))
    assert not toy.lin.base_layer._forward_hooks


@VARIANTS
def test_by_gradient_the_largest_norms(toy, variant):
    squares = [0, 0]
    for x in (X[:2], X[2:]):
        toy.zero_grad()
        toy(x).square().sum().backward()
        grads = toy.lin.weight.grad, toy.conv.weight.grad.t()
        squares = [s + g.square().sum(0 if variant == "fa" else 1) for s, g in zip(squares, grads, strict=True)]
    toy.zero_grad()
    toy.lin.bias.requires_grad_(False)
    config = _config(variant, index_init="gradient")
    preprocess_index(toy, config, _backward(toy))
    assert [p.requires_grad for p in toy.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in toy.parameters())
    model = get_peft_model(toy, config)
    for index, total in zip(_chosen(model), squares, strict=True):
        assert torch.equal(index, _top(total))


@VARIANTS
@pytest.mark.parametrize("kind", ["activation", "gradient", "weight"])
def test_what_was_chosen_is_saved_and_loads_without_data(tmp_path, toy, adapt, variant, kind):
    config = _config(variant, index_init=kind)
    base = copy.deepcopy(toy)
    if kind != "weight":
        preprocess_index(base, config, _backward(base))
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path)
    fresh = copy.deepcopy(toy)
    with torch.no_grad():
        fresh.lin.weight[:, 0] *= 100  # would be chosen now
    loaded = PeftModel.from_pretrained(fresh, tmp_path, is_trainable=True)
    assert all(torch.equal(a, b) for a, b in zip(_chosen(loaded), _chosen(model), strict=True))
    loaded(X).sum().backward()
    loaded.merge_adapter()
    loaded.unmerge_adapter()


@VARIANTS
@pytest.mark.parametrize("use", ["forward", "merge"])
def test_an_adapter_that_waits_for_data_is_not_used(toy, variant, use):
    model = get_peft_model(toy, _config(variant, index_init="gradient"))
    with pytest.raises(ValueError, match=r"chosen by 'gradient' and has not been: call sbora.preprocess_index"):
        model(X) if use == "forward" else model.merge_adapter()


@VARIANTS
def test_a_region_is_chosen_within(toy, variant):
    """Adapters of disjoint parts stay disjoint, and each takes the best of its part."""
    model = get_peft_model(toy, _config(variant, index_init="weight", region=(0, 2)))
    model.add_adapter("other", _config(variant, index_init="weight", region=(1, 2)))
    lin = model.base_model.model.lin
    scores = lin.base_layer.weight.norm(dim=0 if variant == "fa" else 1)
    for k, name in enumerate(("default", "other")):
        part = in_order(len(scores), 0, "lin", (k, 2))
        assert torch.equal(lin.sbora_index[name], part[scores[part].topk(4).indices].sort().values)
    assert not set(lin.sbora_index["default"].tolist()) & set(lin.sbora_index["other"].tolist())


@VARIANTS
def test_equal_scores_go_to_those_that_would_be_drawn(toy, variant):
    """So an expert that saw no token gets columns of its own, and not the first ones of all."""
    with torch.no_grad():
        toy.lin.weight.fill_(1)
    drawn, chosen = (
        get_peft_model(copy.deepcopy(toy), _config(variant, index_init=init, target_modules=["lin"]))
        for init in ("random", "weight")
    )
    assert torch.equal(*(model.base_model.model.lin.sbora_index["default"] for model in (drawn, chosen)))


@VARIANTS
def test_activations_of_padding_do_not_count(llama, variant):
    chosen = []
    for ids in (torch.tensor([[3, 4, 5, 0, 0, 0]]), torch.tensor([[3, 4, 5]])):
        base, config = copy.deepcopy(llama), _config(variant, index_init="activation", target_modules=["v_proj"])
        preprocess_index(base, config, lambda base=base, ids=ids: base(input_ids=ids, attention_mask=(ids != 0).long()))
        assert not base._forward_pre_hooks
        layers = [m for m in get_peft_model(base, config).modules() if isinstance(m, SboraLayer)]
        chosen.append(torch.stack([layer.sbora_index["default"] for layer in layers]))
    assert torch.equal(*chosen)


@pytest.mark.parametrize("kind", ["gradient", "weight"])
@VARIANTS
def test_each_expert_by_its_own(variant, kind):
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 6, 8))

        def forward(self, x):
            return torch.stack([torch.nn.functional.linear(x, w) for w in self.w])

    torch.manual_seed(0)
    base = nn.Sequential()
    base.experts = Experts()
    x = torch.randn(5, 8)
    settings = {"target_modules": None, "target_parameters": ["experts.w"], "r": 2, "index_init": kind}
    config = _config(variant, **settings)
    scored = base.experts.w
    if kind == "gradient":
        preprocess_index(base, config, lambda: base(x).pow(3).sum().backward())
        base(x).pow(3).sum().backward()
        scored = base.experts.w.grad
    model = get_peft_model(base, config)
    expected = scored.norm(dim=1 if variant == "fa" else 2).topk(2).indices.sort(1).values
    assert torch.equal(model.base_model.model.experts.sbora_index["default"], expected)


@pytest.mark.parametrize(
    ("settings", "run", "message"),
    [
        ({"index_init": "weight"}, lambda toy: toy(X), "which needs no data"),
        ({}, lambda toy: toy(X), "'random', which needs no data"),
        ({"index_init": "activation"}, lambda toy: None, r"left no activation for lin, conv"),
        ({"index_init": "gradient"}, lambda toy: toy(X), r"left no gradient for lin, conv"),
        ({"index_init": "activation", "target_modules": ["nothing"]}, lambda toy: toy(X), "nothing is targeted"),
        (
            {"index_init": "activation", "target_parameters": ["lin.bias"], "target_modules": []},
            lambda toy: toy(X),
            "cannot see what 'lin.bias' is multiplied with: take 'gradient'",
        ),
    ],
)
def test_what_cannot_be_scored(toy, settings, run, message):
    with pytest.raises(ValueError, match=message):
        preprocess_index(toy, _config("fa", **settings), lambda: run(toy))


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="index_init is 'norm', but must be one of 'random', 'activation'"):
        SboraConfig(index_init="norm")


@VARIANTS
def test_gradients_that_are_there_already_do_not_count_and_stay(toy, variant):
    for parameter in toy.parameters():
        parameter.grad = torch.rand_like(parameter) * 100
    kept = [p.grad for p in toy.parameters()]
    clean = copy.deepcopy(toy)
    clean.zero_grad()
    config, other = _config(variant, index_init="gradient"), _config(variant, index_init="gradient")
    preprocess_index(toy, config, _backward(toy))
    assert all(p.grad is grad for p, grad in zip(toy.parameters(), kept, strict=True))
    preprocess_index(clean, other, _backward(clean))
    for one, two in zip(_chosen(get_peft_model(toy, config)), _chosen(get_peft_model(clean, other)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("init", ["activation", "gradient"])
@VARIANTS
def test_a_second_adapter(toy, adapt, variant, init):
    model, config = adapt(toy, variant=variant), _config(variant, index_init=init)
    alone = copy.deepcopy(config)
    run = (lambda m: lambda: m(X)) if init == "activation" else _backward
    with model.disable_adapter():
        preprocess_index(model.base_model.model, config, run(model))
    model.add_adapter("second", config)
    preprocess_index(toy, alone, run(toy))
    for one, two in zip(_chosen(model, "second"), _chosen(get_peft_model(toy, alone)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("init", ["activation", "gradient"])
@VARIANTS
def test_a_second_adapter_is_chosen_by_its_own_data(toy, variant, init):
    run = (lambda m, x: lambda: m(x)) if init == "activation" else (lambda m, x: _backward(m, (x,)))
    fresh = {}
    for name, x in (("default", X), ("second", X.flip(-1) ** 3)):
        base, config = copy.deepcopy(toy), _config(variant, index_init=init)
        preprocess_index(base, config, run(base, x))
        fresh[name] = _chosen(get_peft_model(base, config))
    config = _config(variant, index_init=init)
    preprocess_index(toy, config, run(toy, X))
    model, config = get_peft_model(toy, config), _config(variant, index_init=init)
    with model.disable_adapter():
        preprocess_index(model.base_model.model, config, run(model.base_model.model, X.flip(-1) ** 3))
    model.add_adapter("second", config)
    assert not all(torch.equal(one, two) for one, two in zip(fresh["default"], fresh["second"], strict=True))
    for name, sets in fresh.items():
        assert all(torch.equal(one, two) for one, two in zip(_chosen(model, name), sets, strict=True))


@pytest.mark.parametrize("how", ["keyword", "one dimension"])
@VARIANTS
def test_activations_of_inputs_by_keyword_and_of_one_dimension(toy, variant, how):
    chosen = {}
    for name in ("usual", how):
        base, config = copy.deepcopy(toy), _config(variant, index_init="activation", target_modules=["lin"])
        run = {
            "usual": lambda base=base: base.lin(X[:1]),
            "keyword": lambda base=base: base.lin(input=X[:1]),
            "one dimension": lambda base=base: base.lin(X[0]),
        }
        preprocess_index(base, config, run[name])
        chosen[name] = get_peft_model(base, config).base_model.model.lin.sbora_index["default"]
    assert torch.equal(chosen["usual"], chosen[how])


@pytest.mark.parametrize("init", ["activation", "gradient"])
@VARIANTS
def test_scores_that_are_not_finite_are_refused(toy, variant, init):
    broken = X.clone()
    broken[0, 0] = float("nan")
    run = (lambda: toy(broken)) if init == "activation" else _backward(toy, (broken,))
    with pytest.raises(ValueError, match=f"left {init}s that are not finite for .*lin"):
        preprocess_index(toy, _config(variant, index_init=init), run)


@pytest.mark.parametrize("init", ["activation", "gradient"])
@VARIANTS
def test_processes_with_other_batches_choose_alike(monkeypatch, toy, variant, init):
    """As they would of all batches; LoRA has no index set that could differ."""
    sent = {0: [], 1: []}

    def preprocess(rank, x):
        base, config = copy.deepcopy(toy), _config(variant, index_init=init)
        calls = iter(range(9))

        def gather(parts, own):
            sent[rank].append(copy.deepcopy(own))
            number = next(calls)
            parts[:] = copy.deepcopy([sent[r][number] if number < len(sent[r]) else {} for r in (0, 1)])

        monkeypatch.setattr(distributed, "all_gather_object", gather)
        preprocess_index(base, config, (lambda: base(x)) if init == "activation" else _backward(base, (x,)))
        return _chosen(get_peft_model(base, config))

    def alone(batches):
        base, config = copy.deepcopy(toy), _config(variant, index_init=init)
        run = _backward(base, batches)
        preprocess_index(base, config, run if init == "gradient" else lambda: [base(x) for x in batches])
        return _chosen(get_peft_model(base, config))

    generator = torch.Generator().manual_seed(0)
    first, second = 3 * torch.randn(3, 20, generator=generator), torch.randn(3, 20, generator=generator)
    of_all, of_its_own = alone((first, second)), alone((second,))
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    preprocess(0, first)
    chosen = preprocess(1, second)  # which has what the first one sent
    assert all(torch.equal(one, two) for one, two in zip(chosen, of_all, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(chosen, of_its_own, strict=True))


@VARIANTS
def test_two_layers_on_one_parameter_share_its_gradient(variant):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 20))
    base[2].weight = base[0].weight
    base(X).square().sum().backward()
    expected = _top(base[0].weight.grad.norm(dim=0 if variant == "fa" else 1))
    base.zero_grad()
    config = SboraConfig(variant=variant, r=4, target_modules=["0", "2"], index_init="gradient")
    preprocess_index(base, config, _backward(base, (X,)))
    model = get_peft_model(base, config).base_model.model
    assert torch.equal(model[0].sbora_index["default"], expected)
    assert torch.equal(model[2].sbora_index["default"], expected)
