"""What the method takes from PEFT without a public name: each is named here, with what is relied on.

A release of PEFT that moves or changes one of them fails the test of its name, not a user's training.
"""

import ast
import inspect
import pickle
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import peft
import peft.utils
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.integrations import peft as peft_integration
from transformers.pytorch_utils import Conv1D

import sbora
from sbora import SboraConfig, SboraLayer, SboraModel, _peft

SOURCES = sorted(Path(inspect.getfile(sbora)).parent.glob("*.py"))


def taken_from_peft(path):
    """(module, name) of everything that a source file imports from peft."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {(n.module, a.name) for n in imports if n.module.split(".")[0] == "peft" for a in n.names}


def is_public(module, name):
    return name in peft.__all__ or (module.startswith("peft.utils") and name in peft.utils.__all__)


def test_every_private_import_is_tested_here():
    private = {name for module, name in taken_from_peft(Path(_peft.__file__)) if not is_public(module, name)}
    tests = "\n".join(inspect.getsource(test) for name, test in globals().items() if name.startswith("test_"))
    assert private >= {"BaseTunerLayer", "_get_in_out_features", "check_adapters_to_merge"}
    assert not {name for name in private if f"_peft.{name}" not in tests}


def test_private_imports_stand_in_one_module():
    elsewhere = [path for path in SOURCES if path.name != "_peft.py"]
    assert len(elsewhere) >= 4
    private = {pair for path in elsewhere for pair in taken_from_peft(path) if not is_public(*pair)}
    assert private == set()


def test_check_target_module_exists_matches_ends_of_names_and_parameters_alone():
    exists = _peft.check_target_module_exists
    assert exists(SboraConfig(target_modules=["q"]), "layers.0.q")
    assert not exists(SboraConfig(target_modules=["q"]), "layers.0.eq")
    assert not exists(SboraConfig(target_parameters=["experts.w"]), "layers.0.experts")


def test_merge_utils_prunes_elects_signs_and_averages_what_agrees():
    update = torch.tensor([1.0, -4.0, 2.0, 3.0])
    pruned = _peft.merge_utils.prune(update, 0.5, "magnitude")
    assert pruned.tolist() == [0, -4, 0, 3]
    updates = torch.stack([pruned, torch.tensor([0.0, 2.0, 1.0, 1.0])])
    mask = _peft.merge_utils.calculate_majority_sign_mask(updates, method="total")
    assert _peft.merge_utils.disjoint_merge(updates, mask).tolist() == [0, -4, 1, 2]


def test_get_in_out_features_of_both_layouts():
    assert _peft._get_in_out_features(nn.Linear(3, 5)) == (3, 5)
    assert _peft._get_in_out_features(Conv1D(5, 3)) == (3, 5)


def test_check_lora_target_modules_mamba_goes_by_the_model_s_type():
    model = nn.Module()
    for kind, refused in (("mamba", True), ("llama", False)):
        model.config = SimpleNamespace(model_type=kind)
        with pytest.raises(ValueError, match="out_proj") if refused else nullcontext():
            _peft._check_lora_target_modules_mamba(LoraConfig(), model, "out_proj")


def test_onload_layer_leaves_a_layer_in_place_as_it_is(toy, adapt, layers):
    layer = layers(adapt(toy))["base_model.model.lin"]
    before = layer.base_layer.weight.detach().clone()
    with _peft.onload_layer(layer):
        assert torch.equal(layer.base_layer.weight, before)


def test_check_adapters_to_merge_leaves_out_the_merged_ones(toy, adapt, layers):
    layer = layers(adapt(toy))["base_model.model.lin"]
    assert _peft.check_adapters_to_merge(layer, None) == ["default"]
    layer.merge()
    with pytest.warns(UserWarning, match="already merged"):
        assert _peft.check_adapters_to_merge(layer, None) == []


def test_maybe_include_all_linear_layers_names_all_but_the_output_layer():
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))
    config = _peft._maybe_include_all_linear_layers(SboraConfig(target_modules="all-linear"), model)
    assert len(config.target_modules) == 7
    assert not any("lm_head" in name for name in config.target_modules)


def test_get_encoder_finds_one_only_where_there_is_one():
    sizes = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes))
    assert _peft._get_encoder(model) is model.encoder
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    assert _peft._get_encoder(LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))) is None
    assert _peft._get_encoder(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [("q_proj", "layers.0.q_proj", "q_proj"), ("0.*q", "a.0.q", "0.*q"), ("q", "a.qq", "a.qq")],
)
def test_get_pattern_key_matches_ends_and_expressions(pattern, key, expected):
    assert _peft.get_pattern_key([pattern], key) == expected


def test_base_tuner_layer_finds_the_base_below_another_adapter():
    below = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(target_modules=["0"]))
    layer = below.base_model.model[0]
    assert isinstance(layer, _peft.BaseTunerLayer)
    assert type(layer.get_base_layer()) is nn.Linear
    assert issubclass(SboraLayer, _peft.BaseTunerLayer)


@pytest.mark.parametrize(
    ("owner", "hook"),
    [
        (_peft.BaseTuner, "_create_and_replace"),
        (_peft.BaseTuner, "_prepare_model"),
        (_peft.BaseTuner, "_check_target_module_compatiblity"),
        (_peft.BaseTuner, "_remove_adapter_name_from_key"),
        (_peft.BaseTuner, "_unload_and_optionally_merge"),
        (peft.PeftModel, "_enable_peft_forward_hooks"),
    ],
)
def test_the_hooks_that_are_overridden_still_exist(owner, hook):
    """An override of what PEFT no longer calls by this name would be dead code, without an error."""
    ours = inspect.signature(getattr(SboraModel, hook)).parameters
    theirs = inspect.signature(getattr(owner, hook)).parameters
    assert set(ours) - {"self", "args", "kwargs"} <= set(theirs)


def test_the_method_is_a_full_member_of_the_enum():
    member = peft.PeftType.SBORA
    assert member is peft.PeftType("SBORA") is peft.PeftType["SBORA"] is _peft.peft_type("SBORA")
    assert list(peft.PeftType).count(member) == 1
    assert (member.value, member.name, str.__str__(member)) == ("SBORA",) * 3
    assert pickle.loads(pickle.dumps(member)) is member
    assert _peft.PEFT_TYPE_TO_CONFIG_MAPPING[member] is SboraConfig


def test_registering_again_is_harmless_and_a_stranger_is_refused():
    before = list(peft.PeftType)
    _peft.register("sbora", SboraConfig, SboraModel)
    assert list(peft.PeftType) == before

    class Stranger(SboraConfig):
        pass

    with pytest.raises(ImportError, match="already knows a method 'SBORA'"):
        _peft.register("sbora", Stranger, SboraModel)
    assert _peft.PEFT_TYPE_TO_CONFIG_MAPPING["SBORA"] is SboraConfig


def test_transformers_loader_is_given_names_through_peft_s_mapping():
    """`_peft.transformers_weight_conversion` is where transformers looks the mapping up, at each call."""
    module = _peft.transformers_weight_conversion
    assert "SBORA" in module.build_peft_weight_mapping.renamed_methods
    source = inspect.getsource(peft_integration.PeftAdapterMixin.load_adapter)
    assert "from peft.utils.transformers_weight_conversion import build_peft_weight_mapping" in source
    built = module.build_peft_weight_mapping([WeightRenaming("a", "b")], "one", peft_config=SboraConfig())
    keys = {"q.sbora_weight": "q.sbora_weight.one.weight", "q.sbora_index": "q.sbora_weight.one.index"}
    assert {key: rename_source_key(key, built, [])[0] for key in keys} == keys
    others = module.build_peft_weight_mapping([WeightRenaming("a", "b")], "one", peft_config=LoraConfig())
    assert rename_source_key("q.lora_A.weight", others, [])[0] == "q.lora_A.one.weight"
