"""Options that users of PEFT's LoRA expect, beside LoRA's own behaviour."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sbora import SboraConfig, export

VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])
IDS = torch.arange(3, 23).view(2, 10)


# rsLoRA: the update is scaled by alpha / sqrt(r)


@VARIANTS
def test_rslora_scales_as_in_lora(tmp_path, toy, adapt, layers, variant):
    settings = {"variant": variant, "use_rslora": True, "rank_pattern": {"conv": 9}, "alpha_pattern": {"conv": 6}}
    model = adapt(toy, **settings)
    lin, conv = layers(model).values()
    assert lin.scaling["default"] == 8 / math.sqrt(4)
    assert conv.scaling["default"] == 6 / math.sqrt(9)
    lora = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["lin"])
    assert lin.scaling["default"] == get_peft_model(copy.deepcopy(toy), lora).base_model.model.lin.scaling["default"]
    lin.scale_layer(3)
    lin.unscale_layer()
    assert lin.scaling["default"] == 4.0
    lin.set_scale("default", 2)
    assert lin.scaling["default"] == 8.0
    lin.unscale_layer()
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 20)
    assert torch.equal(PeftModel.from_pretrained(toy, tmp_path)(x), model(x))


@VARIANTS
def test_rslora_joins_and_exports(tmp_path, llama, adapt, variant):
    llama.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 2}, "task_type": "CAUSAL_LM"}
    model = adapt(base, variant=variant, use_rslora=True, **settings).eval()
    expected = model(IDS).logits
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    lora = PeftModel.from_pretrained(base, export(tmp_path / "adapter", "lora", tmp_path / "lora")).eval()
    torch.testing.assert_close(lora(IDS).logits, expected, rtol=0, atol=1e-5)
    model.add_weighted_adapter(["default"], "alone")
    model.set_adapter("alone")
    torch.testing.assert_close(model(IDS).logits, expected)


# tied embeddings


def _tied():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, tie_word_embeddings=True, **sizes)).eval()


@pytest.mark.parametrize("trained", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_tied_embeddings_stay_one_in_training_saving_merging_and_export(tmp_path, adapt, trained):
    base = _tied()
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = {"target_modules": ["q_proj"], "modules_to_save": trained, "ensure_weight_tying": True}
    model = adapt(base, task_type="CAUSAL_LM", **settings)
    lora = get_peft_model(_tied(), LoraConfig(task_type="CAUSAL_LM", **settings))

    def in_full(model):
        return {n for n, p in model.named_parameters() if p.requires_grad and "sbora" not in n and "lora" not in n}

    assert in_full(model) == in_full(lora) == {"base_model.model.model.embed_tokens.modules_to_save.default.weight"}
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=10).step()
    model.eval()
    expected = model(IDS).logits.detach()
    assert not torch.allclose(expected, base.eval()(IDS).logits, atol=1e-2)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(loaded.eval()(IDS).logits, expected)
    merged = AutoModelForCausalLM.from_pretrained(export(tmp_path / "adapter", "merged", tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=1e-5)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    exported = export(tmp_path / "adapter", "lora", tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), exported)
    torch.testing.assert_close(loaded.eval()(IDS).logits, expected, rtol=0, atol=1e-5)


def test_an_embedding_cannot_be_adapted_and_kept_tied(adapt):
    with pytest.raises(ValueError, match="ensure_weight_tying is True.*modules_to_save instead"):
        adapt(_tied(), target_modules=["q_proj", "lm_head"], ensure_weight_tying=True)


# single tokens


@VARIANTS
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", [[4, 7], {"embed_tokens": [5]}])
def test_single_tokens_train_with_the_adapter(tmp_path, llama, adapt, variant, tied, tokens):
    base = _tied() if tied else llama
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    settings = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "trainable_token_indices": tokens}
    model = adapt(base, variant=variant, **settings)
    chosen = tokens if isinstance(tokens, list) else tokens["embed_tokens"]
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=10).step()
    model.eval()
    expected = model(IDS).logits.detach()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(loaded.eval()(IDS).logits, expected)

    merged = AutoModelForCausalLM.from_pretrained(export(tmp_path / "adapter", "merged", tmp_path / "merged")).eval()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=1e-5)
    changed = (merged.model.embed_tokens.weight != base.model.embed_tokens.weight).any(1).nonzero().flatten().tolist()
    assert changed == chosen
    lora = export(tmp_path / "adapter", "lora", tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora).eval()
    torch.testing.assert_close(loaded(IDS).logits, expected, rtol=0, atol=1e-5)


# other ways to join


def _two(toy, adapt, variant, **other):
    model = adapt(toy, variant=variant, target_modules=["lin"])
    second = {"r": 4, "sbora_alpha": 8, "target_modules": ["lin"], "init_weights": False, "random_seed": 1} | other
    model.add_adapter("other", SboraConfig(variant=variant, **second))
    return model


@VARIANTS
@pytest.mark.parametrize("kind", ["sum", "linear", "cat"])
def test_lora_names_of_the_sum(toy, adapt, layers, variant, kind):
    model = _two(toy, adapt, variant, r=6)
    model.add_weighted_adapter(["default", "other"], "both", [0.5, 2.0], combination_type=kind)
    (layer,) = layers(model).values()
    expected = 0.5 * layer.get_delta_weight("default") + 2 * layer.get_delta_weight("other")
    torch.testing.assert_close(layer.get_delta_weight("both"), expected)


@VARIANTS
@pytest.mark.parametrize("kind", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_pruned_unions_are_what_peft_makes_of_the_updates(toy, adapt, layers, variant, kind, sign):
    """Of one region PEFT's functions on the two updates; PEFT's own random numbers, from the adapter's seed."""
    model = _two(toy, adapt, variant, random_seed=0)
    (layer,) = layers(model).values()
    dim = int(variant == "fa")
    index = layer.sbora_index["default"]
    assert torch.equal(index, layer.sbora_index["other"])
    parts = [layer.get_delta_weight(name).index_select(dim, index) for name in ("default", "other")]
    signs = {"majority_sign_method": sign} if kind.endswith("ties") else {}
    before = torch.random.get_rng_state()
    model.add_weighted_adapter(
        ["default", "other"], "both", [1.0, 0.5], combination_type=kind, density=0.5, majority_sign_method=sign
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(0)
    expected = getattr(merge_utils, kind)(parts, torch.tensor([1.0, 0.5]), density=0.5, **signs)
    torch.testing.assert_close(layer.get_delta_weight("both").index_select(dim, index), expected)


@VARIANTS
def test_a_pruned_update_keeps_its_part_of_its_own_region(toy, adapt, layers, variant):
    """Where regions are disjoint nothing competes: half of each update stays, the largest, at its full size."""
    model = adapt(toy, variant=variant, target_modules=["lin"], region=(0, 2))
    config = SboraConfig(variant=variant, r=4, sbora_alpha=8, target_modules=["lin"], init_weights=False, region=(1, 2))
    model.add_adapter("other", config)
    model.add_weighted_adapter(["default", "other"], "both", combination_type="ties", density=0.5)
    (layer,) = layers(model).values()
    joined = layer.get_delta_weight("both")
    for name in ("default", "other"):
        update = layer.get_delta_weight(name)
        kept = joined.where(update != 0, 0)
        assert (kept != 0).sum() == layer.sbora_weight[name].numel() // 2
        assert torch.equal(kept[kept != 0], update[kept != 0])
        assert kept[kept != 0].abs().min() >= update[(kept == 0) & (update != 0)].abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combination_type": "svd"}, "needs no SVD"),
        ({"combination_type": "ties_svd", "density": 0.5}, "needs no SVD"),
        ({"combination_type": "mean"}, "'mean', but that is unknown"),
        ({"combination_type": "ties"}, r"density in \(0, 1\], but it is None"),
        ({"combination_type": "dare_linear", "density": 0}, "but it is 0"),
        ({"combination_type": "ties", "density": 0.5, "majority_sign_method": "mean"}, "'total' or 'frequency'"),
    ],
)
def test_ways_of_joining_that_cannot_be(toy, adapt, settings, message):
    model = _two(toy, adapt, "fa")
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(["default", "other"], "both", **settings)
    assert list(model.peft_config) == ["default", "other"]
