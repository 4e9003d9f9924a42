"""The tokenizer that a model's files describe, whatever class transformers picks for it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Digits, spaces, lines, apostrophes, accents, other scripts: where pre-tokenisers and normalisers differ
PROBE = "It's  12 + 3450 = 3,462.0 (naïve); x_1 -> y\n\n\tÜber 日本語 👍 ### Response:\nThe answer is option2"


def read_tokenizer(where: str | Path, **arguments: Any) -> "PreTrainedTokenizerBase":
    """AutoTokenizer's choice, unless its token ids aren't those of the model's own tokenizer.json, which then counts.

    transformers 5 takes a class by the model's type or tokenizer_config.json, and some classes put a normaliser and a
    pre-tokeniser of their own in the place of the file's, silently (transformers issues 45812 and 45920). Special
    tokens are left to the class. `where` is a folder or a hub id, `arguments` go to from_pretrained.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    chosen = AutoTokenizer.from_pretrained(where, **arguments)
    if type(chosen) is PreTrainedTokenizerFast:
        return chosen
    on_hub = {key: value for key, value in arguments.items() if key in ("revision", "local_files_only")}
    if cached_file(where, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **on_hub) is None:
        return chosen
    of_the_file = PreTrainedTokenizerFast.from_pretrained(where, **arguments)
    if _ids(chosen) == _ids(of_the_file):
        return chosen
    print(
        f"{where}: transformers reads this tokenizer as {type(chosen).__name__}, which gives other token ids than its"
        " tokenizer.json; tokenizer.json is used",
        file=sys.stderr,
    )
    return of_the_file


def readable_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """`read_tokenizer` of a folder. Raises UserError where it can't be read."""
    try:
        return read_tokenizer(folder)
    except Exception as error:  # what tokenizers raises is a plain Exception
        raise UserError(f"{folder}: its tokenizer can't be read ({in_a_line(error)}); save it again") from None


def _ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return tokenizer(PROBE, add_special_tokens=False)["input_ids"]
