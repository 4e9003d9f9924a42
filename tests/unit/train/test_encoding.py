"""Token ids and labels of the three modes: what is counted in the loss, where EOS stands, what is cut."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sbora_bench.plan.catalog import Protocol
from sbora_bench.train.encoding import IGNORED, encode
from tests import toy_runs

PROMPT, RESPONSE = "Question cat is red the answer is", "red blue"


def protocol(**changes) -> Protocol:
    return Protocol.model_validate(toy_runs.PROTOCOL | changes)


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
    row = encode(tokenizer, PROMPT, RESPONSE, protocol())
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue", "</s>"]
    assert row["labels"][:8] == [IGNORED] * 8
    assert words(tokenizer, row["labels"][8:]) == ["red", "blue", "</s>"]


def test_loss_on_all_masks_nothing():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT + " ", RESPONSE, protocol(loss_on="all"))
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue", "</s>"]
    assert row["labels"] == row["input_ids"] and row["labels"] is not row["input_ids"]


@pytest.mark.parametrize("tokens", [8, 9, 10])
def test_loss_on_all_leaves_eos_out_where_there_is_no_room(tokens):
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT + " ", RESPONSE, protocol(loss_on="all", max_length=tokens))
    assert words(tokenizer, row["input_ids"]) == ["<s>", *PROMPT.split(), "red", "blue"][:tokens]


@pytest.mark.parametrize(("tokens", "left"), [(11, 3), (10, 2), (9, 1), (8, 0)])
def test_loss_on_the_answer_is_cut_on_the_right(tokens, left):
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT, RESPONSE, protocol(max_length=tokens))
    assert len(row["input_ids"]) == len(row["labels"]) == tokens
    assert sum(label != IGNORED for label in row["labels"]) == left
    assert words(tokenizer, row["labels"][8:]) == ["red", "blue", "</s>"][:left]


def test_prompt_and_answer_are_cut_apart():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, PROMPT, RESPONSE, protocol(source_length=3, target_length=2))
    assert words(tokenizer, row["input_ids"]) == ["<s>", "Question", "cat", "red", "blue"]
    assert row["labels"][:3] == [IGNORED] * 3 and words(tokenizer, row["labels"][3:]) == ["red", "blue"]
    longer = encode(tokenizer, PROMPT, RESPONSE, protocol(source_length=30, target_length=30))
    assert longer == encode(tokenizer, PROMPT, RESPONSE, protocol())
    both = encode(tokenizer, PROMPT, RESPONSE, protocol(source_length=3, target_length=3, loss_on="all"))
    assert both["labels"] == both["input_ids"]


def test_a_llama_like_tokenizer_adds_nothing_twice():
    tokenizer = llama_like()
    assert words(tokenizer, tokenizer("abc")["input_ids"]) == ["<s>", "▁abc", "</s>"]
    answer = encode(tokenizer, "ab", "abc", protocol())
    assert words(tokenizer, answer["input_ids"]) == ["<s>", "▁ab", "▁abc", "</s>"]
    assert answer["labels"][:2] == [IGNORED] * 2
    both = encode(tokenizer, "ab", " abc", protocol(loss_on="all"))
    assert words(tokenizer, both["input_ids"]) == ["<s>", "▁ab", "▁abc", "</s>"]
    apart = encode(tokenizer, "ab", "abc", protocol(source_length=9, target_length=9))
    assert words(tokenizer, apart["input_ids"])[-2:] == ["▁abc", "</s>"]
    assert words(tokenizer, apart["input_ids"])[0] == "<s>"


def test_on_the_answer_the_prompt_has_the_tokens_of_scoring():
    tokenizer = llama_like()
    joined = encode(tokenizer, "ab", "c", protocol(loss_on="all"))
    assert words(tokenizer, joined["input_ids"]) == ["<s>", "▁abc", "</s>"]  # prompt and response grow together
    apart = encode(tokenizer, "ab", "c", protocol())
    assert apart["input_ids"][:2] == tokenizer("ab")["input_ids"][:-1]


def test_an_empty_response_is_eos_alone():
    tokenizer = toy_runs.tokenizer()
    row = encode(tokenizer, "cat", "", protocol())
    assert words(tokenizer, row["input_ids"]) == ["<s>", "cat", "</s>"] and row["labels"][:2] == [IGNORED] * 2
