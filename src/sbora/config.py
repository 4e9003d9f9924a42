"""The configuration of an SBoRA adapter."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal, cast

from peft.config import PeftConfig

from ._peft import get_pattern_key, peft_type

VARIANTS = ("fa", "fb")
BIASES = ("none", "all", "sbora_only")
INDEX_INITS = ("random", "activation", "gradient", "weight")


def _option(default: Any, help: str) -> Any:
    """A field, with what transformers' argument parser says of it; a mutable default is given as its class."""
    kind = "default_factory" if default is dict else "default"
    return field(**{kind: default}, metadata={"help": help})


@dataclass
class SboraConfig(PeftConfig):
    """
    The configuration of an `SboraModel`.

    SBoRA is LoRA with one of its two matrices made of standard basis vectors, so that it is an index set
    and only the other matrix is stored and trained: the update touches r columns (FA) or r rows (FB) of
    the weight and leaves the rest of it alone.

    Args:
        variant (str):
            `"fa"` fixes A: r of the layer's inputs are chosen, an (out_features, r) matrix is trained, and
            columns of the weight change. `"fb"` fixes B: r of the outputs are chosen, an (r, in_features)
            matrix is trained, and rows change.
        r (int):
            The rank: how many inputs (FA) or outputs (FB) of each layer are chosen.
        sbora_alpha (float):
            The update is scaled by `sbora_alpha / r`, as in LoRA.
        use_rslora (bool):
            Scale the update by `sbora_alpha / sqrt(r)` instead, so that its size does not fall with the rank
            (arXiv 2312.03732).
        sbora_dropout (float):
            Probability, in [0, 1), of dropping an input of the adapter during training.
        random_seed (int):
            With the name of the module it determines the module's index set. The index sets are saved with
            the adapter, and what was saved is what counts.
        region (tuple[int, int], optional):
            `(k, n)` draws each index set from the k-th (from 0) of n equal parts of the order that
            `random_seed` gives the module's inputs or outputs. Adapters of the same seed, variant and n,
            but another k, touch disjoint parts of every weight, so that they can be joined exactly
            (`SboraModel.add_weighted_adapter`). Without it the index set is drawn from the whole.
        index_init (str):
            How an index set is chosen. `"random"` draws it; `"weight"` takes the columns (FA) or rows (FB) of
            the base weight with the largest norm. `"activation"` (inputs for FA, outputs for FB with the largest
            mean square) and `"gradient"` (columns or rows whose gradient has the largest norm) need data: call
            `preprocess_index` before `get_peft_model`. With a `region` the choice is made within it.
        init_weights (bool):
            True starts at the base model (the trained matrix is zero). False starts elsewhere, drawn from
            torch's global generator as in PEFT's other methods: for tests.
        target_modules (Union[list[str], str], optional):
            Names (or their ends) of the modules to adapt, a regular expression, or `"all-linear"`. Without
            it those that PEFT chooses for LoRA on the same architecture.
        target_parameters (list[str], optional):
            Names (or their ends) of parameters to adapt that are no linear layer's, such as the experts of a
            mixture, `"mlp.experts.gate_up_proj"`. Of a parameter of three dimensions each expert gets its own
            index set of r columns (FA) or rows (FB).
        exclude_modules (Union[list[str], str], optional):
            Names (or their ends), or a regular expression, of modules to leave alone.
        bias (str):
            Which biases to train: `"none"`, `"all"` or `"sbora_only"`.
        modules_to_save (list[str], optional):
            Further modules to train in full and save with the adapter.
        trainable_token_indices (Union[list[int], dict[str, list[int]]], optional):
            Tokens whose embeddings are trained too, or a dictionary of such lists by the embedding's name.
        ensure_weight_tying (bool):
            Keep tied embeddings tied when they are trained through `modules_to_save` or
            `trainable_token_indices`. An embedding itself has no columns or rows that SBoRA could adapt.
        layers_to_transform (Union[list[int], int], optional):
            Only adapt layers with these numbers.
        layers_pattern (Union[list[str], str], optional):
            The name of the module list that `layers_to_transform` counts in, if it is not a common one.
        rank_pattern (dict[str, int]):
            Ranks of modules (names or regular expressions) that differ from `r`.
        alpha_pattern (dict[str, float]):
            Alphas of modules (names or regular expressions) that differ from `sbora_alpha`.

        index_checksum (str, optional):
            Written when an adapter is saved, and compared with its index sets when it is loaded. An argument
            alone: a copy of a configuration does not have it, for its index sets may be others.

    Raises:
        ValueError: a value is out of its range (the message says which, and what is allowed).
    """

    variant: Literal["fa", "fb"] = _option("fa", "'fa' trains r columns of each weight, 'fb' r rows.")
    r: int = _option(8, "How many inputs (fa) or outputs (fb) of a layer are chosen.")
    sbora_alpha: float = _option(8, "The update is scaled by sbora_alpha / r.")
    use_rslora: bool = _option(False, "Scale the update by sbora_alpha / sqrt(r).")
    sbora_dropout: float = _option(0.0, "Dropout of the adapter's input, in [0, 1).")
    random_seed: int = _option(0, "Determines, with the name of each module, its index set.")
    region: tuple[int, int] | None = _option(None, "(k, n): draw index sets from the k-th (from 0) of n equal parts.")
    index_init: Literal["random", "activation", "gradient", "weight"] = _option(
        "random", "Choose index sets at random, or by the largest activation, gradient or weight."
    )
    init_weights: bool = _option(True, "Start at the base model. False is for tests: start at random.")
    target_modules: list[str] | str | None = _option(None, "Names of modules to adapt, an expression, or 'all-linear'.")
    target_parameters: list[str] | None = _option(None, "Names of parameters to adapt, such as a mixture's experts.")
    exclude_modules: list[str] | str | None = _option(None, "Names of the modules to leave alone, or an expression.")
    bias: str = _option("none", "Biases to train: 'none', 'all' or 'sbora_only'.")
    modules_to_save: list[str] | None = _option(None, "Further modules to train in full and save with the adapter.")
    trainable_token_indices: list[int] | dict[str, list[int]] | None = _option(
        None, "Tokens whose embeddings are trained too; a dictionary names the layers."
    )
    ensure_weight_tying: bool = _option(False, "Keep tied embeddings tied when they are trained.")
    layers_to_transform: list[int] | int | None = _option(None, "Only adapt layers with these numbers.")
    layers_pattern: list[str] | str | None = _option(None, "The module list that layers_to_transform counts in.")
    rank_pattern: dict = _option(dict, "Ranks of modules that differ from r, by name or pattern.")
    alpha_pattern: dict = _option(dict, "Alphas of modules that differ from sbora_alpha, by name or pattern.")
    index_checksum: InitVar[str | None] = None

    def __post_init__(self, index_checksum: str | None) -> None:
        super().__post_init__()
        self._loaded_checksum = self._saved_checksum = index_checksum  # of the file read, of the adapter saved last
        self.peft_type = peft_type("SBORA")
        if isinstance(self.target_modules, list):
            self.target_modules = cast("list[str]", set(self.target_modules))  # as PEFT's own configurations do
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = cast("list[str]", set(self.exclude_modules))
        if self.region is not None:
            self.region = cast("tuple[int, int]", tuple(self.region))  # JSON knows no tuples
        self.rank_pattern = self.rank_pattern or {}
        self.alpha_pattern = self.alpha_pattern or {}
        self._check()

    def _check(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"SboraConfig: {name} is {getattr(self, name)!r}, but must be {allowed}.")

        require(self.variant in VARIANTS, "variant", f"one of {', '.join(map(repr, VARIANTS))}")
        require(_is_int(self.r) and self.r >= 1, "r", "a whole number of at least 1")
        require(0.0 <= self.sbora_dropout < 1.0, "sbora_dropout", "in [0, 1)")
        require(_is_int(self.random_seed), "random_seed", "a whole number")
        require(self.index_init in INDEX_INITS, "index_init", f"one of {', '.join(map(repr, INDEX_INITS))}")
        require(self.bias in BIASES, "bias", f"one of {', '.join(map(repr, BIASES))}")
        require(
            all(_is_int(r) and r >= 1 for r in self.rank_pattern.values()),
            "rank_pattern",
            "a dictionary of whole numbers of at least 1",
        )
        require(
            self.region is None
            or (len(self.region) == 2 and all(map(_is_int, self.region)) and 0 <= self.region[0] < self.region[1]),
            "region",
            "None or (k, n), two whole numbers with 0 <= k < n",
        )
        require(not isinstance(self.target_parameters, str), "target_parameters", "a list of names")
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                raise ValueError(f"`{name}` cannot be used when `target_modules` is a str.")

    def rank_and_alpha(self, module: str) -> tuple[int, float]:
        """The rank and alpha of the module of this name: `r` and `sbora_alpha`, unless a pattern matches."""
        r = self.rank_pattern.get(get_pattern_key(self.rank_pattern.keys(), module), self.r)
        return r, self.alpha_pattern.get(get_pattern_key(self.alpha_pattern.keys(), module), self.sbora_alpha)

    def scaling(self, r: int, alpha: float) -> float:
        """What the update of a module of this rank and alpha is multiplied with."""
        return alpha / math.sqrt(r) if self.use_rslora else alpha / r

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, sets as sorted lists: the same bytes on every save."""
        values = super().to_dict() | {"index_checksum": self._saved_checksum}
        return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
