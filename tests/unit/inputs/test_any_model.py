"""Models by nothing but a name: a GGUF file, and tokenizers of vocab.json and merges.txt alone."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, PreTrainedTokenizerFast

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, read_json, sha256, write_json
from sbora_bench.hub import MODEL_FILES
from sbora_bench.inputs.models import gguf_file as reader
from sbora_bench.inputs.models.config import read_config
from sbora_bench.inputs.models.load import load_base, load_tokenizer
from sbora_bench.inputs.models.sources import named_source, source_of
from sbora_bench.inputs.models.tokenizer import read_tokenizer
from sbora_bench.inputs.prepare import prepare_model
from sbora_bench.inputs.token_counts import tokenizer_of
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.model_entry import HubSource
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.records import BaseRecord, read_record
from sbora_bench.train.encoding import encode
from tests.factories import toy_runs
from tests.factories.toy_files import gguf_file, toy

TEXTS = ["the cat is red", "two dogs, 12 houses", "naïve – ok?"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def catalog_of(source: dict) -> Catalog:
    return Catalog.model_validate({"models": {"own": {"title": "Own", "source": source}}})


def write_gpt2(folder: Path) -> None:
    """A tiny GPT-2 whose tokenizer is vocab.json and merges.txt."""
    folder.mkdir()
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(TEXTS * 9, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    made.save_model(str(folder))
    torch.manual_seed(0)
    size = made.get_vocab_size()
    GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=32)).save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} >= {"vocab.json", "merges.txt"}
    assert not (folder / "tokenizer.json").exists() and not (folder / "tokenizer_config.json").exists()


def test_a_tokenizer_of_vocabulary_and_merges_trains_and_counts():
    write_gpt2(Path("gpt2"))
    catalog = catalog_of({"kind": "folder", "path": "gpt2"})
    prepare_model(catalog, "own", Path("resources/models/own"))
    protocol = toy_runs.protocol()
    loaded = load_tokenizer(Path("resources"), "own", protocol)
    expected = GPT2Tokenizer(vocab="gpt2/vocab.json", merges="gpt2/merges.txt")
    counted = tokenizer_of("own", catalog.models["own"])
    for text in TEXTS:
        ids = loaded(text)["input_ids"]
        assert ids == expected(text)["input_ids"] and loaded.decode(ids) == text and len(ids) < len(text.encode())
        assert counted.lengths([text]) == [len(ids)]
    made = encode(loaded, TEXTS[0], " dogs", protocol)
    assert made["labels"][-1] == loaded.eos_token_id == loaded.pad_token_id == 0
    model = load_base(Path("resources"), "own", protocol, None, loaded)
    assert torch.isfinite(model(torch.tensor([made["input_ids"]])).logits).all()


WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 3 + i for i, word in enumerate(" ".join(TEXTS).split())}


def write_words(folder: Path, tokenizer_class: str, model_type: str) -> None:
    """A model's config beside a word-level tokenizer.json."""
    made = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": tokenizer_class})
    write_json(folder / "config.json", {"model_type": model_type})


# transformers 5.23 reads the first three otherwise than their files say; the last as they say
@pytest.mark.parametrize(
    ("tokenizer_class", "model_type", "differs"),
    [
        ("TokenizersBackend", "qwen2", True),
        ("LlamaTokenizerFast", "llama", True),
        ("GPT2Tokenizer", "gpt2", True),
        ("PreTrainedTokenizerFast", "llama", False),
    ],
)
def test_tokenizer_json_counts_whatever_class_is_picked(capsys, tokenizer_class, model_type, differs):
    write_words(Path("words"), tokenizer_class, model_type)
    loaded = read_tokenizer("words", padding_side="left")
    for text in TEXTS:
        assert loaded(text, add_special_tokens=False)["input_ids"] == [WORDS[word] for word in text.split()]
    assert (loaded.eos_token_id, loaded.padding_side) == (2, "left")
    assert ("tokenizer.json is used" in capsys.readouterr().err) == differs


def test_the_hub_s_files_of_such_a_tokenizer_are_fetched():
    assert {"merges.txt", "vocab.txt", "chat_template.jinja", "*.json", "*.safetensors"} <= set(MODEL_FILES)


@pytest.mark.parametrize("by", ["entry", "variable"])
def test_a_gguf_file_by_its_name(monkeypatch, by):
    gguf_file(Path("toy.gguf"))
    catalog = catalog_of({"kind": "gguf", "path": "toy.gguf"} if by == "entry" else {"kind": "folder", "path": "no"})
    if by == "variable":
        monkeypatch.setenv("SBORA_MODEL_OWN", "toy.gguf")
    prepare_model(catalog, "own", Path("resources/models/own"))
    loaded = load_base(Path("resources"), "own", toy_runs.protocol(), None)
    for name, tensor in toy().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    record = read_record(Path("resources/models/own/base.json"), BaseRecord)
    source = source_of("own", catalog.models["own"])
    before = source.content()
    assert record.source["kind"] == "gguf" and source.made(record)
    with open("toy.gguf", "ab") as file:
        file.write(b"\0")
    assert not source.made(record) and source.content() != before


@pytest.fixture
def of_hub(monkeypatch):
    """A hub with one repository of two GGUF files; what is asked of it."""
    asked, commit = [], Path("hub") / ("c" * 40)
    (commit / "q4").mkdir(parents=True)

    def download(id, *, revision, allow_patterns, **_):
        asked.append((id, revision, allow_patterns))
        if allow_patterns == ["q4/toy.gguf"] and not (commit / "q4" / "toy.gguf").exists():
            gguf_file(commit / "q4" / "toy.gguf")
        return str(commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_a_gguf_file_of_the_hub_is_fetched_alone_and_hashed(of_hub):
    catalog = catalog_of({"kind": "hub", "id": "who/toy", "revision": "main", "gguf_file": "q4/toy.gguf"})
    source = source_of("own", catalog.models["own"])
    assert source.values()["hidden_size"] == toy().config.hidden_size  # before it is prepared
    prepare_model(catalog, "own", Path("resources/models/own"))
    assert set(map(str, of_hub)) == {"('who/toy', 'main', ['q4/toy.gguf'])"}
    loaded = load_base(Path("resources"), "own", Protocol(**toy_runs.PROTOCOL), None)
    for name, tensor in toy().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    record = read_record(Path("resources/models/own/base.json"), BaseRecord)
    assert record.source["revision"] == "c" * 40 and source.made(record)
    assert record.source["sha256"] == sha256(Path("hub") / ("c" * 40) / "q4" / "toy.gguf")
    other = catalog_of({"kind": "hub", "id": "who/toy", "gguf_file": "q8.gguf"})
    assert not source_of("own", other.models["own"]).made(record)
    assert not source_of("own", catalog_of({"kind": "hub", "id": "who/toy"}).models["own"]).made(record)


def test_a_gguf_file_that_the_repository_has_not_is_one_line(of_hub):
    catalog = catalog_of({"kind": "hub", "id": "who/toy", "gguf_file": "toy.gguf"})
    with pytest.raises(UserError, match="gguf_file: who/toy has no toy.gguf at revision main; correct it"):
        prepare_model(catalog, "own", Path("out"))
    with pytest.raises(ValidationError, match="gguf_file"):
        catalog_of({"kind": "hub", "id": "who/toy", "gguf_file": "../toy.gguf"})


def test_a_gguf_file_of_the_hub_by_its_address(of_hub):
    """And its absence changes no settings of the models that there were."""
    source = named_source(Catalog(), "who/toy/q4/toy.gguf")
    assert source.values()["hidden_size"] == toy().config.hidden_size
    assert "gguf_file" not in HubSource(kind="hub", id="who/toy").model_dump()


def test_a_gguf_file_is_counted_without_being_prepared():
    gguf_file(Path("toy.gguf"))
    config = read_config(Catalog(), "toy.gguf")
    assert (config.hidden_size, config.num_hidden_layers) == (toy().config.hidden_size, toy().config.num_hidden_layers)
    assert hash_of(named_source(Catalog(), "toy.gguf").values())  # JSON


def test_what_cannot_be_read_is_one_line(monkeypatch):
    catalog = catalog_of({"kind": "gguf", "path": "toy.gguf"})
    for write, expected in (
        (lambda: None, "toy.gguf: no such file"),
        (lambda: Path("toy.gguf").write_bytes(json.dumps({}).encode()), "transformers can't read this GGUF file"),
        (lambda: monkeypatch.setattr(reader, "find_spec", lambda name: None), "package gguf, which is not installed"),
    ):
        write()
        with pytest.raises(UserError, match=expected):
            prepare_model(catalog, "own", Path("out"))
        assert not Path("out").exists()
