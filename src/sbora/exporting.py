"""Adapters taken elsewhere: written as a plain LoRA adapter, or as a whole model with the adapter merged in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from .base_model import PREFIX, Base, find_base, tied_weights
from .config import SboraConfig
from .experts import ParamWrapper
from .layer import SboraLayer

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "chat_template*")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def to_lora(model: PeftModel, config: SboraConfig, tensors: dict[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """An SBoRA adapter as a LoRA adapter of the same function, with the index set as a one-hot matrix.

    All modules get one rank and one alpha, the highest rank and the most common scaling, because not every
    program that reads LoRA knows rank and alpha patterns (vLLM divides the one alpha by the one rank, llama.cpp
    the one alpha by each matrix's own rank): smaller matrices are padded with zeros, and a matrix of another
    scaling is multiplied by the ratio of the two.

    Args:
        model: the base model with such an adapter, on any device (`meta` too): its layers' widths are needed.
        config: the adapter's configuration.
        tensors: the adapter's tensors, under the names that they are saved by.

    Returns:
        the LoRA adapter's configuration, and its tensors under their names.
    """
    modules = [name.removesuffix(".sbora_weight") for name in tensors if name.endswith(".sbora_weight")]
    ranks = {module: tensors[f"{module}.sbora_index"].shape[-1] for module in modules}
    scalings = {
        module: config.scaling(ranks[module], config.rank_and_alpha(_key(model, module))[1]) for module in modules
    }
    counts = Counter(s for s in scalings.values() if s) or Counter([0.0])  # none can be made of a zero
    rank, scaling = max(ranks.values()), counts.most_common(1)[0][0]
    converted = {
        name: t for name, t in tensors.items() if name.rpartition(".")[2] not in ("sbora_weight", "sbora_index")
    }
    for module in modules:
        weight, index = tensors[f"{module}.sbora_weight"], tensors[f"{module}.sbora_index"]
        if scalings[module] != scaling:
            weight = (weight.float() * (scalings[module] / scaling)).to(weight.dtype)
        a, b = _matrices(model.get_submodule(module), config.variant, weight, index)
        missing = rank - ranks[module]
        a, b = nn.functional.pad(a, (0, 0, 0, missing)), nn.functional.pad(b, (0, missing))
        if a.dim() == 3:  # PEFT lays experts beside each other, in A expert by expert, in B rank by rank
            a, b = a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)
        converted[f"{module}.lora_A.weight"], converted[f"{module}.lora_B.weight"] = a.contiguous(), b.contiguous()
    same = (
        "task_type auto_mapping base_model_name_or_path revision inference_mode exclude_modules modules_to_save "
        "layers_to_transform layers_pattern target_parameters trainable_token_indices ensure_weight_tying"
    )
    alpha = scaling * rank
    lora = LoraConfig(
        r=rank,
        lora_alpha=round(alpha) if abs(alpha - round(alpha)) <= 1e-9 * abs(alpha) else alpha,
        lora_dropout=0.0 if config.target_parameters else config.sbora_dropout,  # PEFT refuses it on parameters
        bias=config.bias.replace("sbora", "lora"),
        target_modules=config.target_modules,
        **{name: getattr(config, name) for name in same.split()},
    )
    for name in ("target_modules", "exclude_modules"):  # a set would be written in another order every time
        if isinstance(getattr(lora, name), set):
            setattr(lora, name, sorted(getattr(lora, name)))
    return lora, converted


def _key(model: PeftModel, module: str) -> str:
    """The name of what a layer adapts, as patterns are matched with it."""
    layer, name = model.get_submodule(module), module.removeprefix(PREFIX).replace(".base_layer", "")
    return f"{name}.{layer.parameter_name}" if isinstance(layer, ParamWrapper) else name


def _matrices(layer: SboraLayer, variant: str, weight: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """LoRA's A, ([experts,] r, in_features), and B, ([experts,] out_features, r)."""
    width = layer.in_features if variant == "fa" else layer.out_features
    one_hot = nn.functional.one_hot(index, width).to(weight.dtype)
    a, b = (one_hot, weight) if variant == "fa" else (weight, one_hot.transpose(-2, -1))
    if layer.experts and layer.fan_in_fan_out != getattr(layer.get_base_layer(), "is_transposed", False):
        a, b = b.transpose(-2, -1), a.transpose(-2, -1)  # PEFT takes its inputs for its outputs
    return a, b


def export(
    adapter: str | Path, to: Literal["lora", "merged"], output: str | Path, base: str | Path | None = None
) -> Path:
    """Write a saved SBoRA adapter as a plain LoRA adapter, or as a whole model with the adapter merged in.

    The output appears whole or not at all. The base model is built as the adapter was trained on it: its
    class, revision, number of labels and vocabulary follow from the adapter (see `base_model.find_base`), and
    an adapter that does not fit, name by name and shape by shape, is refused, so that the base is never
    written without it. For `"lora"` the base's configuration is read, not its weights.

    Args:
        adapter: the folder of the saved adapter.
        to: `"lora"` or `"merged"`.
        output: the folder to write; it must not exist.
        base: the base model, a folder or a name on the hub; by default the one that the adapter names.

    Returns:
        `output`.

    Raises:
        ValueError: the folder holds no SBoRA adapter, the base is not known or does not fit, `to` is neither.
        FileExistsError: `output` exists.

    Examples:
        >>> export("adapter", to="lora", output="lora", base="path/to/model")
        PosixPath('lora')
    """
    adapter, output = Path(adapter), Path(output)
    if to not in ("lora", "merged"):
        raise ValueError(f"An adapter can be exported to 'lora' or 'merged', but not to {to!r}.")
    if output.exists():
        raise FileExistsError(f"{output} exists: name a folder that does not.")
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} holds no saved adapter: there is no adapter_config.json.")
    config = PeftConfig.from_pretrained(str(adapter))
    if not isinstance(config, SboraConfig):
        raise ValueError(f"{adapter} holds an adapter of type {config.peft_type.value}, but SBORA is needed.")
    base = base or config.base_model_name_or_path
    if not base:
        raise ValueError(f"{adapter} does not say which base model it belongs to: name it (base).")
    config.base_model_name_or_path = config.base_model_name_or_path or str(base)
    tensors = load_peft_weights(str(adapter), device="cpu")
    base_model = find_base(base, adapter, config, tensors)

    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        if to == "lora":
            lora, tensors = to_lora(base_model.adapted(config), config, tensors)
            _check_lora_loads(base_model, lora, tensors)
            lora.save_pretrained(str(unfinished))
            save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
            _copy_first((adapter,), TOKENIZER_FILES, unfinished)
        else:
            model = PeftModel.from_pretrained(base_model.load(), str(adapter))
            merged = model.merge_and_unload(safe_merge=True)
            merged.save_pretrained(str(unfinished))
            _check_merged_loads(base_model, merged, unfinished)
            _copy_first((adapter, Path(base)), TOKENIZER_FILES, unfinished)
            _copy_first((adapter, Path(base)), PROCESSOR_FILES, unfinished)
        unfinished.chmod(0o777 & ~_umask())
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output


def _check_lora_loads(base: Base, lora: LoraConfig, tensors: dict[str, Tensor]) -> None:
    """Refuse a LoRA adapter that PEFT would put elsewhere: of some mixtures of experts it renames the targets."""
    own = get_peft_model_state_dict(base.adapted(lora), save_embedding_layers=False)
    saved, loaded = ({(n, t.shape) for n, t in state.items() if ".lora_" in n} for state in (tensors, own))
    elsewhere = sorted({name.partition(".lora_")[0].removeprefix(PREFIX) for name, _ in saved ^ loaded})
    if elsewhere:
        raise ValueError(
            f"PEFT's LoRA would load this adapter otherwise than it is: it differs in {', '.join(elsewhere)}. Export "
            "to 'merged'."
        )


def _check_merged_loads(base: Base, merged: nn.Module, folder: Path) -> None:
    """Refuse a model of which training parted weights that are one again when it is loaded, as T5's embeddings are."""
    settings = type(merged.config).from_pretrained(folder)
    again = replace(base, settings=settings, vocabulary=None).skeleton()
    parted = sorted(tied_weights(again) ^ tied_weights(merged))
    if parted:
        raise ValueError(
            f"Training changed one of weights that this architecture keeps as one: {', '.join(parted[0])}. A merged "
            "model would not be loaded as it is: export to 'lora'."
        )


def _copy_first(sources: tuple[Path, ...], patterns: tuple[str, ...], target: Path) -> None:
    """Copy the files of these patterns from the first of the folders that has any."""
    for source in sources:
        files = [file for pattern in patterns for file in source.glob(pattern)]
        if files:
            for file in files:
                shutil.copy(file, target)
            return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
