"""Token ids and labels of the three modes: what is counted in the loss, where EOS stands, what is cut."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sbora_bench.errors import UserError
from sbora_bench.files import write_jsonl
from sbora_bench.train.encoding import IGNORED, encode, encode_rows
from tests.factories import toy_runs

PROMPT, RESPONSE = "Question cat is red the answer is", "red blue"


def llama_like() -> PreTrainedTokenizerFast:
    """Sub-words that join across a space, BOS before and EOS after every text, as some LLaMA tokenizers are set up."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "▁a", "▁ab", "bc", "▁abc"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁a", "b"), ("b", "c"), ("▁ab", "c")]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def words(tokenizer, ids) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_loss_on_the_answer_masks_the_prompt_and_ends_with_eos():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol())
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue", "</s>"]
    assert row["labels"][:8] == [IGNORED] * 8
    assert words(tokenizer, row["labels"][8:]) == ["red", "blue", "</s>"]


def test_loss_on_all_masks_nothing():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT + " ", RESPONSE, toy_runs.protocol(loss_on="all"))
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue", "</s>"]
    assert row["labels"] == row["input_ids"] and row["labels"] is not row["input_ids"]


@pytest.mark.parametrize("tokens", [8, 9, 10])
def test_loss_on_all_leaves_eos_out_where_there_is_no_room(tokens):
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT + " ", RESPONSE, toy_runs.protocol(loss_on="all", max_length=tokens))
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue"][:tokens]


@pytest.mark.parametrize(("tokens", "left"), [(11, 3), (10, 2), (9, 1), (8, 0)])
def test_loss_on_the_answer_is_cut_on_the_right(tokens, left):
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol(max_length=tokens))
    assert len(row["input_ids"]) == len(row["labels"]) == tokens
    assert sum(label != IGNORED for label in row["labels"]) == left
    assert words(tokenizer, row["labels"][8:]) == ["red", "blue", "</s>"][:left]


def test_prompt_and_answer_are_cut_apart():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol(source_length=3, target_length=2))
    assert words(tokenizer, row["input_ids"]) == ["<s>", "Question", "cat", "red", "blue"]
    assert row["labels"][:3] == [IGNORED] * 3 and words(tokenizer, row["labels"][3:]) == ["red", "blue"]
    longer = encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol(source_length=30, target_length=30))
    assert longer == encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol())
    both = encode(tokenizer, PROMPT, RESPONSE, toy_runs.protocol(source_length=3, target_length=3, loss_on="all"))
    assert both["labels"] == both["input_ids"]


def test_a_llama_like_tokenizer_adds_nothing_twice():
    tokenizer = llama_like()
    assert words(tokenizer, tokenizer("abc")["input_ids"]) == ["<s>", "▁abc", "</s>"]
    answer = encode(tokenizer, "ab", "abc", toy_runs.protocol())
    assert words(tokenizer, answer["input_ids"]) == ["<s>", "▁ab", "▁abc", "</s>"]
    assert answer["labels"][:2] == [IGNORED] * 2
    both = encode(tokenizer, "ab", " abc", toy_runs.protocol(loss_on="all"))
    assert words(tokenizer, both["input_ids"]) == ["<s>", "▁ab", "▁abc", "</s>"]
    apart = encode(tokenizer, "ab", "abc", toy_runs.protocol(source_length=9, target_length=9))
    assert words(tokenizer, apart["input_ids"])[-2:] == ["▁abc", "</s>"]
    assert words(tokenizer, apart["input_ids"])[0] == "<s>"


def test_on_the_answer_the_prompt_has_the_tokens_of_scoring():
    tokenizer = llama_like()
    joined = encode(tokenizer, "ab", "c", toy_runs.protocol(loss_on="all"))
    assert words(tokenizer, joined["input_ids"]) == ["<s>", "▁abc", "</s>"]  # prompt and response grow together
    apart = encode(tokenizer, "ab", "c", toy_runs.protocol())
    assert apart["input_ids"][:2] == tokenizer("ab")["input_ids"][:-1]


def test_an_empty_response_is_eos_alone():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, "cat", "", toy_runs.protocol())
    assert words(tokenizer, row["input_ids"]) == ["<s>", "cat", "</s>"] and row["labels"][:2] == [IGNORED] * 2


@pytest.fixture
def training_set(tmp_path):
    """Three rows; with a BOS and an EOS the second has 10 tokens, the others 4."""
    long = {"prompt": PROMPT, "response": "red"}
    write_jsonl(
        tmp_path / "train.jsonl", [{"prompt": "cat", "response": "red"}, long, {"prompt": "dog", "response": "2"}]
    )
    return tmp_path / "train.jsonl"


@pytest.mark.parametrize(("too_long", "rows", "cut", "dropped"), [("cut", 3, 1, 0), ("drop", 2, 0, 1)])
def test_rows_that_are_too_long_are_counted(training_set, too_long, rows, cut, dropped):
    kept, count = encode_rows(toy_runs.tokenizer(), training_set, toy_runs.protocol(max_length=9, too_long=too_long))
    assert (len(kept), count.rows, count.cut, count.dropped) == (rows, 1, cut, dropped)
    assert max(len(row["input_ids"]) for row in kept) <= 9


def test_a_row_cut_before_its_answer_is_left_out_and_counted(training_set):
    kept, count = encode_rows(toy_runs.tokenizer(), training_set, toy_runs.protocol(max_length=8))
    assert (len(kept), count.rows, count.cut, count.dropped) == (2, 1, 0, 1)


def test_rows_that_fit_are_no_cause_for_a_count(training_set):
    _, count = encode_rows(toy_runs.tokenizer(), training_set, toy_runs.protocol(max_length=10, too_long="fail"))
    assert count.rows == 0


def test_a_protocol_may_refuse_rows_that_are_too_long(training_set):
    with pytest.raises(UserError, match="1 of 3 training rows have more tokens than max_length 9"):
        encode_rows(toy_runs.tokenizer(), training_set, toy_runs.protocol(max_length=9, too_long="fail"))


@pytest.mark.parametrize("rows", [[], [{"prompt": PROMPT, "response": "red"}]])
def test_a_training_set_without_a_row_to_train_on_is_refused(training_set, rows):
    write_jsonl(training_set, rows)
    with pytest.raises(UserError, match=f"no row to train on: {len(rows)} rows"):
        encode_rows(toy_runs.tokenizer(), training_set, toy_runs.protocol(max_length=8))
