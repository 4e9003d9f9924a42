"""Index sets: unique, in range, reproducible, one of its own for every module; regions are disjoint."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn

from sbora import SboraConfig
from sbora.layer import draw_index
from tests import forked

sizes = st.integers(1, 300)


@given(sizes, st.data(), st.integers(-5, 2**70))
def test_an_index_set_is_unique_sorted_and_in_range(size, data, seed):
    r = data.draw(st.integers(1, size))
    index = draw_index(size, r, seed, "module")
    assert index.dtype == torch.int64
    assert index.tolist() == sorted(set(index.tolist()))
    assert len(index) == r
    assert 0 <= index.min() <= index.max() < size


@given(sizes, st.integers(1, 6))
def test_regions_are_disjoint(size, n):
    part = size // n
    if part == 0:
        return
    drawn = torch.cat([draw_index(size, part, 0, "module", (k, n)) for k in range(n)])
    assert len(set(drawn.tolist())) == n * part


def test_the_first_region_starts_the_same_order():
    assert torch.equal(draw_index(64, 8, 3, "a"), draw_index(64, 8, 3, "a", (0, 4)))


def test_too_many_to_choose_is_an_error():
    with pytest.raises(ValueError, match="cannot choose 5 of 4"):
        draw_index(8, 5, 0, "module", (0, 2))


def test_modules_of_one_shape_get_different_sets():
    drawn = {tuple(draw_index(512, 16, 0, f"layers.{i}.q_proj").tolist()) for i in range(50)}
    assert len(drawn) == 50


def test_every_index_is_chosen_about_equally_often():
    counts = torch.zeros(20)
    for i in range(3000):
        counts[draw_index(20, 5, 0, f"layers.{i}")] += 1
    chi2 = ((counts - 750) ** 2 / 750).sum()
    assert chi2 < 45  # 19 degrees of freedom: above with a probability below 1e-3


def test_another_process_draws_the_same_index_sets():
    program = (
        "import json, sys, torch; from torch import nn; from peft import get_peft_model; from sbora import *\n"
        "torch.manual_seed(1)\n"
        "m = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 30))\n"
        "m = get_peft_model(m, SboraConfig(r=4, target_modules=['0', '1', '2']))\n"
        "sets = [l.sbora_index['default'].tolist() for l in m.modules() if isinstance(l, SboraLayer)]\n"
        "print(hash('0'), json.dumps(sets))"
    )
    done = forked.python("-c", program)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    theirs, sets = line.split(" ", 1)
    assert int(theirs) != hash("0"), "two processes that hash alike prove nothing"
    first, second, third = json.loads(sets)
    assert second != third  # same shape, another name
    here = [draw_index(inputs, 4, 0, str(i)).tolist() for i, inputs in enumerate((20, 30, 30))]
    assert [first, second, third] == here


def test_the_seed_decides(toy, adapt, layers):
    a, b, c = (adapt(toy, random_seed=seed) for seed in (0, 0, 1))
    same = [torch.equal(*pair) for pair in zip(_indices(layers(a)), _indices(layers(b)), strict=True)]
    other = [torch.equal(*pair) for pair in zip(_indices(layers(a)), _indices(layers(c)), strict=True)]
    assert all(same) and not any(other)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_a_model_on_the_meta_device_can_be_adapted_and_counted(low_cpu_mem_usage):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    config = SboraConfig(r=4, target_modules=["0", "1"])
    model = get_peft_model(model, config, low_cpu_mem_usage=low_cpu_mem_usage)
    assert all(p.device.type == "meta" for p in model.parameters())
    assert model.get_nb_trainable_parameters() == (4 * (30 + 10), 4 * (30 + 10) + 630 + 310)


def test_the_saved_index_is_the_authority(tmp_path, toy, adapt, layers):
    model = adapt(toy)
    for layer in layers(model).values():
        layer.sbora_index["default"].copy_(torch.tensor([0, 3, 5, 8]))
    model.save_pretrained(tmp_path)
    for low in (False, True):
        loaded = PeftModel.from_pretrained(toy, tmp_path, low_cpu_mem_usage=low)
        assert [layer.sbora_index["default"].tolist() for layer in layers(loaded).values()] == [[0, 3, 5, 8]] * 2
        x = torch.randn(3, 20)
        assert torch.equal(loaded(x), model(x))
        toy = loaded.unload()


@pytest.mark.parametrize("broken", [[0, 3, 5, 20], [-1, 3, 5, 8], [3, 3, 5, 8]])
def test_a_broken_index_is_refused_when_it_is_loaded(tmp_path, toy, adapt, layers, broken):
    model = adapt(toy, target_modules=["lin"])
    layers(model)["base_model.model.lin"].sbora_index["default"].copy_(torch.tensor(broken))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="different numbers from 0 to 19"):
        PeftModel.from_pretrained(toy, tmp_path)


def test_no_integer_is_a_parameter_and_casting_leaves_the_index_alone(toy, adapt, layers):
    model = adapt(toy)
    assert all(p.is_floating_point() for p in model.parameters())
    model.half()
    assert all(layer.sbora_index["default"].dtype == torch.int64 for layer in layers(model).values())
    assert all(layer.sbora_weight["default"].dtype == torch.float16 for layer in layers(model).values())


def test_trainable_parameters_are_counted_exactly(toy, adapt):
    trainable = {v: adapt(toy, variant=v).get_nb_trainable_parameters()[0] for v in ("fa", "fb")}
    assert trainable == {"fa": 4 * (30 + 10), "fb": 4 * (20 + 30)}


def _indices(layers):
    return [layer.sbora_index["default"] for layer in layers.values()]


@pytest.mark.parametrize("variant", ["fa", "fb"])
def test_a_cast_to_a_type_leaves_the_index_alone(adapt, variant):
    """`type`, unlike `to`, casts integers too; bfloat16 would round those above 256."""
    model = adapt(torch.nn.Sequential(torch.nn.Linear(600, 600)), variant=variant, r=64, target_modules=["0"])
    region = model.base_model.model[0].sbora_weight.region("default")
    before = region.index.clone()
    model.type(torch.bfloat16)
    assert region.weight.dtype == torch.bfloat16
    assert region.index.dtype == torch.int64 and torch.equal(region.index, before)
    assert model(torch.ones(2, 600, dtype=torch.bfloat16)).dtype == torch.bfloat16
