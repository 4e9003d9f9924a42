"""A folder of weights in the hub's form: what must be in it, of what architecture, and how another folder uses it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, sha256
from sbora_bench.hub import TOKENIZER_FILES
from sbora_bench.results.folders import ADAPTER_CONFIG

# Any one of these sets of files is a tokenizer.
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("vocab.json", "tokenizer_config.json"),
)
PARTS = {".json", ".safetensors"}  # endings of files that a model is made of, and their names beside
NAMES = set(TOKENIZER_FILES)
SHOWN = 3  # tensors in a message


def check_parts(folder: Path) -> None:
    """Raise UserError unless the folder has config, tokenizer and every shard of safetensors, each whole, and no
    adapter, which transformers would put on the model unseen; and where its weights are quantised, which no method's
    title and no footprint would say.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json here; expected a model's folder with safetensors and tokenizer")
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{folder}: {ADAPTER_CONFIG} is here too, and transformers would put that adapter on the model; move the"
            " adapter out of the folder, or merge it into the weights"
        )
    packed = read_config_file(folder / "config.json").get("quantization_config")
    if packed:
        by = packed.get("quant_method") if isinstance(packed, dict) else packed
        raise UserError(
            f"{folder}/config.json: quantization_config: found {by}, allowed are weights as they were before; methods"
            " with `quantization: nf4` quantise them as the protocol says"
        )
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in [shard for shard in shards if not (folder / shard).is_file()]:
        raise UserError(f"{folder}: {name} is missing; expected safetensors (other formats are never read)")
    for name in shards:
        _check_whole(folder / name)
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt is here")


def read_config_file(path: Path) -> dict[str, Any]:
    """A config.json. Raises UserError where it can't be read or isn't a JSON object."""
    try:
        values = read_json(path)
    except UserError as error:
        raise UserError(f"{path}: not a readable config.json ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a readable config.json (found a {type(values).__name__}, allowed an object)")
    return values


def _check_whole(path: Path) -> None:
    """Raise UserError for a safetensors file of another size than its header says: of a download that broke off."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if length < size else {}
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            expected = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, LookupError):
            raise UserError(f"{path}: not a safetensors file; fetch it again") from None
    if size != expected:
        raise UserError(f"{path}: not whole: {size:,} bytes, its header says {expected:,}; fetch it again")


def refuse_missing(missing: Iterable[str], where: str | Path, form: str = "") -> None:
    """Raise UserError where a model has tensors that its files don't hold: transformers gives those random values and
    no more than a warning.
    """
    names = sorted(missing)
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        raise UserError(
            f"{where}: its files lack {', '.join(names[:SHOWN])}{more}{form}, which would be random; give the"
            " whole model with its language modelling head, of the config beside it"
        )


def refuse_bidirectional(config: Any, where: str | Path) -> None:
    """Raise UserError for an encoder (BERT, RoBERTa), whose tokens see those that follow: it would read the answers."""
    if getattr(config, "is_decoder", None) is False and hasattr(config, "add_cross_attention"):
        raise UserError(
            f"{where}: {config.model_type} is an encoder, whose tokens see those that follow; give a causal language"
            " model, or set is_decoder: true in the config.json of one that was trained so"
        )


def check_weights(folder: Path, architecture: dict[str, Any]) -> None:
    """Raise UserError unless the folder has all parts of a model, of this architecture."""
    check_parts(folder)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    refuse_bidirectional(config, folder / "config.json")
    for key, expected in architecture.items():
        value = getattr(config, key, None)
        if not _same(value, expected):
            raise UserError(f"{folder}/config.json: {key}: found {value}, the catalog says {expected}; another model?")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer in one of the forms that transformers reads."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZERS)


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(value, dict) and all(_same(value.get(key), part) for key, part in expected.items())
    if isinstance(expected, float) and isinstance(value, int | float):
        return math.isclose(value, expected, rel_tol=1e-6)  # GGUF keeps single precision
    return value == expected


def link(source: Path, folder: Path) -> None:
    """Link the files of a model, and no others, into `folder`."""
    for path in parts(source):
        (folder / path.name).symlink_to(path.resolve())


def parts(folder: Path) -> list[Path]:
    """The files of a folder that a model is made of, sorted; none where there is no folder."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_file() and (path.suffix in PARTS or path.name in NAMES)]


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of every file of the folder."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}
