"""From prompt and response to token ids and labels, as the protocol has it (protocol sections 2 and 5)."""

from typing import TYPE_CHECKING

from sbora_bench.plan.catalog import Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of tokens that carry no loss (torch's cross_entropy default)


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, protocol: Protocol
) -> dict[str, list[int]]:
    """One example: `input_ids` and `labels` of equal length, at most `protocol.max_length` (right-truncated).

    - source_length and target_length set: prompt and response are tokenised apart, cut at those lengths, and joined;
      BOS before, EOS after (protocol section 5).
    - loss on all: the whole text is tokenised at once; EOS follows where there is room (protocol section 2).
    - loss on the answer otherwise: tokenised apart, so that the prompt's tokens are those of scoring, then cut.
    """
    eos = tokenizer.eos_token_id
    if protocol.source_length and protocol.target_length:
        source = _plain(tokenizer, (tokenizer.bos_token or "") + prompt)[: protocol.source_length]
        target = _plain(tokenizer, response + (tokenizer.eos_token or ""))[: protocol.target_length]
    elif protocol.loss_on == "all":
        ids = tokenizer(prompt + response, truncation=True, max_length=protocol.max_length)["input_ids"]
        if len(ids) < protocol.max_length and ids[-1] != eos:
            ids = [*ids, eos]
        return {"input_ids": ids, "labels": list(ids)}
    else:
        source = tokenizer(prompt)["input_ids"]
        if source and source[-1] == eos:
            source = source[:-1]
        target = [*_plain(tokenizer, response), eos]
    masked = [IGNORED] * len(source) if protocol.loss_on == "answer" else source
    ids = (source + target)[: protocol.max_length]
    return {"input_ids": ids, "labels": (masked + target)[: protocol.max_length]}


def _plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
