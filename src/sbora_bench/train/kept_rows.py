"""The encoded training rows of a process's last run, for the next one if it trains on the same."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sbora_bench.files import hash_of, sha256
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.records import TooLong
from sbora_bench.train.encoding import encode_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

ENCODED_BY = ("end_of_text", "group_by_length", "loss_on", "max_length", "source_length", "target_length", "too_long")
"""Fields of a protocol that the encoding reads."""


class _Kept(NamedTuple):
    key: str
    rows: "Dataset"
    too_long: TooLong


_kept: list[_Kept] = []  # one at most


def training_rows(
    tokenizer: "PreTrainedTokenizerBase", path: Path, protocol: Protocol, tokenizer_key: object
) -> "tuple[Dataset, TooLong]":
    """A `datasets.Dataset` of what `encode_rows` gives, and how many rows were too long.

    `tokenizer_key`: JSON that no other tokenizer has. The last rows are kept, and returned again where the file's
    SHA-256, the protocol's fields and the tokenizer are the same.
    """
    from datasets import Dataset

    fields = {name: getattr(protocol, name) for name in ENCODED_BY}
    key = hash_of({"data": sha256(path), "protocol": fields, "tokenizer": tokenizer_key})
    if not _kept or _kept[0].key != key:
        _kept.clear()  # first: two sets need not fit into memory
        rows, too_long = encode_rows(tokenizer, path, protocol)
        _kept.append(_Kept(key, Dataset.from_list(rows), too_long))
    return _kept[0].rows, _kept[0].too_long
