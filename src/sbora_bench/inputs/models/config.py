"""The transformers config of a model, before its weights are at hand."""

from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError
from sbora_bench.inputs.models.sources import Source, named_source
from sbora_bench.inputs.models.tokenizer import read_tokenizer
from sbora_bench.inputs.models.weights import has_tokenizer
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    from transformers import PretrainedConfig


# names of the most positions in config.json, in transformers' classes
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def read_config(catalog: Catalog, model: str) -> "PretrainedConfig":
    """The transformers config of a catalog model, a local folder or config.json, or a hub id.

    Raises UserError if there is no such model, or if transformers knows no such config.
    """
    source = named_source(catalog, model)
    return config_from(source.values(), f"{model}: config.json")


def config_from(values: dict[str, Any], where: str) -> "PretrainedConfig":
    """The config that has these keys; LLaMA's where they name no `model_type`. Raises UserError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**{**values, "model_type": values.get("model_type", "llama")})
    except Exception as error:  # transformers' validators raise many kinds for a bad file
        reason = str(error).partition(" Should contain one of")[0]  # hundreds of names
        raise UserError(f"{where}: not a configuration of a causal language model ({reason})") from None


def positions_of(values: dict[str, Any]) -> int | None:
    """The most positions that a model of this config.json has; None where it doesn't say."""
    own = next((values[key] for key in POSITIONS if isinstance(values.get(key), int)), None)
    text = values.get("text_config")
    return positions_of(text) if own is None and isinstance(text, dict) else own


def first_layers(config: "PretrainedConfig", layers: int) -> "PretrainedConfig":
    """A copy of `config` with no more than the first `layers` layers."""
    values = config.to_dict()
    cut_config = type(config).from_dict(values)
    text = cut_config.get_text_config()
    count = min(layers, text.num_hidden_layers)
    if text.to_dict().get("layer_types"):  # of some configs a property of the number of layers
        text.layer_types = text.layer_types[:count]
    text.num_hidden_layers = count
    return cut_config


def added_rows(source: Source, protocol: Protocol, vocabulary: int) -> int:
    """Rows that training adds to the embeddings: those of a new [PAD] that a vocabulary of so many has no room for."""
    if protocol.pad != "add" or source.pads:
        return 0
    folder = source.files()
    if folder is None or not has_tokenizer(folder):
        return 1
    tokenizer = read_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    return max(0, len(tokenizer) - vocabulary)
