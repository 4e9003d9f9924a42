"""A folder of weights in the hub's form: what must be in it, of what architecture, and how another folder uses it."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import read_json, sha256
from sbora_bench.hub import TOKENIZER_FILES
from sbora_bench.inputs.models.tokenizer import readable_tokenizer
from sbora_bench.results.folders import ADAPTER_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
# model types whose loss transformers takes at the token itself; XLNet and CPM-Ant also let it see those that follow
NOT_OF_THE_NEXT_TOKEN = {"cpmant", "xlm", "xlnet"}
SHOWN = 3  # tensors in a message
NO_EOS = (
    "its tokenizer names no EOS, the token that ends every answer; give its tokenizer_config.json an eos_token, and"
    " prepare the model again"
)


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
    tensor_shapes(folder)
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


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """The tensors of a folder's safetensors and their shapes, by their headers.

    Raises UserError where a shard is missing, or of another size than its header says: of a download that broke off.
    """
    from safetensors import SafetensorError, safe_open

    shards = _shards(folder / "model.safetensors.index.json")
    for name in [shard for shard in shards if not (folder / shard).is_file()]:
        raise UserError(f"{folder}: {name} is missing; expected safetensors (other formats are never read)")
    shapes = {}
    for name in shards:
        try:
            with safe_open(folder / name, "numpy") as shard:
                shapes.update({tensor: shard.get_slice(tensor).get_shape() for tensor in shard.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{folder / name}: not a whole safetensors file ({error}); fetch it again") from None
    return shapes


def _shards(index: Path) -> list[str]:
    """The files that an index of weights names, sorted. Raises UserError where it is none."""
    if not index.is_file():
        return ["model.safetensors"]
    values = read_json(index)
    files = values.get("weight_map") if isinstance(values, dict) else None
    if not (isinstance(files, dict) and files and all(isinstance(name, str) for name in files.values())):
        raise UserError(f"{index}: weight_map: missing, allowed a mapping of tensors to files; fetch the file again")
    return sorted(set(files.values()))


def check_tensors(folder: Path) -> "PreTrainedModel":
    """The causal language model of the folder's config on `meta`. Raises UserError unless its files hold the tensors of
    that, all of them and in its shapes, and no further ones of the layers; names and shapes are read alone.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its own report of what is refused here
    logging.disable_progress_bar()
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused here, by name
        )
    except Exception as error:  # of a config that no model of it takes
        reason = in_a_line(error).partition(" Model type should be one of")[0]  # hundreds of names
        raise UserError(f"{folder}: transformers can't load a causal language model from it ({reason})") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    refuse_others(loaded, model, folder)
    return model


def check_tokenizer(folder: Path, model: "PreTrainedModel") -> None:
    """Raise UserError where the folder's tokenizer can't be read, names no EOS, or has more tokens than the model."""
    tokenizer = readable_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: {NO_EOS}")
    rows = model.get_input_embeddings().weight.shape[0]
    added = tokenizer.get_added_vocab()  # of which some models have no row
    if any(number >= rows for token, number in tokenizer.get_vocab().items() if token not in added):
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size:,} tokens and its embeddings have {rows:,} rows; give"
            " the tokenizer that belongs to the model"
        )


def refuse_others(loaded: dict[str, Any], model: "PreTrainedModel", where: str | Path) -> None:
    """Raise UserError where a model's files hold other tensors than it has. `loaded`: what `from_pretrained` says."""
    refuse_missing(loaded["missing_keys"], where)
    refuse_missing([name for name, *_ in loaded["mismatched_keys"]], where, " in the shape that its config says")
    refuse_left_over(loaded["unexpected_keys"], model, where)


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


def refuse_left_over(unexpected: Iterable[str], model: "PreTrainedModel", where: str | Path) -> None:
    """Raise UserError where files hold a tensor of a layer that the model has, or has others of: a layer beyond those
    of its config, or a bias that its config leaves out. Other tensors (a head of another purpose, a mask) change
    nothing that the model computes.
    """
    layers = {_plain(name).rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False)}
    bare = {layer.removeprefix(f"{model.base_model_prefix}.") for layer in layers}  # as a file without a head says them
    names = sorted(name for name in unexpected if _plain(name).rpartition(".")[0] in layers | bare)
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        raise UserError(
            f"{where}: its files hold {', '.join(names[:SHOWN])}{more}, for which its config.json has no place; give"
            " the config.json that belongs to them"
        )


def _plain(name: str) -> str:
    """A tensor's name without the numbers of its layers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def refuse_not_causal(config: Any, where: str | Path) -> None:
    """Raise UserError for an encoder (BERT, RoBERTa), whose tokens see those that follow: it would read the answers.
    And for models whose loss is of the token that is read, not of the next one.
    """
    if config.model_type in NOT_OF_THE_NEXT_TOKEN:
        raise UserError(
            f"{where}: {config.model_type} does not predict the next token from those before it, though transformers"
            " loads it as a causal language model; give one that does"
        )
    if getattr(config, "is_decoder", None) is False and hasattr(config, "add_cross_attention"):
        raise UserError(
            f"{where}: {config.model_type} is an encoder, whose tokens see those that follow; give a causal language"
            " model, or set is_decoder: true in the config.json of one that was trained so"
        )


def check_weights(folder: Path, architecture: dict[str, Any]) -> None:
    """Raise UserError unless the folder has all parts of a model, of this architecture, that go together."""
    check_parts(folder)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    refuse_not_causal(config, folder / "config.json")
    for key, expected in architecture.items():
        value = getattr(config, key, None)
        if not _same(value, expected):
            raise UserError(f"{folder}/config.json: {key}: found {value}, the catalog says {expected}; another model?")
    check_tokenizer(folder, check_tensors(folder))


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
