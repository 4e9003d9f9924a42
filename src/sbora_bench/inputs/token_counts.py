"""How many tokens texts have, by a tokenizer that is at hand, and whether its chat template takes a prompt.

transformers, which takes seconds to import, is needed for chats alone.
"""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import read_json
from sbora_bench.inputs.data.chat import MESSAGES, refuse_without_template, written_out
from sbora_bench.inputs.models.config import positions_of
from sbora_bench.inputs.models.sources import source_of
from sbora_bench.inputs.models.tokenizer import readable_tokenizer
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.folders import model_folder

TOKENISED = 50  # rows, the longest or the shortest in characters, whose tokens are counted


class Tokenizer:
    """A model's tokenizer and positions, read from its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _read(self) -> Any:
        import tokenizers

        whole, vocabulary, merges = (str(self.folder / name) for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if not Path(whole).is_file():
                return tokenizers.ByteLevelBPETokenizer(vocabulary, merges)
            read = tokenizers.Tokenizer.from_file(whole)
            read.no_truncation()  # a file may have been saved with it; transformers takes it off as well
            read.no_padding()
            return read
        except Exception as error:  # what the library raises is a plain Exception
            raise UserError(f"{self.folder}: its tokenizer can't be read ({error}); save it again") from None

    @cached_property
    def chats(self) -> bool:
        """Whether it has a chat template, in a file of its own or among its settings."""
        settings = self.folder / "tokenizer_config.json"
        inside = settings.is_file() and bool(read_json(settings).get("chat_template"))
        return inside or any((self.folder / f"chat_template.{ending}").is_file() for ending in ("jinja", "json"))

    @cached_property
    def _of_transformers(self) -> Any:
        return readable_tokenizer(self.folder)

    def check_chat(self, rows: list[dict[str, Any]]) -> None:
        """Raise UserError where there is no chat template, or it doesn't take the messages of prepared rows, of which
        the first with each order of roles is tried.
        """
        refuse_without_template(self.chats, str(self.folder))
        first = {tuple(message["role"] for message in row[MESSAGES]): row for row in reversed(rows)}
        written_out(self._of_transformers, list(first.values()))

    @cached_property
    def positions(self) -> int | None:
        """How many tokens the model's config allows; None where it doesn't say."""
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return positions_of(config)

    def lengths(self, texts: list[str], special: bool = True) -> list[int]:
        """Tokens of each text, those that the tokenizer puts around it among them where `special`."""
        return [len(encoded.ids) for encoded in self._read.encode_batch(texts, add_special_tokens=special)]


def tokenizer_of(model: str, entry: ModelEntry) -> Tokenizer | None:
    """The tokenizer of a model that is prepared, or that lies in a folder; None where it isn't at hand."""
    own, prepared = source_of(model, entry).files(), model_folder(model)
    for folder in (own, prepared):
        if folder and ((folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()):
            return Tokenizer(folder)
    return None


def too_long(rows: list[dict[str, str]], tokenizer: Tokenizer, protocol: Protocol) -> tuple[str, str] | None:
    """(how many tokens, what to do) where training will refuse the rows as too long for `max_length`; else None."""
    if protocol.source_length or "messages" in rows[0]:
        return None
    positions = tokenizer.positions
    used_up = positions is not None and protocol.max_length >= positions
    cure = f"shorten them (the model has {positions:,} positions)" if used_up else "raise max_length under `overrides`"
    by_length = sorted(rows, key=lambda row: len(row["prompt"]) + len(row["response"]))
    count = partial(row_lengths, tokenizer=tokenizer, protocol=protocol)
    if protocol.too_long == "fail":
        longest = max(count(by_length[-TOKENISED:]))
        if longest > protocol.max_length:
            return f"is too long, and too_long is fail: it has {longest:,}", f"{cure}, or set too_long: drop or cut"
    elif protocol.too_long == "drop":
        if shortest := fewest_beyond(by_length, count, protocol.max_length + 1):
            return f"fits, and too_long is drop: the shortest has {shortest:,}", f"{cure}, or set too_long: cut"
    elif protocol.loss_on != "all":
        prompts = sorted((row["prompt"] for row in rows), key=len)
        if shortest := fewest_beyond(prompts, tokenizer.lengths, protocol.max_length):
            return f"fits: the shortest prompt has {shortest:,}", cure
    return None


def fewest_beyond(by_length: list[Any], count: Callable[[list[Any]], list[int]], least: int) -> int:
    """The fewest tokens of a row or text where each has `least` or more, else 0; those of fewest characters first."""
    if min(count(by_length[:TOKENISED])) < least:
        return 0
    shortest = min(count(by_length))
    return shortest if shortest >= least else 0


def row_lengths(rows: list[dict[str, str]], tokenizer: Tokenizer, protocol: Protocol) -> list[int]:
    """Tokens of each row as training encodes it, before any is cut."""
    if protocol.loss_on == "all":
        return tokenizer.lengths([row["prompt"] + row["response"] for row in rows])
    whole, plain = (tokenizer.lengths([row["prompt"] for row in rows], special) for special in (True, False))
    responses = tokenizer.lengths([row["response"] for row in rows], False)
    counts = zip(whole, plain, responses, strict=True)
    return [min(one, bare + 1) + response + 1 for one, bare, response in counts]  # a BOS and one EOS at most


def longest_of(texts: list[str], tokenizer: Tokenizer) -> int:
    """Tokens of the longest text, looked for among those of most characters."""
    return max(tokenizer.lengths(sorted(texts, key=len)[-TOKENISED:]))


def shortest_of(texts: list[str], tokenizer: Tokenizer) -> int:
    """Tokens of the shortest text, looked for among those of fewest characters."""
    return min(tokenizer.lengths(sorted(texts, key=len)[:TOKENISED]))
