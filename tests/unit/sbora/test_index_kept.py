"""An index set survives averages of buffers and states, or a change of it is seen."""

import copy
import dataclasses
import hashlib
import json
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sbora import SboraConfig

VARIANTS = ("fa", "fb")
X = torch.linspace(-1, 1, 60).view(3, 20)


def _sets(model):
    return [t.clone() for n, t in model.named_buffers() if n.endswith("default.index")]


def _moved(model):
    """A copy with another matrix and the same index set."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.5)
    return other


@pytest.mark.parametrize("settings", [{"multi_avg_fn": get_ema_multi_avg_fn(0.999)}, {}], ids=["ema", "swa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_moving_averages_over_buffers(toy, adapt, variant, settings):
    model = adapt(toy, variant=variant)
    average = AveragedModel(model, use_buffers=True, **settings)
    without = AveragedModel(model, use_buffers=False, **settings)
    for other in (model, _moved(model), _moved(_moved(model))):
        average.update_parameters(other)
        without.update_parameters(other)
    state = average.module.state_dict()
    torch.testing.assert_close(average(X), without(X))
    assert all(torch.equal(a, b) for a, b in zip(_sets(average.module), _sets(model), strict=True))
    fresh = adapt(toy, variant=variant, random_seed=5)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(X), without(X))


@pytest.mark.parametrize("decay", [0.9, 0.9999])
@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_numbers_that_sink_with_every_moving_average_come_back(adapt, kind, decay):
    """Above 3114 by more than one."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 11008) if kind == "fb" else nn.Linear(11008, 4))
    if kind == "lora":
        model = get_peft_model(base, LoraConfig(r=256, target_modules=["0"], init_lora_weights=False))
    else:
        model = adapt(base, variant=kind, r=256, target_modules=["0"])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for _ in range(100):
        average.update_parameters(model)
    x = torch.randn(2, base[0].in_features)
    torch.testing.assert_close(average(x), model(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(_sets(average.module), _sets(model), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_entry_that_rises_in_place_is_taken_for_meant(toy, adapt, variant):
    model = adapt(toy, variant=variant, index_init="weight", target_modules=["lin"])
    index = model.base_model.model.lin.sbora_index["default"]
    index.copy_(torch.tensor([1, 5, 9, 12]))
    model(X)
    other = torch.tensor([1, 5, 9, 13])
    index.copy_(other)
    model(X)
    assert torch.equal(index, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_set_chosen_by_data_that_is_near_to_the_own_one_loads(variant):
    """The columns or rows of the largest norm, and another model in which one is the next lower."""
    models = []
    for last in (60, 59):
        base, chosen = nn.Sequential(nn.Linear(64, 64)), [3, 9, 17, 22, 30, 41, 50, last]
        with torch.no_grad():
            base[0].weight.fill_(1)
            (base[0].weight.t() if variant == "fa" else base[0].weight)[chosen] = 2
        config = SboraConfig(variant=variant, r=8, index_init="weight", target_modules=["0"])
        models.append(get_peft_model(base, config))
        assert _sets(models[-1])[0].tolist() == chosen
    set_peft_model_state_dict(models[0], get_peft_model_state_dict(models[1]))
    models[0](torch.ones(1, 64))
    assert _sets(models[0])[0].tolist() == chosen


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_averages_of_states(toy, adapt, variant, whole):
    """FedAvg: right where all have one index set, refused where they have not."""
    take = (lambda m: m.state_dict()) if whole else get_peft_model_state_dict
    give = (lambda m, s: m.load_state_dict(s)) if whole else set_peft_model_state_dict
    model = adapt(toy, variant=variant)
    for other, refused in ((_moved(model), False), (adapt(toy, variant=variant, random_seed=5), True)):
        one, two = take(model), take(other)
        average = {name: 0.3 * one[name] + 0.7 * two[name] for name in one}
        target, kept = copy.deepcopy(model), _sets(model)
        if refused:
            with pytest.raises(ValueError, match="different index sets"):
                give(target, average)
        else:
            give(target, average)
            layer, first = (m.base_model.model.lin for m in (target, model))
            expected = 0.65 * first.sbora_weight["default"]
            torch.testing.assert_close(layer.sbora_weight["default"], expected)
        assert all(torch.equal(a, b) for a, b in zip(_sets(target), kept, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_changed_file_is_refused(tmp_path, toy, adapt, variant):
    model = adapt(toy, variant=variant)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    assert PeftModel.from_pretrained(copy.deepcopy(toy), tmp_path)(X).equal(model(X))
    name = next(n for n in tensors if n.endswith("sbora_index"))
    tensors[name][0] = next(i for i in range(10) if i not in tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not those that it was saved with"):
        PeftModel.from_pretrained(copy.deepcopy(toy), tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_changed_file_is_refused_over_an_adapter_that_is_there(tmp_path, toy, adapt, variant):
    """As the Trainer loads the best or the last checkpoint."""
    source, model = adapt(toy, variant=variant, random_seed=5), adapt(toy, variant=variant)
    source.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "default")
    assert torch.equal(model(X), source(X))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("sbora_index"))
    tensors[name] = tensors[name].flip(0) // 2
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not those that it was saved with"):
        model.load_adapter(tmp_path, "default")
    assert torch.equal(model(X), source(X))
    other = adapt(toy, variant=variant, random_seed=7)
    set_peft_model_state_dict(model, get_peft_model_state_dict(other))  # which no file binds
    assert torch.equal(model(X), other(X))


@pytest.mark.parametrize("how", ["replaced", "another model"])
@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_a_configuration_that_was_saved_does_not_bind_other_models(tmp_path, toy, kind, how):
    if kind == "lora":
        config, changes = LoraConfig(r=4, target_modules=["lin"]), {}
    else:
        config, changes = SboraConfig(variant=kind, r=4, target_modules=["lin"]), {"random_seed": 1}
    get_peft_model(copy.deepcopy(toy), config).save_pretrained(tmp_path)
    if kind != "lora":
        assert json.loads((tmp_path / "adapter_config.json").read_text())["index_checksum"]
        saved = PeftConfig.from_pretrained(tmp_path)
        assert saved.to_dict()["index_checksum"] == config.to_dict()["index_checksum"]
        assert dataclasses.replace(saved).to_dict()["index_checksum"] is None
    if how == "replaced":
        trained, new = (get_peft_model(copy.deepcopy(toy), dataclasses.replace(config, **changes)) for _ in range(2))
    else:
        trained = get_peft_model(copy.deepcopy(toy), dataclasses.replace(config, **changes))
        new = get_peft_model(copy.deepcopy(toy), config)
    state = {name: t.clone() for name, t in get_peft_model_state_dict(trained).items()}
    set_peft_model_state_dict(new, state)
    assert torch.equal(new(X), trained(X))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checksum_on_request(toy, adapt, layers, variant):
    model, other = adapt(toy, variant=variant), adapt(toy, variant=variant, random_seed=5)
    before = model.base_model.index_checksum()
    assert _moved(model).base_model.index_checksum() == before != other.base_model.index_checksum()
    next(iter(layers(model).values())).sbora_index["default"].copy_(torch.arange(4))
    assert model.base_model.index_checksum() != before


@pytest.mark.parametrize("variant", VARIANTS)
def test_averages_that_were_cast_to_integers(adapt, variant):
    """0.7 + 0.3 of a number may be a little less than it, and cast to an integer one less."""
    model = adapt(nn.Sequential(nn.Linear(64, 64)), variant=variant, r=16, target_modules=["0"])
    state = model.state_dict()
    key = next(name for name in state if name.endswith("index"))
    state[key] = (0.7 * state[key].double() + 0.3 * state[key].double() - 1e-9).long()
    with pytest.raises(ValueError, match="an average of different index sets"):
        copy.deepcopy(model).load_state_dict(state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_moving_averages_of_a_state_by_hand(variant):
    """High numbers sink by more than one, where the average is kept in the state's own types."""
    size = (32768, 4) if variant == "fa" else (4, 32768)
    config = SboraConfig(variant=variant, r=64, target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(*size)), config)
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    key = next(name for name in average if name.endswith("index"))
    for _ in range(50):
        average[key].copy_(0.9999 * average[key] + (1 - 0.9999) * model.state_dict()[key])
    assert (model.state_dict()[key] - average[key]).max() > 1
    with pytest.raises(ValueError, match="an average of different index sets"):
        copy.deepcopy(model).load_state_dict(average)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_states_of_other_types(toy, adapt, variant, dtype, assign):
    """Whole numbers are an index set in any type that holds them all."""
    model, fresh = adapt(toy, variant=variant, random_seed=5), adapt(toy, variant=variant)
    state = {name: t.to(dtype) if name.endswith("index") else t for name, t in model.state_dict().items()}
    if dtype == torch.bfloat16:
        with pytest.raises(ValueError, match="was rounded"):
            fresh.load_state_dict(state, assign=assign)
        return
    fresh.load_state_dict(state, assign=assign)
    assert torch.equal(fresh(X), model(X))
    assert all(index.dtype == torch.int64 for index in _sets(fresh))


@pytest.fixture
def saved(tmp_path, llama, adapt):
    """A saved adapter: its folder and, to be changed, its tensors, which are written on leaving."""

    @contextmanager
    def change(variant, **settings):
        model = adapt(llama, variant=variant, target_modules=["q_proj", "down_proj"], **settings)
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        yield tmp_path, model, tensors
        save_file(tensors, tmp_path / "adapter_model.safetensors")

    return change


@pytest.mark.parametrize("broken", ["changed", "beyond", "twice"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_own_loader_refuses_changed_files(llama, saved, variant, broken):
    """It sets tensors past all hooks."""
    with saved(variant) as (folder, model, tensors):
        index = next(t for name, t in tensors.items() if name.endswith("q_proj.sbora_index"))
        index.copy_(
            {"changed": torch.arange(4), "beyond": torch.arange(30, 34), "twice": torch.tensor([1, 1, 2, 3])}[broken]
        )
        if broken != "changed":
            config = folder / "adapter_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"index_checksum": None}))
    message = "not those that it was saved with" if broken == "changed" else "must be different numbers from 0 to 31"
    with pytest.raises(ValueError, match=message):
        llama.load_adapter(str(folder))
    assert not any("sbora" in name for name in llama.state_dict())


@pytest.mark.parametrize("loader", ["peft", "transformers"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_without_index_sets_is_that_of_the_drawn_ones(llama, saved, variant, loader):
    """As averages of files leave them, which are told to leave them out."""
    for seed in (0, 5):
        with saved(variant, random_seed=seed) as (folder, model, tensors):
            for name in [name for name in tensors if name.endswith("sbora_index")]:
                del tensors[name]
        if loader == "peft":
            loaded = PeftModel.from_pretrained(copy.deepcopy(llama), folder)
        else:
            loaded = copy.deepcopy(llama)
            loaded.load_adapter(str(folder))
        assert torch.equal(loaded(torch.tensor([[1, 2, 3]])).logits, model(torch.tensor([[1, 2, 3]])).logits)
    with saved(variant) as (folder, model, tensors):
        for name in [name for name in tensors if name.endswith("sbora_index")]:
            del tensors[name]
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"random_seed": 7}))
    with pytest.raises(ValueError, match="not those that it was saved with"):
        if loader == "peft":
            PeftModel.from_pretrained(llama, folder)
        else:
            llama.load_adapter(str(folder))


class Renamed(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(nn.Linear(20, 8), nn.Linear(8, 8)))

    def forward(self, x):
        return self.get_submodule(self.name)(x)


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_a_base_model_whose_modules_are_called_otherwise_today(tmp_path, adapt, kind):
    base = Renamed("language_model")
    if kind == "lora":
        model = get_peft_model(base, LoraConfig(target_modules=["0", "1"], init_lora_weights=False))
    else:
        model = adapt(base, variant=kind, target_modules=["0", "1"])
    model.save_pretrained(tmp_path)
    today = Renamed("model")
    today.model.load_state_dict(_state_of_the_base(model))
    loaded = PeftModel.from_pretrained(today, tmp_path, key_mapping={"^language_model": "model"})
    assert torch.equal(loaded(X), model(X))


def _state_of_the_base(model):
    """The base's own weights, under the names that a plain Sequential gives them."""
    inner = model.base_model.model.language_model
    return {f"{i}.{key}": value for i in range(2) for key, value in inner[i].base_layer.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checksum_with_names_as_it_was_saved_before(llama, saved, variant):
    with saved(variant) as (folder, model, tensors):
        sets = {
            n.removeprefix("base_model.model.").removesuffix(".sbora_index"): t
            for n, t in tensors.items()
            if "index" in n
        }
        lines = "".join(f"{name} {sets[name].tolist()}\n" for name in sorted(sets))
        config = folder / "adapter_config.json"
        named = hashlib.sha256(lines.encode()).hexdigest()
        config.write_text(json.dumps(json.loads(config.read_text()) | {"index_checksum": named}))
    loaded = PeftModel.from_pretrained(copy.deepcopy(llama), folder)
    assert loaded.base_model.index_checksum() == model.base_model.index_checksum() != named
