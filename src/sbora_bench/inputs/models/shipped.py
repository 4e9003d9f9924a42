"""Bases that were trained here once and come with the harness: half precision, a file a model, under 2 MB.

`ship` makes such a file of what `sbora-bench pretrain MODEL` left. Its header holds the hash of the recipe and of the
architecture that it was trained by, and what training measured.
"""

import json
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, sha256
from sbora_bench.plan.model_entry import ModelEntry, PretrainSource, ShippedSource
from sbora_bench.results.folders import BASE
from sbora_bench.results.records import BaseRecord, read_record

FILES = Path(__file__).parent / "weights_shipped"


def recipe_hash(entry: ModelEntry) -> str:
    """Of all that the catalog says of how a base is trained."""
    assert isinstance(entry.source, ShippedSource | PretrainSource), entry.title
    return hash_of({"architecture": entry.architecture, "recipe": entry.source.recipe})


def ship(trained: Path, entry: ModelEntry, path: Path) -> str:
    """Write the weights of a folder that `pretrain` left to `path`, in half precision; returns the file's SHA-256."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(trained / "model.safetensors").items()}
    summary = read_record(trained / BASE, BaseRecord).summary
    kept = {key: summary[key] for key in ("steps", "tokens", "held_out_accuracy", "parameters")}
    save_file(tensors, path, {"recipe": recipe_hash(entry), "summary": json.dumps(kept, sort_keys=True)})
    return sha256(path)


def write_shipped(model: str, entry: ModelEntry, folder: Path) -> dict[str, Any]:
    """Save config, weights (float32) and tokenizer; the same bytes each time. Returns what training measured.

    Raises UserError where the file is missing, is another than the catalog's, or was trained by another recipe.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from sbora_bench.inputs.data import corpus

    assert isinstance(entry.source, ShippedSource), entry.title
    path = FILES / f"{model}.safetensors"
    again = f"`sbora-bench pretrain {model} --output FOLDER --ship {path}` makes it again"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {again}")
    if sha256(path) != entry.source.sha256:
        raise UserError(f"{path}: SHA-256 {sha256(path)}, expected {entry.source.sha256} (models.{model}); {again}")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    if header["recipe"] != recipe_hash(entry):
        raise UserError(f"{path}: trained by another recipe or architecture than models.{model} has now; {again}")
    tokenizer = corpus.tokenizer()
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    network = LlamaForCausalLM(LlamaConfig(**{"vocab_size": len(tokenizer), **special, **entry.architecture}))
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return json.loads(header["summary"])
