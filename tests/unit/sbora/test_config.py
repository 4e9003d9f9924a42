"""Bad configurations are refused before anything changes; good ones are written the same way every time."""

import json

import pytest
import torch
from peft import PeftConfig, get_peft_model
from torch import nn

from sbora import SboraConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"variant": "fc"}, "variant"),
        ({"r": 0}, "r is 0"),
        ({"r": 2.5}, "r is 2.5"),
        ({"r": True}, "r is True"),
        ({"sbora_dropout": 1.0}, "sbora_dropout"),
        ({"sbora_dropout": -0.1}, "sbora_dropout"),
        ({"random_seed": "x"}, "random_seed"),
        ({"bias": "lora_only"}, "bias"),
        ({"rank_pattern": {"lin": 0}}, "rank_pattern"),
        ({"region": (2, 2)}, "region"),
        ({"region": (-1, 2)}, "region"),
        ({"region": (0, 1, 2)}, "region"),
        ({"target_modules": ".*lin", "layers_to_transform": [0]}, "layers_to_transform"),
        ({"target_modules": ".*lin", "layers_pattern": "layers"}, "layers_pattern"),
    ],
)
def test_values_out_of_range_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        SboraConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"variant": "fa", "r": 25}, ValueError, r"r = 25 .*'lin' \(20 inputs, 30 outputs\).*rank_pattern"),
        ({"variant": "fb", "r": 11}, ValueError, r"r = 11 .*'conv' \(30 inputs, 10 outputs\)"),
        ({"r": 4, "rank_pattern": {"conv": 31}}, ValueError, r"r = 31 .*'conv'"),
        ({"r": 8, "region": (1, 3)}, ValueError, r"r = 8 .*'lin'.*there are 6 in part 1 of 3"),
        ({"r": 4, "target_modules": ["lin", "emb"]}, TypeError, "'emb', a Embedding"),
        ({"r": 1, "target_modules": ["lin", "cnn"]}, TypeError, "'cnn', a Conv1d"),
        ({"r": 4, "target_modules": ["nothing"]}, ValueError, "nothing"),
    ],
)
def test_a_configuration_that_does_not_fit_leaves_the_model_alone(toy, settings, error, message):
    toy.emb, toy.cnn = nn.Embedding(5, 20), nn.Conv1d(3, 3, 1)
    before = {name: (type(m), [p.requires_grad for p in m.parameters()]) for name, m in toy.named_modules()}
    with pytest.raises(error, match=message):
        get_peft_model(toy, SboraConfig(**{"target_modules": ["lin", "conv"]} | settings))
    after = {name: (type(m), [p.requires_grad for p in m.parameters()]) for name, m in toy.named_modules()}
    assert after == before


def test_a_second_adapter_that_does_not_fit_is_rolled_back(toy, adapt, layers):
    model = adapt(toy)
    with pytest.raises(ValueError, match="r = 21"):
        model.add_adapter("other", SboraConfig(r=21, target_modules=["lin"]))
    assert list(model.peft_config) == ["default"]
    assert all(list(layer.sbora_weight) == ["default"] for layer in layers(model).values())


def test_saving_writes_the_same_bytes_every_time(tmp_path, toy, adapt):
    names = ["lin", "conv", *(f"other_{i}" for i in range(20))]
    texts = set()
    for i, order in enumerate((names, names[::-1])):
        adapt(
            toy, target_modules=order, exclude_modules=[n for n in order if n not in ("lin", "conv")]
        ).save_pretrained(tmp_path / str(i))
        texts.add((tmp_path / str(i) / "adapter_config.json").read_bytes())
    assert len(texts) == 1
    assert json.loads(texts.pop())["target_modules"] == sorted(names)


def test_loading_gives_back_the_configuration(tmp_path):
    config = SboraConfig(variant="fb", r=3, sbora_alpha=7, random_seed=5, region=(1, 2), target_modules=["q"])
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is SboraConfig
    assert loaded.to_dict() == config.to_dict()
    assert loaded.region == (1, 2)
    assert loaded.target_modules == {"q"}


def test_patterns_set_rank_and_alpha_of_single_modules(toy, adapt, layers):
    model = adapt(toy, r=4, sbora_alpha=8, rank_pattern={"conv": 2}, alpha_pattern={"lin": 12})
    lin, conv = layers(model).values()
    assert (lin.r["default"], lin.scaling["default"]) == (4, 3.0)
    assert (conv.r["default"], conv.scaling["default"]) == (2, 4.0)
    assert conv.sbora_weight["default"].shape == torch.Size([10, 2])
