"""SBoRA inside of the libraries that know PEFT methods: transformers, PEFT's own loaders, TRL."""

import copy
import inspect
import math
import warnings

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftMixedModel,
    PeftModel,
    PeftType,
    get_peft_model,
    inject_adapter_in_model,
)
from peft.helpers import disable_input_dtype_casting
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.hotswap import hotswap_adapter
from torch import nn
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

import sbora
from sbora import SboraConfig, SboraModel, _peft
from tests.factories.adapted import adapted

VARIANTS = ("fa", "fb")
IDS = torch.arange(3, 23).view(2, 10)


@pytest.fixture
def adapter(tmp_path, llama, adapt):
    """A LLaMA and an adapter of it in folders, and the adapted model."""

    def make(variant, **settings):
        settings = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
        llama.save_pretrained(tmp_path / "base")
        model = adapt(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), variant=variant, **settings).eval()
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", model

    return make


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_own_loader(adapter, llama, variant, low_cpu_mem_usage):
    folder, model = adapter(variant)
    llama.eval().load_adapter(str(folder), low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(llama(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_own_loader_takes_names_literally(adapter, llama, variant):
    folder, model = adapter(variant)
    llama.eval().load_adapter(str(folder), adapter_name="a+[b]")
    assert torch.equal(llama(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_own_adapters(tmp_path, llama, variant):
    plain = llama.eval()(IDS).logits
    llama.add_adapter(SboraConfig(variant=variant, r=4, target_modules=["q_proj"], init_weights=False))
    adapted = llama(IDS).logits
    assert not torch.allclose(adapted, plain)
    llama.disable_adapters()
    assert torch.equal(llama(IDS).logits, plain)
    llama.enable_adapters()
    llama.save_pretrained(tmp_path)
    again = type(llama)(llama.config)
    again.load_state_dict({k.replace(".base_layer", ""): v for k, v in llama.state_dict().items() if "sbora" not in k})
    again.eval().load_adapter(str(tmp_path))
    assert torch.equal(again(IDS).logits, adapted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_auto_classes(adapter, variant):
    folder, model = adapter(variant)
    loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert isinstance(loaded.base_model, SboraModel)
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_batches_generate_what_each_adapter_does(adapter, variant, num_beams):
    _, model = adapter(variant, sbora_alpha=40)
    torch.manual_seed(5)
    other = SboraConfig(variant=variant, r=2, sbora_alpha=60, target_modules=["v_proj"], init_weights=False)
    model.add_adapter("other", other)
    settings = {"num_beams": num_beams, "max_new_tokens": 5, "do_sample": False}
    batch = torch.cat([IDS, IDS[:1]])
    names = ["other", "__base__", "default"]
    mixed = model.generate(input_ids=batch, adapter_names=names, **settings)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = model.generate(input_ids=batch, **settings)
        else:
            model.set_adapter(name)
            alone = model.generate(input_ids=batch, **settings)
        assert torch.equal(mixed[row], alone[row])
    with pytest.raises(ValueError, match="non-existing adapter.*nobody"):
        model(batch, adapter_names=["nobody"] * 3)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="training mode"):
        model.train()(batch, adapter_names=names)


def test_what_peft_closes_to_other_packages_says_so(tmp_path, adapter, toy, llama):
    folder, model = adapter("fa")
    config = SboraConfig(r=4, target_modules=["lin"])
    with pytest.raises(ValueError, match="'SBORA' is not compatible with the `PeftMixedModel`"):
        PeftMixedModel(toy, config)
    with pytest.raises(ValueError, match="Hotswapping only supports .* SBORA was passed"):
        hotswap_adapter(model, str(folder), adapter_name="default")
    llama.add_adapter(SboraConfig(r=4, target_modules=["q_proj"]), "default")
    with pytest.raises(ValueError, match="Hotswapping is currently only supported for LoRA"):
        llama.load_adapter(str(folder), adapter_name="default", hotswap=True)
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("lora", LoraConfig(target_modules=["q_proj"]))


def test_registration(monkeypatch):
    assert PeftType.SBORA is PeftType("SBORA") is PeftType["SBORA"] is _peft.peft_type("SBORA")
    assert PeftType.SBORA in list(PeftType) and PeftType.SBORA.value == "SBORA"
    assert len(PeftType.__members__) == len(set(PeftType.__members__)) == len(list(PeftType))
    _peft.register("sbora", SboraConfig, SboraModel)  # again: nothing happens
    assert PEFT_TYPE_TO_CONFIG_MAPPING["SBORA"] is SboraConfig
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.SBORA, LoraConfig)
    with pytest.raises(ImportError, match="already knows a method 'SBORA', from peft.*LoraConfig"):
        _peft.register("sbora", SboraConfig, SboraModel)


@pytest.mark.parametrize(
    "name", sorted(set(_peft.__all__) - {"peft_type", "register", "rename_when_transformers_loads"})
)
def test_what_we_use_of_peft_is_there(name):
    """An upgrade of PEFT that moves one of its private names must fail here, by name."""
    assert inspect.getmodule(getattr(_peft, name), None) is not None or name.isupper()


@pytest.mark.parametrize("variant", VARIANTS)
def test_tied_embeddings_with_a_head_that_is_saved(tmp_path, llama, adapt, variant):
    llama.config.tie_word_embeddings = True
    llama.tie_weights()
    settings = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "task_type": "CAUSAL_LM"}
    model = adapt(llama, variant=variant, **settings)
    embedded = model.get_input_embeddings().weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert torch.equal(model.get_input_embeddings().weight, embedded)  # the head trains, its twin does not
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(llama), tmp_path)
    torch.testing.assert_close(loaded.eval()(IDS).logits, model.eval()(IDS).logits)


def test_injection_without_a_wrapper(toy):
    model = inject_adapter_in_model(SboraConfig(r=4, target_modules=["lin"]), toy)
    assert isinstance(model.lin, sbora.SboraLinear) and isinstance(model, nn.Module)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lin.sbora_weight.default.weight"]


def test_layers_to_transform_and_all_linear(llama):
    config = SboraConfig(r=4, target_modules=["q_proj"], layers_to_transform=[1])
    model = get_peft_model(copy.deepcopy(llama), config)
    assert model.targeted_module_names == ["model.layers.1.self_attn.q_proj"]
    model = get_peft_model(copy.deepcopy(llama), SboraConfig(r=4, target_modules="all-linear"))
    assert len(model.targeted_module_names) == 14 and "lm_head" not in model.targeted_module_names
    model = get_peft_model(copy.deepcopy(llama), SboraConfig(r=4))  # PEFT's default for LLaMA
    assert {name.rpartition(".")[2] for name in model.targeted_module_names} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("targets", [["in_proj", "out_proj"], "all-linear"])
@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_mamba_s_out_proj_is_refused_as_for_lora(kind, targets):
    """Its fused kernel takes the weight and never calls the layer."""
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1)
    common = {"r": 1, "target_modules": targets}
    own = LoraConfig(**common) if kind == "lora" else SboraConfig(variant=kind, **common)
    with pytest.raises(ValueError, match=f"PeftType.{own.peft_type.value}.*'out_proj' is incompatible with Mamba"):
        get_peft_model(MambaForCausalLM(config), own)


def _letters():
    """A tokenizer of eight words of one letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_trl_trains_it(tmp_path, llama, variant):
    """TRL wraps the model itself from a `peft_config`."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset

    trainer = trl.SFTTrainer(
        model=llama,
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict({"text": ["a b c d", "e f g h", "a c e g"] * 4}),
        processing_class=_letters(),
        peft_config=SboraConfig(variant=variant, r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(copy.deepcopy(trainer.model.unload()), tmp_path)
    assert all(layer.sbora_weight["default"].abs().max() > 0 for layer in _sbora_layers(loaded))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_trl_s_dpo_begins_at_the_trained_adapter(tmp_path, llama, kind):
    """Its reference is a copy of the adapter, made by names: policy and reference agree, so the first loss is log 2."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    from datasets import Dataset

    pairs = {"prompt": ["a b", "c"], "chosen": ["c d", "e f"], "rejected": ["e", "g h"]}
    trainer = trl.DPOTrainer(
        model=adapted(llama, kind, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
        args=trl.DPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict(pairs),
        processing_class=_letters(),
    )
    trainer.train()
    first, second = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-5) and second < first - 1e-4
    assert trainer.model.peft_config.keys() == {"default", "ref"}


def _sbora_layers(model):
    return [module for module in model.modules() if isinstance(module, sbora.SboraLayer)]


def test_peft_s_helper_against_casts_of_the_input(toy, adapt):
    """SBoRA casts its matrix, never the input: there is nothing to switch off, and nothing fails."""
    model, x = adapt(toy), torch.randn(3, 20)
    expected = model(x)
    with disable_input_dtype_casting(model):
        assert torch.equal(model(x), expected)


def _encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2)).eval()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_s_encoder_in_eval_mode(adapt, variant, padded):
    """Its fused kernel takes the bare weights, and LoRA's adapters are left out without a word."""
    base, x = _encoder(), torch.randn(2, 5, 32)
    model = adapt(base, variant=variant, target_modules=["linear1", "linear2"]).eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    merged = copy.deepcopy(model).merge_and_unload()[0]
    seen = slice(None) if mask is None else ~mask
    with torch.no_grad():
        plain = base[0](x, src_key_padding_mask=mask)[seen]
        y = model.base_model.model[0](x, src_key_padding_mask=mask)[seen]
        torch.testing.assert_close(y, merged(x, src_key_padding_mask=mask)[seen])
        assert not torch.allclose(y, plain)
        torch.testing.assert_close(model.unload()[0](x, src_key_padding_mask=mask)[seen], plain)


NEVER_CALLED = [{"target_modules": ["out_proj", "linear1"]}, {"target_parameters": ["out_proj.weight"]}]


@pytest.mark.parametrize("targets", NEVER_CALLED)
def test_a_layer_that_attention_never_calls_is_warned_of(adapt, targets):
    with pytest.warns(UserWarning, match="out_proj.*an adapter there changes nothing"):
        adapt(_encoder(), **{"target_modules": ["linear1"]} | targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(_encoder(), target_modules=["linear1"])
