"""`prepare` for a model: local folders, the hub's refusals, and a GGUF file in a wheel."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    BertConfig,
    CpmAntConfig,
    GPTNeoXConfig,
    PreTrainedTokenizerFast,
    XLMConfig,
    XLNetConfig,
)

from sbora_bench.errors import UserError
from sbora_bench.files import sha256
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.models import sources
from sbora_bench.inputs.models import wheel as package
from sbora_bench.inputs.models.load import load_base, load_tokenizer
from sbora_bench.inputs.models.weights import hashes, link, refuse_not_causal
from sbora_bench.inputs.prepare import prepare_model
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.results.records import BaseRecord, read_record, write_record
from tests.factories import shipped
from tests.factories.toy_files import SIZES, WORDS, gguf_file, toy

FOLDER = {"kind": "folder", "path": "weights"}
WHEEL = {"kind": "wheel", "package": "toy-model", "version": "0.1", "sha256": "0" * 64, "member": "toy_model/toy.gguf"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Downloads land in a temporary folder, and nothing is asked of the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def catalog(source: dict, **architecture) -> Catalog:
    entry = {"title": "Toy", "source": source, "architecture": SIZES | architecture}
    return Catalog.model_validate({"models": {"toy-1": entry}})


@pytest.fixture
def weights(tmp_path):
    """A local folder with a model and its tokenizer."""
    folder = tmp_path / "weights"
    toy().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<1>", eos_token="<2>").save_pretrained(folder)
    return folder


def refused_by_both(weights: Path, folder: Path, message: str) -> None:
    """By `prepare`, and by training and scoring, of a folder that was prepared before or changed since."""
    with pytest.raises(UserError, match=f"weights: {message}"):
        prepare_model(catalog(FOLDER), "toy-1", folder / "out")
    assert not list(folder.glob("*out*"))
    output = folder / "resources" / "models" / "toy-1"
    output.mkdir(parents=True)
    link(weights, output)
    write_record(output / "base.json", BaseRecord(model="toy-1", source=FOLDER, files=hashes(output)))
    with pytest.raises(UserError, match=f"toy-1: {message}"):
        load_base(folder / "resources", "toy-1", protocol(), None)


def protocol():
    own = {"steps": 1, "epochs": None, "batch_size": 1, "micro_batch": 1, "validation_every": 1}
    return shipped.protocol("official", "arithmetic", **own, weights_dtype="float32", pad="own")


def test_a_folder_is_linked_hashed_and_loads(weights, tmp_path):
    output = tmp_path / "resources" / "models" / "toy-1"
    prepare_model(catalog(FOLDER), "toy-1", output)
    record = read_record(output / "base.json", BaseRecord)
    assert record.source == FOLDER
    assert record.files["model.safetensors"] == sha256(weights / "model.safetensors")
    assert set(record.files) == {p.name for p in output.iterdir()} - {"base.json"}
    loaded = load_base(tmp_path / "resources", "toy-1", protocol(), None)
    assert torch.equal(loaded.lm_head.weight, toy().lm_head.weight)
    assert load_tokenizer(tmp_path / "resources", "toy-1", protocol()).pad_token_id == 2


def test_a_folder_may_take_the_place_of_the_hub(weights, tmp_path, monkeypatch):
    assert sources.variable("llama3-8b") == "SBORA_MODEL_LLAMA3_8B"
    monkeypatch.setenv("SBORA_MODEL_TOY_1", str(weights))
    prepare_model(catalog({"kind": "hub", "id": "nobody/nothing"}), "toy-1", tmp_path / "out")
    assert read_record(tmp_path / "out" / "base.json", BaseRecord).source["path"] == str(weights)


def broken(folder, how: str) -> None:
    if how == "no folder":
        shutil.rmtree(folder)
    elif how == "no weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "no shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how == "no index":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": ["model.safetensors"]}')
    elif how in ("half a file", "no file of weights"):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100] if how == "half a file" else b"<!DOCTYPE html>" * 9)
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "no config":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", "no config.json here"),
        ("no weights", "model.safetensors is missing"),
        ("no shard", "model-00001-of-00002.safetensors is missing"),
        ("no index", "index.json: weight_map: missing, allowed a mapping of tensors to files"),
        ("half a file", "model.safetensors: not a whole safetensors file .*not fully covered.; fetch it again"),
        ("no file of weights", "model.safetensors: not a whole safetensors file .*header too large"),
        ("no tokenizer", "neither tokenizer.json nor tokenizer.model"),
        ("no config", "config.json"),
    ],
)
def test_an_incomplete_folder_is_told_and_nothing_written(weights, tmp_path, how, message):
    broken(weights, how)
    with pytest.raises(UserError, match=message):
        prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("key", "value", "actual"),
    [("num_hidden_layers", 3, "2"), ("rope_parameters", {"rope_theta": 5e5}, "100000.0"), ("bos_token_id", 0, "1")],
)
def test_another_architecture_is_told(weights, tmp_path, key, value, actual):
    with pytest.raises(UserError, match=f"config.json: {key}: found .*{actual}.*the catalog says"):
        prepare_model(catalog(FOLDER, **{key: value}), "toy-1", tmp_path / "out")


def test_an_adapter_beside_the_weights_is_refused(weights, tmp_path):
    """transformers puts it on the model without a word."""
    (weights / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="adapter_config.json is here too.*move the adapter out"):
        prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_weights_of_another_shape_than_the_config_says_are_refused(weights, tmp_path):
    tensors, name = load_file(weights / "model.safetensors"), "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: torch.zeros(3, 3)}, weights / "model.safetensors", {"format": "pt"})
    refused_by_both(weights, tmp_path, f"its files lack {name} in the shape that its config says, which would be")


def test_weights_that_are_packed_already_are_refused(weights, tmp_path):
    """A method's title and its footprint would be those of whole ones."""
    config = json.loads((weights / "config.json").read_text())
    packed = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (weights / "config.json").write_text(json.dumps(packed))
    with pytest.raises(UserError, match="config.json: quantization_config: found bitsandbytes, allowed are weights as"):
        prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")


def test_an_encoder_is_refused(weights, tmp_path):
    """Its tokens see the answer that follows them."""
    config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.save_pretrained(weights)
    encoder = Catalog.model_validate({"models": {"toy-1": {"title": "Toy", "source": FOLDER}}})
    with pytest.raises(UserError, match="bert is an encoder, whose tokens see those that follow"):
        prepare_model(encoder, "toy-1", tmp_path / "out")
    config.is_decoder = True
    refuse_not_causal(config, "config.json")
    refuse_not_causal(GPTNeoXConfig(), "config.json")


@pytest.mark.parametrize("config", [XLMConfig(), XLMConfig(causal=True), XLNetConfig(), CpmAntConfig()])
def test_a_model_that_does_not_predict_the_next_token_is_refused(config):
    """Its loss is of the token that it reads, also where tokens see those before alone."""
    with pytest.raises(UserError, match=f"config.json: {config.model_type} does not predict the next token"):
        refuse_not_causal(config, "config.json")


@pytest.mark.parametrize("lacks", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_without_one_of_the_model_s_tensors_are_refused(weights, tmp_path, lacks):
    """transformers draws what is missing."""
    tensors = load_file(weights / "model.safetensors")
    del tensors[lacks]
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    refused_by_both(weights, tmp_path, f"its files lack {lacks}, which would be random")


@pytest.mark.parametrize(
    "left_over", ["model.layers.2.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.bias", "lm_head.bias"]
)
def test_weights_for_which_the_config_has_no_place_are_refused(weights, tmp_path, left_over):
    """transformers passes over them: the model would be another than was trained."""
    tensors = load_file(weights / "model.safetensors") | {left_over: torch.zeros(32)}
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    refused_by_both(weights, tmp_path, f"its files hold {left_over}, for which its config.json has no place")


def test_the_layers_of_a_file_without_a_head_are_known(weights, tmp_path):
    """Its tensors have no `model.` before them."""
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(weights / "model.safetensors").items()}
    one_more = {name.replace("s.1.", "s.2."): tensor.clone() for name, tensor in tensors.items() if "layers.1." in name}
    save_file(tensors | one_more, weights / "model.safetensors", {"format": "pt"})
    refused_by_both(weights, tmp_path, "its files hold layers.2.input_layernorm.weight, .* and 6 more, for which")


def test_what_belongs_to_no_layer_is_passed_over(weights, tmp_path):
    """A value head, say, or the frequencies and masks that older checkpoints hold."""
    others = {name: torch.zeros(4) for name in ("v_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")}
    save_file(load_file(weights / "model.safetensors") | others, weights / "model.safetensors", {"format": "pt"})
    prepare_model(catalog(FOLDER), "toy-1", tmp_path / "resources" / "models" / "toy-1")
    loaded = load_base(tmp_path / "resources", "toy-1", protocol(), None)
    assert torch.equal(loaded.lm_head.weight, toy().lm_head.weight)


def test_a_tokenizer_that_does_not_end_answers_is_refused(weights, tmp_path):
    settings = json.loads((weights / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (weights / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="weights: its tokenizer names no EOS, the token that ends every answer"):
        prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")


def test_a_tokenizer_of_another_model_is_refused(weights, tmp_path):
    """Its further tokens would get the mean of the embeddings; a few added ones may lack a row, as Gemma 3's do."""

    def with_words(count: int, added: list[str]) -> None:
        words = {f"w{i}": i for i in range(count)}
        made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1"
        )
        made.add_tokens(added)
        made.save_pretrained(weights)

    with_words(300, ["image"])
    prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")
    with_words(301, [])
    with pytest.raises(
        UserError, match="its tokenizer has 301 tokens and its embeddings have 300 rows; give the token"
    ):
        prepare_model(catalog(FOLDER), "toy-1", tmp_path / "out")


def test_a_model_of_the_ladder_is_trained_not_fetched(tmp_path):
    with pytest.raises(UserError, match="run `sbora-bench pretrain toy-1"):
        prepare_model(catalog({"kind": "pretrain", "recipe": {}}), "toy-1", tmp_path / "out")


def test_an_unknown_model_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown model 'toy-2', did you mean 'toy-1'"):
        prepare_model(catalog(FOLDER), "toy-2", tmp_path / "out")


def test_a_hub_model_stays_in_the_hubs_cache(weights, tmp_path, monkeypatch):
    commit = tmp_path / ("c" * 40)
    weights.rename(commit)
    arguments = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda id, **more: arguments.update(more, id=id) or str(commit)
    )
    prepare_model(catalog({"kind": "hub", "id": "who/toy", "revision": "refs/pr/3"}), "toy-1", tmp_path / "out")
    record = read_record(tmp_path / "out" / "base.json", BaseRecord)
    assert (record.source["id"], record.source["revision"], record.files) == ("who/toy", "c" * 40, {})
    assert arguments["id"] == "who/toy" and arguments["revision"] == "refs/pr/3" and arguments["local_files_only"]
    assert not any("bin" in pattern or pattern == "*" for pattern in arguments["allow_patterns"])


def test_a_gated_model_says_what_to_accept_and_no_token(tmp_path, monkeypatch):
    import httpx2
    from huggingface_hub.errors import GatedRepoError

    def refuse(id, **_):
        request = httpx2.Request("GET", "https://huggingface.co/x", headers={"authorization": "Bearer hf_secret"})
        raise GatedRepoError("403 hf_secret", response=httpx2.Response(403, request=request))

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    gated = {"kind": "hub", "id": "who/toy", "gated": True}
    with pytest.raises(UserError, match="https://huggingface.co/who/toy is gated: accept its licence there") as raised:
        prepare_model(catalog(gated), "toy-1", tmp_path / "out")
    assert "SBORA_MODEL_TOY_1" in str(raised.value) and "hf_secret" not in str(raised.value)


def test_a_hub_that_cannot_be_reached_is_named(tmp_path):
    nowhere = {"kind": "hub", "id": "nobody/nothing", "revision": "a" * 40}
    with pytest.raises(Unreachable, match="huggingface.co/nobody/nothing/tree/aa.* SBORA_MODEL_TOY_1"):
        prepare_model(catalog(nowhere), "toy-1", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.fixture
def wheel(tmp_path):
    """The catalog entry of a wheel that lies in the downloads folder."""
    gguf_file(tmp_path / "toy.gguf")
    package.DOWNLOADS.mkdir(parents=True)
    path = package.DOWNLOADS / "toy_model-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "toy.gguf", WHEEL["member"])
    return WHEEL | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_wheel_gives_the_very_weights_unquantised(wheel, tmp_path):
    output = tmp_path / "resources" / "models" / "toy-1"
    prepare_model(catalog(wheel), "toy-1", output)
    config = json.loads((output / "config.json").read_text())
    assert "quantization_config" not in config and config["rms_norm_eps"] == 1e-5 and config["pad_token_id"] == 2
    record = read_record(output / "base.json", BaseRecord)
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(record.files)
    assert record.summary["parameters"] == sum(p.numel() for p in toy().parameters())
    loaded = load_base(tmp_path / "resources", "toy-1", protocol(), None)
    for name, tensor in toy().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert sorted(p.name for p in package.DOWNLOADS.iterdir()) == ["toy_model-0.1-py3-none-any.whl"]


def test_a_wheel_gives_the_same_bytes_twice(wheel, tmp_path):
    for name in ("one", "two"):
        prepare_model(catalog(wheel), "toy-1", tmp_path / name)
    assert (tmp_path / "one" / "base.json").read_bytes() == (tmp_path / "two" / "base.json").read_bytes()


def test_spaces_before_a_digit_stay_together(wheel, tmp_path):
    """As the model was trained: digits are split off first, then GPT-2's rule applies."""
    prepare_model(catalog(wheel), "toy-1", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a   12")]
    assert pieces == ["a", "ĠĠĠ", "1", "2"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_another_wheel_is_told_with_both_checksums(wheel, tmp_path):
    with pytest.raises(UserError, match=f"SHA-256 {wheel['sha256']}, expected {'0' * 64}"):
        prepare_model(catalog(WHEEL), "toy-1", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_wheel_without_the_member_is_told(wheel, tmp_path):
    with pytest.raises(UserError, match="no member toy_model/other.gguf"):
        prepare_model(catalog(wheel | {"member": "toy_model/other.gguf"}), "toy-1", tmp_path / "out")


@pytest.mark.parametrize("member", ["../../../escaped.gguf", "/escaped.gguf", "toy_model/../../../escaped.gguf"])
def test_an_archive_is_never_unpacked_outside_its_folder(tmp_path, member):
    gguf_file(tmp_path / "toy.gguf")
    package.DOWNLOADS.mkdir(parents=True)
    path = package.DOWNLOADS / "toy_model-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), (tmp_path / "toy.gguf").read_bytes())
    (tmp_path / "toy.gguf").unlink()
    entry = WHEEL | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "member": member}
    prepare_model(catalog(entry), "toy-1", tmp_path / "out")
    assert not list(tmp_path.rglob("*.gguf")) and not Path("/escaped.gguf").exists()


def test_a_wheel_that_cannot_be_had_names_address_and_place(tmp_path, monkeypatch):
    where = r"pypi.org/project/toy-model/0.1/\) is not fetched \(HF_HUB_OFFLINE is set\)"
    how = "pip download .* toy-model==0.1 --dest resources/downloads"
    with pytest.raises(Unreachable, match=f"{where}.*{how}"):
        prepare_model(catalog(WHEEL), "toy-1", tmp_path / "out")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Unreachable, match="can't be obtained from the package index"):
        prepare_model(catalog(WHEEL), "toy-1", tmp_path / "out")
    assert list(package.DOWNLOADS.iterdir()) == []


def test_a_download_of_other_bytes_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    with zipfile.ZipFile(tmp_path / "index" / "toy_model-0.1-py3-none-any.whl", "w") as archive:
        archive.writestr("toy_model-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 0.1\n")
        archive.writestr("toy_model-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(UserError, match="expected 0{64}; nothing was kept"):
        prepare_model(catalog(WHEEL), "toy-1", tmp_path / "out")
    assert list(package.DOWNLOADS.iterdir()) == []


def test_a_folder_is_known_by_what_its_files_hold(tmp_path, monkeypatch):
    entry = ModelEntry(title="M", source={"kind": "folder", "path": str(tmp_path / "m")})
    other = ModelEntry(title="M", source={"kind": "hub", "id": "who/m"})
    missing = sources.source_of("m", entry).content()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    first = sources.source_of("m", entry).content()
    (tmp_path / "m" / "notes.txt").write_text("not a part of the model")
    assert sources.source_of("m", entry).content() == first != missing
    (tmp_path / "m" / "config.json").write_text("[]")
    second = sources.source_of("m", entry).content()
    assert second != first and sources.source_of("m", other).content() == ""
    monkeypatch.setenv("SBORA_MODEL_M", str(tmp_path / "m"))
    assert sources.source_of("m", other).content() == second
