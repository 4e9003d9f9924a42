"""A model out of a GGUF file, as transformers reads it, written as float32 safetensors with its tokenizer."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.models.weights import check_weights, refuse_missing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OF_THE_FILE = ("quantization_config", "_name_or_path", "_model_name_or_path")  # keys of a config that a copy hasn't


def write_gguf(path: Path, architecture: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Save the model and tokenizer of a GGUF file in `folder`; what to say of it.

    The weights go into a fresh model of the same config, for one read from GGUF counts as quantised and can't be saved.
    Raises UserError where the package `gguf` is missing and where transformers can't read the file or lacks a
    tensor of the model in it.
    """
    check_gguf(path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, name = path.parent, path.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
        read, loaded = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=name, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # of an architecture or a tokenizer that transformers doesn't read from GGUF
        raise _unread(path, error) from None
    refuse_missing(loaded["missing_keys"], path)
    _split_as_trained(tokenizer, path)
    values = {key: value for key, value in read.config.to_dict().items() if key not in OF_THE_FILE}
    with torch.device("meta"):
        fresh = type(read)(type(read.config).from_dict(values | architecture))
    fresh.load_state_dict(read.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_weights(folder, architecture)
    return {"parameters": fresh.num_parameters(), "weights_dtype": "float32"}


def gguf_config(path: Path) -> dict[str, Any]:
    """The keys of config.json that a GGUF file stands for. Raises as `write_gguf`."""
    check_gguf(path)
    from transformers import AutoConfig

    try:
        values = AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
    except Exception as error:  # as above
        raise _unread(path, error) from None
    return {key: value for key, value in values.items() if key not in OF_THE_FILE}


def check_gguf(path: Path) -> None:
    """Raise UserError where there is no such file, or no package to read it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; correct the model's path")
    if find_spec("gguf") is None:
        raise UserError(
            f"{path}: a GGUF file is read with the package gguf, which is not installed; run: pip install gguf"
        )


def _unread(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: transformers can't read this GGUF file ({in_a_line(error)}); give a folder of the model's safetensors"
    )


def _split_as_trained(tokenizer: "PreTrainedTokenizerBase", gguf: Path) -> None:
    """Give the tokenizer the pre-tokenizer that the GGUF file names; transformers 5.23 always takes GPT-2's."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":  # every digit by itself, then GPT-2's
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
