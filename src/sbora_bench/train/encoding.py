"""From prompt and response to token ids and labels, as the protocol has it (protocol sections 2 and 5)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.inputs.data.chat import written_out
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.records import TooLong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of tokens that carry no loss (torch's cross_entropy default)


def encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, protocol: Protocol
) -> dict[str, list[int]]:
    """One example: `input_ids` and `labels` of equal length, at most `protocol.max_length` (right-truncated).

    - source_length and target_length set: prompt and response are tokenised apart, cut at those lengths, and joined;
      BOS before, EOS after (protocol section 5).
    - loss on all: the whole text is tokenised at once; EOS follows where there is room (protocol section 2), unless the
      protocol's `end_of_text` leaves it to the batch (`with_ends`).
    - loss on the answer otherwise: tokenised apart, so that the prompt's tokens are those of scoring, then cut.
    """
    return _encode(tokenizer, prompt, response, protocol)[0]


def _encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, response: str, protocol: Protocol
) -> tuple[dict[str, list[int]], bool]:
    """(what `encode` gives, whether a token was cut off)."""
    eos = tokenizer.eos_token_id
    cut = False
    if protocol.source_length and protocol.target_length:
        whole = _plain(tokenizer, (tokenizer.bos_token or "") + prompt)
        answer = _plain(tokenizer, response + (tokenizer.eos_token or ""))
        source, target = whole[: protocol.source_length], answer[: protocol.target_length]
        cut = len(source) < len(whole) or len(target) < len(answer)
    elif protocol.loss_on == "all":
        ids = tokenizer(prompt + response, truncation=True, max_length=protocol.max_length)["input_ids"]
        if len(ids) < protocol.max_length and ids[-1] != eos and protocol.end_of_text == "each":
            ids = [*ids, eos]
        elif len(ids) == protocol.max_length:
            cut = len(tokenizer(prompt + response)["input_ids"]) > protocol.max_length
        return {"input_ids": ids, "labels": list(ids)}, cut
    else:
        source = tokenizer(prompt)["input_ids"]
        if source and source[-1] == eos:
            source = source[:-1]
        target = [*_plain(tokenizer, response), eos]
    masked = [IGNORED] * len(source) if protocol.loss_on == "answer" else source
    cut = cut or len(source) + len(target) > protocol.max_length
    ids = (source + target)[: protocol.max_length]
    return {"input_ids": ids, "labels": (masked + target)[: protocol.max_length]}, cut


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase", path: Path, protocol: Protocol
) -> tuple[list[dict[str, Any]], TooLong]:
    """(the rows to train on, each with `input_ids` and `labels`; how many were too long) of a prepared training set.

    Rows without a label are left out. Where the protocol groups by characters, `length` has them: those of prompt and
    response (protocol section 5). Raises UserError where no row is left, and where rows are too long though the
    protocol's `too_long` says `fail`.
    """
    rows, long, cut = [], 0, 0
    examples = written_out(tokenizer, read_jsonl(path))
    for row in examples:
        example, was_cut = _encode(tokenizer, row["prompt"], row["response"], protocol)
        encoded: dict[str, Any] = {**example}
        if protocol.group_by_length == "characters":
            encoded["length"] = len(row["prompt"]) + len(row["response"])
        trained_on = any(label >= 0 for label in encoded["labels"]) and not (was_cut and protocol.too_long == "drop")
        if trained_on:
            rows.append(encoded)
        long += was_cut
        cut += was_cut and trained_on
    limit = f"max_length {protocol.max_length}"
    if protocol.source_length and protocol.target_length:
        limit += f" (source_length {protocol.source_length}, target_length {protocol.target_length})"
    if long and protocol.too_long == "fail":
        raise UserError(
            f"{path}: {long:,} of {len(examples):,} training rows have more tokens than {limit}, and the protocol's"
            " too_long is `fail`; raise max_length, or set too_long: drop or cut"
        )
    if not rows:
        raise UserError(
            f"{path}: no row to train on: {len(examples):,} rows, {long:,} with more tokens than {limit} allows; raise"
            " max_length under `overrides`, or give a training set with shorter rows"
        )
    return rows, TooLong(rows=long, cut=cut, dropped=long - cut)


def with_ends(rows: list[dict[str, list[int]]], eos: int) -> list[dict[str, list[int]]]:
    """The rows of a batch, each shorter than the longest with one EOS that it learns.

    PEFT's comparison labels the first pad of a row, and its pads are EOS.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    return [{key: [*ids, eos] for key, ids in row.items()} if len(row["input_ids"]) < longest else row for row in rows]


def in_buckets(lengths: list[int], size: int) -> list[int]:
    """The order of rows sorted by length, longest first, within each `size` of them; of equals as they come."""
    starts = range(0, len(lengths), size)
    return [
        row
        for start in starts
        for row in sorted(range(start, min(start + size, len(lengths))), key=lambda row: -lengths[row])
    ]


def _plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
