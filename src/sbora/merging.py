"""Adapters joined, and adapters taken elsewhere: the exact union, export as LoRA or as a merged model."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from ._peft import _get_in_out_features
from .config import SboraConfig
from .layer import SboraLayer

AUTO_CLASSES = {  # of transformers, by PEFT's task type
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def union(
    parts: list[tuple[Tensor, Tensor, float]], weights: list[float], variant: str
) -> tuple[Tensor, Tensor, float]:
    """Join adapters of one layer: the index sets unite, and where they overlap the updates add up.

    The result is as exact as the adapters: no update is approximated, and disjoint ones of the same scaling
    and weight 1 keep their bits.

    Args:
        parts: weight, index and scaling of each adapter.
        weights: what to multiply each adapter's update with.
        variant: of all of them.

    Returns:
        weight, index and scaling of the union. Its rank is the number of different indices.
    """
    scalings = {scaling for _, _, scaling in parts}
    scaling = scalings.pop() if len(scalings) == 1 else 1.0
    index = torch.cat([index for _, index, _ in parts]).unique()  # ascending
    dim = 1 if variant == "fa" else 0
    first = parts[0][0]
    shape = list(first.shape)
    shape[dim] = len(index)
    joined = first.new_zeros(shape)
    for (weight, own_index, own_scaling), factor in zip(parts, weights, strict=True):
        factor = factor * own_scaling / scaling
        weight = weight.to(joined) if factor == 1 else weight.to(joined) * factor
        joined.index_add_(dim, torch.searchsorted(index, own_index), weight)
    return joined, index, scaling


def add_union(tuner, adapters: list[str], adapter_name: str, weights: list[float] | None = None) -> None:
    """See [`SboraModel.add_weighted_adapter`]."""
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    variant = _check_union(tuner, adapters, adapter_name, weights)
    joined, ranks, alphas = {}, {}, {}
    for name, layer in tuner.model.named_modules():
        present = [a for a in adapters if isinstance(layer, SboraLayer) and a in layer.sbora_weight]
        if present:
            parts = [(layer.sbora_weight[a].detach(), layer.sbora_index[a], layer.scaling[a]) for a in present]
            joined[name] = union(parts, [weights[adapters.index(a)] for a in present], variant)
            pattern = "^" + re.escape(name)  # PEFT matches the end of a name, unless it is told not to
            ranks[pattern] = len(joined[name][1])
            alphas[pattern] = joined[name][2] * ranks[pattern]
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    tuner.peft_config[adapter_name] = SboraConfig(
        variant=variant,
        r=rank,
        sbora_alpha=alpha,
        rank_pattern={name: r for name, r in ranks.items() if r != rank},
        alpha_pattern={name: a for name, a in alphas.items() if a != alpha},
        target_modules=sorted(joined),
        task_type=tuner.peft_config[adapters[0]].task_type,
        base_model_name_or_path=tuner.peft_config[adapters[0]].base_model_name_or_path,
        inference_mode=True,
    )
    tuner.inject_adapter(tuner.model, adapter_name)
    for name, (weight, index, _) in joined.items():
        layer = tuner.model.get_submodule(name)
        layer.sbora_weight[adapter_name] = nn.Parameter(weight, requires_grad=False)
        layer.sbora_index[adapter_name] = index


def _check_union(tuner, adapters: list[str], adapter_name: str, weights: list[float]) -> str:
    if adapter_name in tuner.peft_config:
        raise ValueError(f"There is an adapter {adapter_name!r} already: choose another name.")
    if not adapters or len(set(adapters)) != len(adapters):
        raise ValueError(f"adapters must name different adapters, at least one, but is {adapters}.")
    unknown = [name for name in adapters if name not in tuner.peft_config]
    if unknown:
        raise ValueError(f"There is no adapter {unknown[0]!r}: there are {sorted(tuner.peft_config)}.")
    if len(weights) != len(adapters):
        raise ValueError(f"There are {len(adapters)} adapters, but {len(weights)} weights.")
    configs = [tuner.peft_config[name] for name in adapters]
    variants = {config.variant for config in configs}
    if len(variants) > 1:
        raise ValueError(
            "Adapters of both variants cannot be joined in one, for columns and rows differ: keep them beside each "
            f"other with set_adapter({adapters})."
        )
    for name, config in zip(adapters, configs, strict=True):
        if config.modules_to_save or config.bias != "none":
            raise ValueError(f"Adapter {name!r} trains modules or biases in full, which have no union.")
    return variants.pop()


def to_lora(model: nn.Module, config: SboraConfig, tensors: dict[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """An SBoRA adapter as a LoRA adapter of the same function, with the index set as a one-hot matrix.

    Args:
        model: the base model, on any device (`meta` too): the widths of its layers are needed.
        config: the adapter's configuration.
        tensors: the adapter's tensors, under the names that they are saved by.

    Returns:
        the LoRA adapter's configuration, and its tensors under their names.

    Raises:
        ValueError: the adapter does not belong to the model.
    """
    converted = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "sbora_weight":
            inside = module.removeprefix("base_model.model.")
            try:
                width = _get_in_out_features(model.get_submodule(inside))[0 if config.variant == "fa" else 1]
            except AttributeError as error:
                raise ValueError(f"The adapter does not belong to this base model: it has no {inside!r}.") from error
            one_hot = torch.nn.functional.one_hot(tensors[f"{module}.sbora_index"], width).to(tensor.dtype)
            a, b = (one_hot, tensor) if config.variant == "fa" else (tensor, one_hot.t())
            converted[f"{module}.lora_A.weight"] = a.contiguous()
            converted[f"{module}.lora_B.weight"] = b.contiguous()
        elif kind != "sbora_index":
            converted[name] = tensor
    same = (
        "task_type auto_mapping base_model_name_or_path revision inference_mode r exclude_modules modules_to_save "
        "layers_to_transform layers_pattern rank_pattern alpha_pattern"
    )
    lora = LoraConfig(
        lora_alpha=config.sbora_alpha,
        lora_dropout=config.sbora_dropout,
        bias=config.bias.replace("sbora", "lora"),
        target_modules=config.target_modules,
        **{name: getattr(config, name) for name in same.split()},
    )
    for name in ("target_modules", "exclude_modules"):  # a set would be written in another order every time
        if isinstance(getattr(lora, name), set):
            setattr(lora, name, sorted(getattr(lora, name)))
    return lora, converted


def export(
    adapter: str | Path, to: Literal["lora", "merged"], output: str | Path, base: str | Path | None = None
) -> Path:
    """Write a saved SBoRA adapter as a plain LoRA adapter, or as a whole model with the adapter merged in.

    The output appears whole or not at all. For `"lora"` the base's configuration is read, not its weights.

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

    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        if to == "lora":
            tensors = load_peft_weights(str(adapter), device="cpu")
            lora, tensors = to_lora(_base_model(config, base, weights=False), config, tensors)
            lora.save_pretrained(str(unfinished))
            save_file(tensors, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})
        else:
            model = PeftModel.from_pretrained(_base_model(config, base, weights=True), str(adapter))
            model.merge_and_unload(safe_merge=True).save_pretrained(str(unfinished))
            _copy_tokenizer((adapter, Path(base)), unfinished)
        unfinished.chmod(0o777 & ~_umask())
        os.replace(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output


def _base_model(config: SboraConfig, base: str | Path, weights: bool) -> nn.Module:
    import transformers

    settings = transformers.AutoConfig.from_pretrained(base)
    name = AUTO_CLASSES.get(config.task_type)
    if weights:
        cls = getattr(transformers, name or settings.architectures[0])
        return cls.from_pretrained(base, dtype="auto")
    with torch.device("meta"):
        if name is None:
            return getattr(transformers, settings.architectures[0])(settings)
        return getattr(transformers, name).from_config(settings)


def _copy_tokenizer(sources: tuple[Path, ...], target: Path) -> None:
    for source in sources:
        found = [*source.glob("tokenizer*"), *source.glob("special_tokens_map.json"), *source.glob("vocab.*")]
        if found:
            for file in [*found, *source.glob("merges.txt"), *source.glob("chat_template*")]:
                shutil.copy(file, target)
            return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
