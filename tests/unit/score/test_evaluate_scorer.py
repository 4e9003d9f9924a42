"""Decoding: batches with cache give the tokens of batch 1 without, and letters are read off the right logits."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from sbora_bench.errors import UserError
from sbora_bench.score.lm_eval_model import Scorer
from tests.factories import toy_runs
from tests.factories.scorers import requests, scorer


def ending_model(bias: float):
    """A model whose EOS is likelier, so that beams end at different lengths."""
    made = toy_runs.model()
    made.lm_head.weight.data[2] *= bias
    return made


def reference(model, prompts: list[str], beams: int, new: int) -> list[list[int]]:
    """The authors' way: one prompt at a time, no cache, no mask."""
    tokenizer = toy_runs.tokenizer()
    config = GenerationConfig(
        num_beams=beams, max_new_tokens=new, do_sample=False, eos_token_id=2, pad_token_id=3, use_cache=False
    )
    made = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = model.generate(input_ids=ids, generation_config=config)[0, ids.shape[1] :].tolist()
        made.append(out[: out.index(2) + 1] if 2 in out else out)
    return made


@pytest.mark.parametrize("beams", [1, 4])
def test_batches_with_cache_give_the_tokens_of_batch_one_without(beams):
    model, prompts = ending_model(1.5), toy_runs.prompts(24)
    expected = reference(model, prompts, beams, 12)
    assert any(ids[-1] == 2 for ids in expected) and any(len(ids) == 12 for ids in expected)
    for batch_size in (1, 8, 24):
        ours = scorer(batch_size, model=model)
        rows = [ours.context_ids(prompt) for prompt in prompts]
        generated = []
        for start in range(0, len(rows), batch_size):
            generated += ours.generate_ids(rows[start : start + batch_size], 12, num_beams=beams)
        assert generated == expected


def test_texts_come_back_in_the_order_asked_and_cut_at_stop_strings():
    prompts = toy_runs.prompts(9)
    settings = {"until": [], "max_gen_toks": 8, "num_beams": 2, "skip_special_tokens": False}
    whole = scorer(4)
    texts = whole.generate_until(requests([(prompt, settings) for prompt in prompts]))
    alone = [scorer(1).generate_until(requests([(prompt, settings)]))[0] for prompt in prompts]
    assert texts == alone
    assert whole.tokens == {prompt: len(text.split()) for prompt, text in zip(prompts, texts, strict=True)}
    stop = texts[0].split()[3]
    cut = scorer(4).generate_until(requests([(prompts[0], settings | {"until": [stop]})]))
    assert cut == [texts[0].split(stop)[0]]


def test_special_tokens_are_kept_or_skipped_as_asked():
    model, prompts = ending_model(1.5), toy_runs.prompts(24)
    settings = {"until": [], "max_gen_toks": 12, "num_beams": 4}
    kept, skipped = (
        scorer(24, model=model).generate_until(
            requests([(prompt, settings | {"skip_special_tokens": skip}) for prompt in prompts])
        )
        for skip in (False, True)
    )
    assert any(text.endswith("</s>") for text in kept)
    assert not any("</s>" in text for text in skipped)
    special = toy_runs.tokenizer().all_special_tokens
    plain = [[word for word in text.split() if word not in special] for text in kept]
    assert plain == [text.split() for text in skipped]


def test_a_prompt_that_leaves_no_room_keeps_its_end():
    short = scorer(2, max_length=10)
    long = scorer(2)
    words = toy_runs.prompts(24)[3].split()
    assert len(words) > 6
    settings = {"until": [], "max_gen_toks": 4, "num_beams": 1}
    ids = long.context_ids(" ".join(words))[-6:]
    expected = long.tok_decode(long.generate_ids([ids], 4, num_beams=1)[0])
    assert short.generate_until(requests([(" ".join(words), settings)])) == [expected]


@pytest.mark.parametrize("max_length", [256, 5])
def test_letters_are_scored_at_the_prompt_s_last_token(max_length):
    ours, prompts = scorer(4, max_length), toy_runs.prompts(10)
    likelihoods = ours.loglikelihood(requests([(prompt, letter) for prompt in prompts for letter in "ABCD"]))
    assert {ours.tokens[prompt + letter] for prompt in prompts for letter in "ABCD"} == {1}  # a document may end so too
    for index, prompt in enumerate(prompts):
        ids = ours.tokenizer(prompt, return_tensors="pt")["input_ids"][:, :max_length]
        with torch.no_grad():
            expected = ours.model(ids).logits[0, -1].double().log_softmax(-1)
        letters = [ours.tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"]
        for offset, letter in enumerate(letters):
            likelihood, likeliest = likelihoods[4 * index + offset]
            assert likelihood == pytest.approx(float(expected[letter]), abs=1e-4)
            assert likeliest == (int(expected.argmax()) == letter)


def test_longer_continuations_go_lm_eval_s_way():
    ours = scorer(4)
    context, continuation = "Question red cat", "the answer is blue"
    (likelihood, _), *_ = ours.loglikelihood(requests([(context, " " + continuation)]))
    ids = ours.tokenizer(f"{context} {continuation}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        steps = ours.model(ids).logits[0].log_softmax(-1)
    expected = sum(float(steps[i - 1, ids[0, i]]) for i in range(4, ids.shape[1]))
    assert likelihood == pytest.approx(expected, abs=1e-4)


def _tokenizer(vocabulary: list[str], merges, pre_tokenizer) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<unk>", eos_token="</s>")


def _letter_id(tokenizer, letter: str) -> str:
    ours = Scorer.__new__(Scorer)
    ours.tokenizer = tokenizer
    return tokenizer.convert_ids_to_tokens(ours.letter_id(letter))


def test_letter_tokens_of_both_kinds_of_tokenizer():
    """LLaMA's "A" has the space in it; Llama-3's has not, so there the two conventions differ (protocol section 5)."""
    llama = _tokenizer(["<unk>", "</s>", "▁", "A", "▁A"], [("▁", "A")], pre_tokenizers.Metaspace())
    llama3 = _tokenizer(
        ["<unk>", "</s>", "Ġ", "A", "ĠA"], [("Ġ", "A")], pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    assert [_letter_id(llama, "A"), _letter_id(llama, " A")] == ["▁A", "▁A"]
    assert [_letter_id(llama3, "A"), _letter_id(llama3, " A")] == ["A", "ĠA"]
    with pytest.raises(UserError, match="no token for 'Z'"):
        _letter_id(toy_runs.tokenizer(), "Z")


def test_a_tokenizer_that_ends_texts_does_not_end_the_prompt():
    tokenizer = toy_runs.tokenizer()
    ours = scorer(1)
    plain = ours.context_ids("red cat")
    ours.tok_encode = lambda text: [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert ours.context_ids("red cat") == plain


def test_an_empty_prompt_is_scored_after_the_beginning_alone():
    """As `acc_mutual_info` has every choice scored, and as a template without a question does."""
    ours = scorer(2)
    (_, longer) = ours.loglikelihood(requests([("what is", " a longer answer"), ("", " a longer answer")]))
    again = Scorer.__mro__[1].loglikelihood(ours, requests([("", " a longer answer")]))
    assert longer == pytest.approx(again[0])
    assert len(ours.context_ids("")) == 1
