"""An export is of the model that was trained: its class, labels, vocabulary and revision, and never the bare base."""

import json
from unittest import mock

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from sbora import SboraConfig, export

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
IDS = torch.arange(3, 23).view(2, 10)
VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])


@pytest.fixture
def save(tmp_path):
    """Save a base model, adapt what `change` makes of it, and save the adapter with random values."""

    def make(base, change, variant, tokenizer=None, **settings):
        base.save_pretrained(tmp_path / "base")
        torch.manual_seed(1)
        model = get_peft_model(change(tmp_path / "base"), SboraConfig(variant=variant, r=4, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.5)
        model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        model.save_pretrained(tmp_path / "adapter")
        if tokenizer:
            tokenizer.save_pretrained(tmp_path / "adapter")
        return model.eval()

    return make


def _llama(**settings):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, pad_token_id=0, **SIZES, **settings))


def _classifier(**settings):
    def change(path):
        torch.manual_seed(0)  # the head is drawn
        return AutoModelForSequenceClassification.from_pretrained(path, **settings)

    return change


def _resized(size):
    def change(path):
        model = AutoModelForCausalLM.from_pretrained(path)
        torch.manual_seed(0)
        model.resize_token_embeddings(size)
        return model

    return change


def _tokenizer(size):
    words = {f"w{i}": i for i in range(size)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), unk_token="w0"
    )


def _check(tmp_path, model, cls, resize=None, head=None, **inputs):
    """Both exports give the adapted model's logits; LoRA on the base as the user would build it."""
    expected = model(**inputs).logits.detach()
    with model.disable_adapter():
        assert not torch.allclose(model(**inputs).logits, expected, atol=1e-3)
    merged = export(tmp_path / "adapter", "merged", tmp_path / "merged")
    written = cls.from_pretrained(merged).eval()
    torch.testing.assert_close(written(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    lora = export(tmp_path / "adapter", "lora", tmp_path / "lora")
    base = cls.from_pretrained(tmp_path / "base", **head or {})
    if resize:
        base.resize_token_embeddings(resize)
    loaded = PeftModel.from_pretrained(base, lora).eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-5, atol=1e-5)


@VARIANTS
@pytest.mark.parametrize("labels", [1, 5])
def test_a_classifier_keeps_its_number_of_labels(tmp_path, save, variant, labels):
    base = BertModel(BertConfig(vocab_size=64, **SIZES))
    settings = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    model = save(base, _classifier(num_labels=labels), variant, **settings)
    _check(tmp_path, model, AutoModelForSequenceClassification, head={"num_labels": labels}, input_ids=IDS)
    assert AutoConfig.from_pretrained(tmp_path / "merged").num_labels == labels


@VARIANTS
def test_a_head_of_several_layers(tmp_path, save, variant):
    base = RobertaModel(RobertaConfig(vocab_size=64, pad_token_id=1, **SIZES))
    settings = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    model = save(base, _classifier(num_labels=7), variant, **settings)
    _check(tmp_path, model, AutoModelForSequenceClassification, head={"num_labels": 7}, input_ids=IDS)


def test_a_base_with_labels_of_its_own_gets_others(tmp_path, save):
    base = transformers.BertForTokenClassification(BertConfig(vocab_size=64, num_labels=4, **SIZES))

    def change(path):
        return AutoModelForTokenClassification.from_pretrained(path, num_labels=3, ignore_mismatched_sizes=True)

    model = save(base, change, "fa", task_type="TOKEN_CLS", target_modules=["query"])
    head = {"num_labels": 3, "ignore_mismatched_sizes": True}
    _check(tmp_path, model, AutoModelForTokenClassification, head=head, input_ids=IDS)


@VARIANTS
def test_a_vocabulary_that_was_enlarged(tmp_path, save, variant):
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
    model = save(_llama(), _resized(70), variant, tokenizer=_tokenizer(70), **settings)
    _check(tmp_path, model, AutoModelForCausalLM, resize=70, input_ids=IDS + 45)
    assert (tmp_path / "lora" / "tokenizer.json").is_file()


@VARIANTS
def test_a_resized_head_that_is_adapted(tmp_path, save, variant):
    """Without a tokenizer, padded beyond what one would have: the adapter's embeddings say the size."""
    model = save(_llama(), _resized(512), variant, task_type="CAUSAL_LM", target_modules=["lm_head"])
    _check(tmp_path, model, AutoModelForCausalLM, resize=512, input_ids=IDS)


def test_a_tokenizer_beside_the_adapter_enlarges_the_vocabulary(tmp_path, save):
    """As in AutoPeftModel. The new rows are in no file, so they are drawn: the same ones every time."""
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    model = save(_llama(), AutoModelForCausalLM.from_pretrained, "fa", tokenizer=_tokenizer(70), **settings)
    outputs = [export(tmp_path / "adapter", "merged", tmp_path / name) for name in ("a", "b")]
    first, second = (load_file(output / "model.safetensors") for output in outputs)
    assert first["model.embed_tokens.weight"].shape == (70, 32)
    assert all(torch.equal(first[name], second[name]) for name in first)
    written = AutoModelForCausalLM.from_pretrained(outputs[0]).eval()
    torch.testing.assert_close(written(IDS).logits[..., :64], model(IDS).logits, rtol=1e-5, atol=1e-5)


@VARIANTS
@pytest.mark.parametrize("tied", [False, True])
def test_tokens_that_were_added_and_trained_alone(tmp_path, save, variant, tied):
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "trainable_token_indices": [64, 66]}
    base = _llama(tie_word_embeddings=tied)
    model = save(base, _resized(70), variant, tokenizer=_tokenizer(70), **settings)
    _check(tmp_path, model, AutoModelForCausalLM, resize=70, input_ids=torch.arange(52, 70).view(2, 9))


@VARIANTS
@pytest.mark.parametrize("trained", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_tied_embeddings_that_training_parted_stay_apart(tmp_path, save, variant, trained):
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": trained}
    model = save(_llama(tie_word_embeddings=True), AutoModelForCausalLM.from_pretrained, variant, **settings)
    _check(tmp_path, model, AutoModelForCausalLM, input_ids=IDS)
    assert not AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings


def _masked():
    model = BertForMaskedLM(BertConfig(vocab_size=64, **SIZES))
    torch.nn.init.normal_(model.cls.predictions.bias)  # tied with the head's
    return model


BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "pad_token_id": 0}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 64}


@pytest.mark.parametrize(("kind", "trained"), [("bert", "word_embeddings"), ("bart", "lm_head")])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_all_that_is_tied_is_written_apart(tmp_path, save, kind, trained):
    """BERT's bias, BART's embeddings of encoder and decoder. With LoRA they are not in the file of a merged model."""
    torch.manual_seed(0)
    base = _masked() if kind == "bert" else BartForConditionalGeneration(BartConfig(**BART))
    targets = ["query"] if kind == "bert" else ["q_proj"]
    model = save(base, type(base).from_pretrained, "fa", target_modules=targets, modules_to_save=[trained])
    inputs = {"input_ids": IDS} | ({} if kind == "bert" else {"decoder_input_ids": IDS})
    _check(tmp_path, model, type(base), **inputs)


@pytest.mark.parametrize("kind", ["t5", "tokens", "tokens of the head"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_tied_weights_that_cannot_be_merged_apart_are_refused(tmp_path, save, kind):
    """T5's are tied whatever its configuration says, and PEFT merges tokens of tied embeddings into both."""
    settings = {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": [3, 5]}
    if kind == "tokens of the head":
        settings = {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [3, 5]}}
    base, message = _llama(tie_word_embeddings=True), "embeddings are tied.*Export to 'lora'"
    if kind == "t5":
        base = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1))
        settings, message = {"target_modules": ["q"], "modules_to_save": ["lm_head"]}, "keeps as one.*export to 'lora'"
    save(base, type(base).from_pretrained, "fa", **settings)
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "adapter", "merged", tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}
    export(tmp_path / "adapter", "lora", tmp_path / "lora")


@VARIANTS
def test_a_vision_language_model_trained_as_a_language_model(tmp_path, save, variant):
    text = {"num_key_value_heads": 2, "pad_token_id": 0, "vocab_size": 64}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
    tokens = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    config = Qwen2VLConfig(text_config=SIZES | text | {"rope_parameters": rope}, vision_config=vision, **tokens)
    cls = Qwen2VLForConditionalGeneration
    model = save(cls(config), cls.from_pretrained, variant, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    _check(tmp_path, model, cls, input_ids=IDS)


@VARIANTS
def test_a_class_that_no_task_stands_for(tmp_path, save, variant):
    def change(path):
        torch.manual_seed(0)
        return AutoModelForImageClassification.from_pretrained(path, num_labels=3)

    base = ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES))
    model = save(base, change, variant, target_modules=["q_proj"], modules_to_save=["classifier"])
    images = torch.randn(2, 3, 16, 16)
    _check(tmp_path, model, AutoModelForImageClassification, head={"num_labels": 3}, pixel_values=images)


def test_the_base_is_read_at_the_adapters_revision(tmp_path, save):
    save(_llama(), AutoModelForCausalLM.from_pretrained, "fa", task_type="CAUSAL_LM", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "v2"}))
    seen = []

    def record(real):
        def call(*args, revision=None, **settings):
            seen.append(revision)
            return real(*args, **settings)

        return call

    with (
        mock.patch.object(AutoConfig, "from_pretrained", record(AutoConfig.from_pretrained)),
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", record(AutoModelForCausalLM.from_pretrained)),
    ):
        export(tmp_path / "adapter", "merged", tmp_path / "merged")
    assert seen == ["v2", "v2"]


@pytest.mark.parametrize("to", ["lora", "merged"])
@pytest.mark.parametrize("case", ["renamed", "missing", "narrow", "index", "other class"])
def test_an_adapter_that_does_not_fit_by_name_and_shape_is_refused(tmp_path, save, to, case):
    from safetensors.torch import save_file

    save(_llama(), AutoModelForCausalLM.from_pretrained, "fa", task_type="CAUSAL_LM", target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    (weight,) = (name for name in tensors if name.endswith("weight"))
    (index,) = (name for name in tensors if name.endswith("index"))
    if case == "renamed":
        tensors = {name.replace("self_attn", "attention"): tensor for name, tensor in tensors.items()}
    elif case == "missing":
        del tensors[index]
    elif case == "narrow":
        tensors[weight] = tensors[weight][:-1].contiguous()
    elif case == "index":
        tensors[index] = tensors[index] + 32
    else:
        BertModel(BertConfig(vocab_size=64, **SIZES)).save_pretrained(tmp_path / "base")
    save_file(tensors, path)
    with pytest.raises(ValueError, match="does not belong to the base model"):
        export(tmp_path / "adapter", to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@VARIANTS
def test_a_lora_adapter_has_one_rank_and_one_alpha(tmp_path, save, variant):
    """Whoever divides the one alpha by the one rank, or by each matrix's own rank, computes what PEFT does."""
    settings = {
        "rank_pattern": {"up_proj": 2, "v_proj": 8},
        "alpha_pattern": {"q_proj": 5, "^model.layers.0.mlp.up_proj": 3},
    }
    settings |= {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]}
    model = save(_llama(), AutoModelForCausalLM.from_pretrained, variant, **settings)
    export(tmp_path / "adapter", "lora", tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (8, {}, {})
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "sbora_weight")}
    assert len(layers) == 5
    for name, layer in layers.items():
        a, b = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")
        assert a.shape[0] == b.shape[1] == 8
        delta = config["lora_alpha"] / config["r"] * b @ a
        torch.testing.assert_close(delta, layer.get_delta_weight("default"), rtol=1e-6, atol=1e-7)


def test_the_most_common_scaling_keeps_its_bits(tmp_path, save):
    model = save(
        _llama(),
        AutoModelForCausalLM.from_pretrained,
        "fa",
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj"],
        rank_pattern={"v_proj": 8},
    )
    export(tmp_path / "adapter", "lora", tmp_path / "lora")
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for name, layer in model.named_modules():
        if name.endswith(("q_proj", "k_proj")):
            saved = tensors[f"{name}.lora_B.weight"]
            assert torch.equal(saved[:, :4], layer.sbora_weight["default"])
            assert not saved[:, 4:].any()


@VARIANTS
@pytest.mark.parametrize("patterns", [{"v_proj": 4}, {}])
def test_an_alpha_of_zero_exports(tmp_path, save, variant, patterns):
    settings = {"sbora_alpha": 0, "alpha_pattern": patterns, "task_type": "CAUSAL_LM"}
    targets = ["q_proj", "k_proj", "v_proj"]
    model = save(_llama(), AutoModelForCausalLM.from_pretrained, variant, target_modules=targets, **settings)
    lora = export(tmp_path / "adapter", "lora", tmp_path / "lora")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora).eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


@VARIANTS
def test_a_union_of_adapters_of_different_layers(tmp_path, save, variant):
    """Its ranks and scalings differ from layer to layer."""
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], "region": (0, 2)}
    model = save(_llama(), AutoModelForCausalLM.from_pretrained, variant, **settings)
    torch.manual_seed(2)
    other = SboraConfig(variant=variant, r=6, sbora_alpha=3, target_modules=["q_proj", "up_proj"], init_weights=False)
    model.add_adapter("other", other)
    model.add_weighted_adapter(["default", "other"], "both", [1.0, -0.5])
    model.set_adapter("both")
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    (tmp_path / "adapter").rename(tmp_path / "part")
    (tmp_path / "both").rename(tmp_path / "adapter")
    _check(tmp_path, model.eval(), AutoModelForCausalLM, input_ids=IDS)
