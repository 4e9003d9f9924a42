"""Parity with the authors' code, token by token: what a row of the paper's training sets becomes under the two
protocols, for both kinds of tokenizer (protocol sections 2, 4 and 5)."""

from tempfile import TemporaryDirectory

import pytest
import torch

from sbora_bench.files import sha256
from sbora_bench.inputs.data.prompts import render
from sbora_bench.inputs.models.load import load_tokenizer
from sbora_bench.inputs.models.untrained import TOKENIZERS
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.records import BaseRecord, write_record
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.train.encoding import encode
from sbora_bench.train.trainer import build_trainer
from tests.factories import shipped, toy_runs

QUESTION = "Please answer the following question with true or false, question: is there a vase?"
ANSWER = "the correct answer is true"


@pytest.fixture(scope="module", params=TOKENIZERS)
def folder(request, tmp_path_factory):
    """(kind, resources) with the tokenizer of a prepared model `m`."""
    resources = tmp_path_factory.mktemp(request.param)
    model = resources / "models" / "m"
    TOKENIZERS[request.param]().save_pretrained(model)
    files = {path.name: sha256(path) for path in model.iterdir()}
    write_record(model / "base.json", BaseRecord(model="m", source={"kind": "folder"}, files=files))
    return request.param, resources


def loaded(folder, protocol: Protocol):
    return load_tokenizer(folder[1], "m", protocol)


def raw(tokenizer, text: str) -> list[int]:
    """Ids of the text alone, straight from the `tokenizers` library."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def official_row(tokenizer, words: int) -> tuple[str, str]:
    """A prompt of the training template, and an answer that fills the row to `words` tokens with BOS, without EOS."""
    prompt = render("llm-adapters-train", QUESTION)
    answer = ANSWER
    while 1 + len(raw(tokenizer, prompt + answer)) < words:
        answer += " A"
    assert 1 + len(raw(tokenizer, prompt + answer)) == words
    return prompt, answer


@pytest.mark.parametrize("suite", ["commonsense", "arithmetic"])
@pytest.mark.parametrize("words", [200, 255, 256, 300])
def test_official_row_is_bos_text_and_eos_where_there_is_room(folder, suite, words):
    protocol = shipped.protocol("official", suite)
    tokenizer = loaded(folder, protocol)
    prompt, answer = official_row(tokenizer, words)
    row = encode(tokenizer, prompt, answer, protocol)
    text = [tokenizer.bos_token_id, *raw(tokenizer, prompt + answer)]
    expected = [*text, tokenizer.eos_token_id] if words < 256 else text[:256]
    assert row["input_ids"] == expected and len(expected) == min(words + 1, 256)
    assert row["labels"] == expected  # loss on the prompt too


def test_official_row_that_ends_in_eos_gets_no_second(folder):
    protocol = shipped.protocol("official", "commonsense")
    tokenizer = loaded(folder, protocol)
    row = encode(tokenizer, "x ", f"the answer is A{tokenizer.eos_token}", protocol)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1 and row["input_ids"][-1] == tokenizer.eos_token_id


def test_prompt_and_answer_are_tokenised_together_in_training_and_apart_in_scoring(folder):
    """The spaces that end the scoring prompt are, in training, part of the answer's first token."""
    protocol = shipped.protocol("official", "commonsense")
    tokenizer = loaded(folder, protocol)
    trained = encode(tokenizer, render("llm-adapters-train", QUESTION), ANSWER, protocol)["input_ids"]
    scorer = Scorer(toy_runs.model(), tokenizer, 1, 2048)
    scored = scorer.context_ids(render("llm-adapters-score", QUESTION))
    assert scored == [tokenizer.bos_token_id, *raw(tokenizer, render("llm-adapters-score", QUESTION))]
    assert trained[: len(scored)] != scored

    clean = shipped.protocol("clean", "commonsense")
    assert clean.train_prompt == clean.score_prompt
    prompt = render(clean.score_prompt, QUESTION)
    row = encode(tokenizer, prompt, ANSWER, clean)
    prefix = scorer.context_ids(prompt)
    assert row["input_ids"] == [*prefix, *raw(tokenizer, ANSWER), tokenizer.eos_token_id]
    assert row["labels"] == [-100] * len(prefix) + row["input_ids"][len(prefix) :]


def batch_of(tokenizer, protocol, rows):
    """The rows as the Trainer gives them to the model."""
    plain = protocol.model_copy(update={"autocast": None, "optimizer": "adamw_torch", "gradient_checkpointing": False})
    run = Run(Cell("t", "m", "lora", 4), 0)
    with TemporaryDirectory() as output:  # which transformers makes
        trainer = build_trainer(toy_runs.model(), tokenizer, rows, rows, plain, run, output)
    return trainer.data_collator([{key: list(value) for key, value in row.items()} for row in rows])


@pytest.mark.parametrize("suite", ["commonsense", "arithmetic"])
def test_official_batch_is_padded_on_the_left_with_id_0_to_a_multiple_of_8(folder, suite):
    protocol = shipped.protocol("official", suite)
    tokenizer = loaded(folder, protocol)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_ids_to_tokens(0) == {"llama": "<unk>", "llama3": "!"}[folder[0]]
    texts = [("Is it?", " 16! 6! the answer"), ("There were 6 roses in the vase.", " 16 - 6 = 10"), ("A", " B")]
    rows = [encode(tokenizer, *text, protocol) for text in texts]
    batch = batch_of(tokenizer, protocol, rows)
    width = batch["input_ids"].shape[1]
    assert width % 8 == 0 and width - max(len(row["input_ids"]) for row in rows) < 8
    for index, row in enumerate(rows):
        pads = width - len(row["input_ids"])
        assert batch["input_ids"][index].tolist() == [0] * pads + row["input_ids"]
        assert batch["labels"][index].tolist() == [-100] * pads + row["input_ids"]
        assert batch["attention_mask"][index].tolist() == [0] * pads + [1] * len(row["input_ids"])
    if folder[0] == "llama3":  # a real "!" has the pad's id, yet it is seen and learnt
        assert (rows[0]["input_ids"].count(0), int((batch["labels"][0] == 0).sum())) == (2, 2)


@pytest.mark.parametrize("name", ["official", "clean"])
def test_suite_3_row_is_cut_at_384_and_128_and_learns_the_target_alone(folder, name):
    protocol = shipped.protocol(name, "mmlu")
    tokenizer = loaded(folder, protocol)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    short = render("alpaca", "Name a colour.", "red")
    long = render("alpaca", "A (B) " * 400)
    for prompt, answer in ((short, "It is A"), (long, "It is A"), (short, "(C) " * 200), (long, "(C) " * 200)):
        row = encode(tokenizer, prompt, answer, protocol)
        source, target = raw(tokenizer, bos + prompt)[:384], raw(tokenizer, answer + eos)[:128]
        assert row["input_ids"] == source + target
        assert row["labels"] == [-100] * len(source) + target
        assert row["input_ids"][0] == tokenizer.bos_token_id
        assert (row["input_ids"][-1] == tokenizer.eos_token_id) == (answer == "It is A")
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    assert len(source) == 384 and len(target) == 128


def test_suite_3_batch_is_padded_on_the_right_with_a_token_of_its_own(folder):
    protocol = shipped.protocol("official", "mmlu")
    plain, tokenizer = TOKENIZERS[folder[0]](), loaded(folder, protocol)
    assert tokenizer.pad_token == "[PAD]" and tokenizer.pad_token_id == len(plain) == len(tokenizer) - 1
    rows = [
        encode(tokenizer, prompt, answer, protocol) for prompt, answer in (("A", "B"), ("the vase is", "the answer"))
    ]
    batch = batch_of(tokenizer, protocol, rows)
    for index, row in enumerate(rows):
        pads = batch["input_ids"].shape[1] - len(row["input_ids"])
        assert batch["input_ids"][index].tolist() == row["input_ids"] + [len(plain)] * pads
        assert batch["labels"][index].tolist() == row["labels"] + [-100] * pads
        assert batch["attention_mask"][index].tolist() == [1] * len(row["input_ids"]) + [0] * pads
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != len(plain)).long())  # authors' mask


def test_pad_id_0_changes_no_token_of_a_text(folder):
    text = "Wow! 16 - 6 = 10! the answer is (A)!"
    plain = TOKENIZERS[folder[0]]()
    assert loaded(folder, shipped.protocol("official", "commonsense"))(text)["input_ids"] == plain(text)["input_ids"]


def test_clean_pads_with_a_token_that_no_text_holds_or_masks_it(folder):
    """Neither tokenizer has a pad token of its own: EOS stands in, masked, and the answer's EOS is still learnt."""
    protocol = shipped.protocol("clean", "commonsense")
    tokenizer = loaded(folder, protocol)
    rows = [encode(tokenizer, "A", "B", protocol), encode(tokenizer, "the vase is", "the answer", protocol)]
    batch = batch_of(tokenizer, protocol, rows)
    for index, row in enumerate(rows):
        learnt = batch["labels"][index][batch["labels"][index] >= 0].tolist()
        assert learnt == [label for label in row["labels"] if label >= 0]
        assert learnt[-1] == tokenizer.eos_token_id
        assert int(batch["attention_mask"][index].sum()) == len(row["input_ids"])
