"""The base model that a saved adapter was trained on, found from the adapter and the base's configuration.

A base's own configuration does not say all of it: training puts another head on it, changes the number of its
labels, enlarges its vocabulary, or takes part of it (a vision-language model's text model). The adapter says the
rest, by its task, by the class that PEFT notes down, and by the names and shapes of its tensors.
"""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from .config import SboraConfig

AUTO_CLASSES = {  # of transformers, by PEFT's task type
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
PREFIX = "base_model.model."


@dataclass
class Base:
    """How to build the model that an adapter was trained on.

    Attributes:
        cls: a class of transformers with `from_pretrained`.
        path: a folder or a name on the hub.
        config: the adapter's.
        settings: the base's configuration, with the adapter's number of labels.
        vocabulary: rows of the embedding if the adapter's training changed them, else None.
        relabelled: whether the adapter has another number of labels than the base's configuration says.
        untied: whether the adapter changes one of two tied embeddings, so that they are tied no more.
        tokens_apart: whether it trains single tokens of tied embeddings, and they are no longer the same.
    """

    cls: Any
    path: str | Path
    config: SboraConfig
    settings: Any
    vocabulary: int | None = None
    relabelled: bool = False
    untied: bool = False
    tokens_apart: bool = False

    def skeleton(self) -> nn.Module:
        """The model on the meta device, without weights."""
        settings = copy.deepcopy(self.settings)
        if self.vocabulary:
            settings.get_text_config().vocab_size = self.vocabulary
        with torch.device("meta"):
            build = self.cls.from_config if hasattr(self.cls, "from_config") else self.cls._from_config
            return build(settings)

    def adapted(self, config: PeftConfig) -> PeftModel:
        """The skeleton with an adapter of a configuration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same come when the adapter is loaded in earnest
            return get_peft_model(self.skeleton(), copy.deepcopy(config), low_cpu_mem_usage=True)

    def load(self) -> nn.Module:
        """The model with its weights, in the precision that they are saved in.

        Raises:
            ValueError: the adapter cannot be merged into it.
        """
        if self.tokens_apart:
            raise ValueError(
                "The base's embeddings are tied, and training changed single tokens (trainable_token_indices) and more "
                "of one of the two: they cannot be merged into one weight. Export to 'lora'."
            )
        model = self.cls.from_pretrained(
            self.path,
            config=copy.deepcopy(self.settings),
            revision=self.config.revision,
            dtype="auto",
            ignore_mismatched_sizes=self.relabelled,
        )
        if self.vocabulary and self.vocabulary != len(model.get_input_embeddings().weight):
            with torch.random.fork_rng():  # rows that the adapter does not bring are drawn
                torch.manual_seed(self.config.random_seed)
                model.resize_token_embeddings(self.vocabulary)
        if self.untied:
            for settings in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
                settings.tie_word_embeddings = False
            for names in tied_weights(model) - tied_weights(replace(self, settings=model.config).skeleton()):
                for name in names[1:]:
                    owner, _, own = name.rpartition(".")
                    weight = nn.Parameter(model.get_parameter(name).detach().clone(), requires_grad=False)
                    setattr(model.get_submodule(owner), own, weight)
        return model


def tied_weights(model: nn.Module) -> set[tuple[str, ...]]:
    """The names of parameters that are one."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter.data_ptr() or id(parameter), []).append(name)
    return {tuple(sorted(group)) for group in names.values() if len(group) > 1}


def find_base(path: str | Path, adapter: Path, config: SboraConfig, tensors: dict[str, Tensor]) -> Base:
    """The base model that an adapter fits.

    The class is the one that PEFT noted down, the one of the adapter's task, or the one that the base was
    saved by: the first that has every module the adapter's tensors are named after, in their shapes. The
    number of labels and of embedded tokens follow those shapes; if the adapter brings no embedding, a
    tokenizer beside it with more tokens than the base has enlarges the vocabulary, as in PEFT's
    `AutoPeftModel`.

    Args:
        path: the base, a folder or a name on the hub.
        adapter: the adapter's folder.
        config: the adapter's configuration.
        tensors: the adapter's tensors, under the names that they are saved by.

    Raises:
        ValueError: the adapter fits none of the classes.
    """
    import transformers

    settings = transformers.AutoConfig.from_pretrained(path, revision=config.revision)
    reasons = []
    for cls in _classes(config, settings):
        base = Base(cls, path, config, copy.deepcopy(settings))
        try:
            _fit(base, adapter, tensors)
        except (ValueError, TypeError, AttributeError) as error:
            reasons.append(f"{cls.__name__}: {str(error).splitlines()[0]}")
        else:
            return base
    raise ValueError(f"The adapter does not belong to the base model {path}: " + "; ".join(reasons))


def _classes(config: SboraConfig, settings: Any) -> Iterator[Any]:
    import transformers

    noted = config.auto_mapping or {}
    names = [
        (noted.get("parent_library", ""), noted.get("base_model_class")),
        ("transformers", AUTO_CLASSES.get(config.task_type)),
        *(("transformers", name) for name in settings.architectures or ()),
    ]
    seen = set()
    for library, name in names:
        # nothing but transformers is imported on the word of a file
        if name is None or library.partition(".")[0] != "transformers":
            continue
        cls = getattr(importlib.import_module(library), name, None) or getattr(transformers, name, None)
        if cls is not None and cls not in seen:
            seen.add(cls)
            yield cls


def _fit(base: Base, adapter: Path, tensors: dict[str, Tensor]) -> None:
    """Set the base's labels and vocabulary so that the adapter fits.

    Raises:
        ValueError: it does not, whatever they are.
    """
    skeleton = base.skeleton()
    embeddings = _embeddings(skeleton)
    whole = (".weight", *([".sbora_weight"] if base.config.variant == "fa" else []))
    rows = {
        len(tensor)
        for name, tensor in tensors.items()
        for suffix in whole
        if _plain(name).removesuffix(suffix) in embeddings
    }
    if len(rows) > 1:
        raise ValueError(f"its embeddings have different numbers of tokens: {sorted(rows)}")
    size = len(skeleton.get_input_embeddings().weight) if embeddings else 0
    if rows:
        base.vocabulary = next(iter(rows - {size}), None)
    elif embeddings and (adapter / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        tokens = len(AutoTokenizer.from_pretrained(str(adapter)))
        base.vocabulary = tokens if tokens > size else None
    changed = {_plain(name).rpartition(".")[0] for name in tensors if ".token_adapter." not in name}
    tied = len(embeddings) == 2 and bool(getattr(skeleton.config, "tie_word_embeddings", False))
    base.untied = tied and not base.config.ensure_weight_tying and bool(changed & embeddings)
    of_tokens = ".token_adapter.trainable_tokens_delta"
    deltas = {_plain(name).removesuffix(of_tokens): t for name, t in tensors.items() if name.endswith(of_tokens)}
    if tied and deltas:
        own = next(deltas.get(name) for name, m in skeleton.named_modules() if m is skeleton.get_input_embeddings())
        base.tokens_apart = base.untied or own is None or any(not torch.equal(own, delta) for delta in deltas.values())

    misfits = _misfits(base, tensors)
    labels = {saved[0] for saved, own in misfits.values() if saved and own and saved[1:] == own[1:]}
    if len(labels) == 1:
        base.settings.num_labels, base.relabelled = labels.pop(), True
        misfits = _misfits(base, tensors)
    for name, (saved, own) in misfits.items():
        module = _plain(name).rpartition(".")[0]
        if own is None:
            raise ValueError(f"it has no {module!r}")
        if saved is None:
            raise ValueError(f"it needs {name!r}, which the adapter's file does not hold")
        raise ValueError(f"{module!r} does not fit: {name!r} is {list(saved)} in the file, {list(own)} in the model")


def _plain(name: str) -> str:
    """A saved tensor's name in the base model, without what PEFT wraps around a module."""
    wrapped = r"\.(token_adapter\.base_layer|base_layer|original_module|modules_to_save)(?=\.)"
    return re.sub(wrapped, "", name.removeprefix(PREFIX))


def _embeddings(model: nn.Module) -> set[str]:
    """The names of the embedding of tokens and of the layer that gives logits over them."""
    names = set()
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        try:
            module = getattr(model, getter)()
        except (AttributeError, NotImplementedError):
            continue
        if module is not None and getattr(module, "weight", None) is not None and module.weight.dim() == 2:
            names |= {name for name, other in model.named_modules() if other is module}
    return names


def _misfits(base: Base, tensors: dict[str, Tensor]) -> dict[str, tuple[tuple | None, tuple | None]]:
    """Names whose shapes differ, with the shape in the file and in the model, None where there is none."""
    skeleton = base.skeleton()
    plain = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    tied = _embeddings(skeleton) if getattr(skeleton.config, "tie_word_embeddings", False) else set()
    model = base.adapted(base.config)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    own = {name: tuple(tensor.shape) for name, tensor in own.items()}
    misfits: dict[str, tuple[tuple | None, tuple | None]] = {}
    misfits |= {name: (None, shape) for name, shape in own.items() if name not in tensors}
    for name, tensor in tensors.items():
        shape = own.get(name, plain.get(_plain(name)))
        if shape is None and name.removeprefix(PREFIX).partition(".token_adapter.")[0] in tied:
            continue  # the head's tokens are the embedding's, and saved again where the vocabulary was enlarged
        if shape != tuple(tensor.shape):
            misfits[name] = (tuple(tensor.shape), shape)
    for name, index in tensors.items():
        if name.endswith(".sbora_index") and name not in misfits:
            layer = model.get_submodule(name.rpartition(".")[0])
            width = layer.in_features if base.config.variant == "fa" else layer.out_features
            if index.max() >= width:
                raise ValueError(f"{name!r} points at {int(index.max())}, but there are {width}")
    return misfits
