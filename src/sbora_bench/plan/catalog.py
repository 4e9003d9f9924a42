"""The catalog: typed entries of models, methods, tasks, suites, data, protocols and cards, read from YAML.

Every `*.yaml` in `experiments/catalog/` may hold any of the sections `models`, `methods`, `tasks`, `suites`, `data`,
`prompts`, `protocols`, `protocol_notes`, `devices` and `lengths`; a new entry in any of them (also in a file of your
own) is all that a new model, method or task takes. A task's template may lie beside; it is no catalog.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import (
    CATALOG,
    DataEntry,
    LmEvalData,
    LmEvalTask,
    OwnData,
    PromptEntry,
    SuiteEntry,
    TaskEntry,
)
from sbora_bench.plan.entry import BELOW, FILE_NAME, NAME, Strict
from sbora_bench.plan.lengths import Lengths
from sbora_bench.plan.lm_eval_tasks import spelled_out
from sbora_bench.strict_yaml import read_yaml

SIZES = {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"}


# --- models ---------------------------------------------------------------------------------------------------------


class HubSource(Strict):
    """Weights from the Hugging Face hub at a pinned revision (safetensors only), or a local folder in their place."""

    kind: Literal["hub"]
    id: str = Field(pattern=BELOW)
    revision: str = "main"
    gated: bool = False


class WheelSource(Strict):
    """Weights out of a GGUF file inside a wheel on PyPI, checked by SHA-256."""

    kind: Literal["wheel"]
    package: str = Field(pattern=BELOW)
    version: str = Field(pattern=BELOW)
    sha256: str
    member: str


class PretrainSource(Strict):
    """A small base trained here from the seeded synthetic corpus (`sbora-bench pretrain`)."""

    kind: Literal["pretrain"]
    recipe: dict[str, Any]


class ShippedSource(Strict):
    """A small base that was trained here once and comes with the harness (`sbora-bench pretrain` makes it again)."""

    kind: Literal["shipped"]
    recipe: dict[str, Any]
    sha256: str = Field(description="of the file of its weights")


class FolderSource(Strict):
    """A local folder with config.json, safetensors and a tokenizer."""

    kind: Literal["folder"]
    path: str


class GgufSource(Strict):
    """A GGUF file of an architecture that transformers reads; written as float32 safetensors with its tokenizer."""

    kind: Literal["gguf"]
    path: str = Field(pattern=r"\.gguf$")


class RandomSource(Strict):
    """Random weights, drawn here from a seed and never trained, for rehearsals (models/untrained.py)."""

    kind: Literal["random"]
    seed: int
    tokenizer: Literal["llama", "llama3"]


class ModelEntry(Strict):
    title: str
    pad_token: str = Field(default="", description="what pads where the tokenizer has no pad token; empty: its EOS")
    source: Annotated[
        HubSource | WheelSource | PretrainSource | ShippedSource | RandomSource | FolderSource | GgufSource,
        Field(discriminator="kind"),
    ]
    licence: str = ""
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of config.json, LlamaConfig's where there is no `model_type`; enough to count without files",
    )

    @field_validator("architecture")
    @classmethod
    def _sizes(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        for key in SIZES & architecture.keys():
            if architecture[key] is not None and type(architecture[key]) is not int or architecture[key] < 1:
                raise ValueError(f"{key}: found {_short(architecture[key])}, allowed are whole numbers from 1")
        return architecture


# --- methods --------------------------------------------------------------------------------------------------------


RANKED = {"LORA", "ADALORA", "SBORA"}  # PEFT types whose rank can't be above a layer's shorter side
PROMPTS = {"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CARTRIDGE"}  # whose rank takes positions of the model


class Hooks(Strict):
    """What a method wants of training beside its PEFT config (inputs/method_hooks.py).

    What PEFT's own methods can't do without (AdaLoRA's pruning, first values from data for EVA, LoRA-GA and CorDA)
    needs no entry.
    """

    optimizer: Literal["lora-plus", "lora-fa", "riemannian"] | None = None
    optimizer_arguments: dict[str, float] = Field(default_factory=dict, description="{loraplus_lr_ratio: 16}, say")
    init_batches: int = Field(default=8, ge=1, description="micro-batches of training data for first values from data")


class MethodEntry(Strict):
    """A PEFT method: the config class that `peft_type` names, and its arguments.

    In `arguments`, `$rank $alpha $dropout $target_modules $seed $steps` stand for what the run and its protocol say,
    `$rank*1.5`, `$rank/100` and `1-$rank/100` for a part of it.
    """

    title: str
    source: str = Field(default="", exclude=True, description="where it is published")
    rank_means: str = Field(default="rank of the update", exclude=True, description="the size that `rank` stands for")
    peft_type: str
    arguments: dict[str, Any]
    quantization: Literal["nf4"] | None = None
    hooks: Hooks | None = Field(default=None, exclude_if=lambda hooks: hooks is None)

    @property
    def has_size(self) -> bool:
        """Whether `rank` changes anything; a method without a size of its own stands at rank 1."""
        return "$rank" in json.dumps(self.arguments)


# --- protocols ------------------------------------------------------------------------------------------------------

HostDefect = Literal["rope-base-10000", "qdora-norm-unscaled"]
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit", "adamw_bnb_8bit", "adamw_8bit"
]


class Protocol(Strict):
    """How a table's runs are trained and scored. Every field has its note in the catalog's `protocol_notes`."""

    title: str
    train_prompt: str = Field(
        description="prompt template of the training examples: of data/prompts.py, or of the catalog's `prompts`"
    )
    score_prompt: str = Field(description="prompt template of the scored items")
    loss_on: Literal["all", "answer"]
    loss_average: Literal["micro-batch", "tokens"] = Field(
        default="tokens", description="mean of the micro-batches' means, or mean over all tokens of an update"
    )
    logits: Literal["all", "supervised"] = Field(
        default="all",
        exclude_if=lambda choice: choice == "all",
        description="training's logits: of all positions, or of those alone that have a loss; equal but for rounding",
    )
    sort_by_length: bool = Field(
        default=False,
        exclude_if=lambda choice: not choice,
        description="an update's examples go into its micro-batches by length, so that less is padded",
    )
    padding_free: bool = Field(
        default=False,
        exclude_if=lambda choice: not choice,
        description="a micro-batch is one row of its examples, each attended to alone; equal but for rounding",
    )
    max_length: int = Field(ge=8, description="tokens an example may have; right-truncated")
    too_long: Literal["cut", "drop", "fail"] = Field(
        default="cut",
        exclude_if=lambda choice: choice == "cut",
        description="rows of more tokens: cut (left out where no label is left), all left out, or refused",
    )
    source_length: int | None = Field(default=None, ge=1, description="tokens the prompt alone may have")
    target_length: int | None = Field(default=None, ge=1, description="tokens the answer alone may have")
    group_by_length: Literal["tokens", "characters"] | None = Field(
        default=None, description="draw updates of examples alike in length, counted so"
    )
    length_buckets: int | None = Field(
        default=None,
        ge=2,
        exclude_if=lambda rows: rows is None,
        description="rows in the order of the file, so many at a time sorted by length, longest first; none is drawn",
    )
    end_of_text: Literal["each", "padded"] = Field(
        default="each",
        exclude_if=lambda rows: rows == "each",
        description="with loss on all: which rows learn to end, all that have room, or those that their batch pads",
    )
    padding_side: Literal["left", "right"]
    pad_to_multiple_of: int = Field(default=8, ge=1)
    pad: Literal["zero", "own", "add"] = Field(
        description="token id 0; the tokenizer's own, else the model entry's `pad_token`; or a new [PAD] row"
    )
    alpha_over_rank: float | None = Field(default=None, gt=0, description="alpha = this x rank")
    alpha: float | None = Field(default=None, gt=0, description="alpha, whatever the rank")
    dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] | str
    learning_rate: float = Field(gt=0)
    schedule: Literal["linear", "constant", "cosine", "constant_with_warmup"]
    warmup_steps: int = Field(default=0, ge=0)
    optimizer: Optimizer = Field(
        description="as transformers' TrainingArguments.optim; those whose memory is estimated"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="of Adam")
    epsilon: float = Field(default=1e-8, gt=0, description="of Adam")
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    batch_size: int = Field(ge=1, description="examples an update sees")
    micro_batch: int = Field(ge=1, description="examples a forward pass sees; divides batch_size")
    steps: int | None = Field(default=None, ge=1, description="updates")
    epochs: float | None = Field(default=None, gt=0)
    validation_rows: int = Field(default=0, ge=0)
    validation_seed: int = 42
    validation_limit: int | None = Field(default=None, ge=1, description="rows of those that a validation reads")
    validation_every: int | None = Field(default=None, ge=1, description="updates between validations")
    keep_best: bool = Field(default=False, description="the checkpoint of lowest validation loss is the result")
    weights_dtype: Literal["float32", "bfloat16", "float16"]
    autocast: Literal["bfloat16", "float16"] | None = None
    compute_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of 4-bit matrix products"
    )
    tf32: bool = Field(default=False, description="TF32 in float32 matrix products, where the GPU has it")
    double_quantization: bool = True
    gradient_checkpointing: bool = False
    checkpoint_every: int | None = Field(default=None, ge=1, description="updates between checkpoints to resume from")
    merge: bool = Field(default=False, description="merge the adapter into the base before scoring")
    num_beams: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=32, ge=1, description="unless the task says otherwise")
    score_batch: int = Field(default=1, ge=1)
    score_max_length: int = Field(default=2048, ge=8)
    shared_prefixes: bool = Field(
        default=False,
        exclude_if=lambda choice: not choice,
        description="where likelihoods are scored: what prompts share is read once; equal but for rounding",
    )
    extraction: Literal["official", "strict"]
    macro_average: bool = Field(default=True, description="MMLU: mean over subjects rather than over items")
    letters: Literal["bare", "spaced"] = Field(default="bare", description='MMLU: token of "A" or of " A"')
    threads: int = Field(default=1, ge=1, description="CPU threads of a run; part of what makes its bytes")
    host_defects: tuple[HostDefect, ...] = Field(
        default=(), description="defects of the authors' libraries to bring back (models/host.py)"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> "Protocol":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if (self.alpha is None) == (self.alpha_over_rank is None):
            raise ValueError("give either alpha or alpha_over_rank")
        if self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        if self.keep_best and not (self.validation_rows and self.validation_every):
            raise ValueError("keep_best needs validation_rows and validation_every")
        if self.length_buckets and (self.validation_rows or self.group_by_length or self.sort_by_length):
            raise ValueError(
                f"length_buckets: found {self.length_buckets}, allowed without validation_rows, group_by_length and"
                " sort_by_length: it is an order of its own, in which no row is drawn"
            )
        if self.end_of_text == "padded" and self.loss_on != "all":
            raise ValueError("end_of_text: found padded, allowed with loss_on: all")
        if self.sort_by_length and self.loss_average == "micro-batch":
            raise ValueError(
                "sort_by_length: found true, allowed with loss_average: tokens; a mean of micro-batches' means is"
                " another number where other examples share a micro-batch"
            )
        if self.merge and "qdora-norm-unscaled" in self.host_defects:
            raise ValueError("host_defects: qdora-norm-unscaled needs merge: false; PEFT merges by the norm it trains")
        return self


# the fields of a protocol that training doesn't depend on
SCORING = {"score_prompt", "merge", "num_beams", "max_new_tokens", "score_batch", "score_max_length", "extraction"}
SCORING |= {"macro_average", "letters", "shared_prefixes", "title"}


class ProtocolEntry(BaseModel):
    """A protocol as written: fields, optionally on top of another (`extends`), with exceptions by suite."""

    model_config = ConfigDict(extra="allow", frozen=True)
    extends: str | None = None
    suites: dict[str, dict[str, Any]] = Field(default_factory=dict)


class FieldNote(Strict):
    """On a protocol's field: where the official value stands, and why the clean one differs (docs/protocol.md)."""

    source: str | dict[str, str] = Field(description="one for all suites, or one a suite")
    clean: str = ""


class DeviceEntry(Strict):
    """A card, as its maker describes it: memory, bandwidth, dense peak of matrix products by dtype."""

    title: str
    memory_gib: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    tflops: dict[Literal["float32", "bfloat16", "float16"], Annotated[float, Field(gt=0)]]
    source: str


class Catalog(Strict):
    models: dict[Annotated[str, Field(pattern=NAME)], ModelEntry] = Field(default_factory=dict)
    methods: dict[Annotated[str, Field(pattern=NAME)], MethodEntry] = Field(default_factory=dict)
    tasks: dict[Annotated[str, Field(pattern=FILE_NAME)], TaskEntry] = Field(default_factory=dict)
    suites: dict[Annotated[str, Field(pattern=NAME)], SuiteEntry] = Field(default_factory=dict)
    prompts: dict[Annotated[str, Field(pattern=NAME)], PromptEntry] = Field(default_factory=dict)
    data: dict[Annotated[str, Field(pattern=NAME)], DataEntry] = Field(default_factory=dict)
    protocols: dict[Annotated[str, Field(pattern=NAME)], ProtocolEntry] = Field(default_factory=dict)
    protocol_notes: dict[str, FieldNote] = Field(default_factory=dict)
    devices: dict[Annotated[str, Field(pattern=NAME)], DeviceEntry] = Field(default_factory=dict)
    lengths: dict[Annotated[str, Field(pattern=NAME)], Lengths] = Field(default_factory=dict)
    _files: dict[tuple[str, str], str] = PrivateAttr(default_factory=dict)

    def where(self, section: str, name: str) -> str:
        """File and key of an entry, as messages begin."""
        return f"{self._files.get((section, name), 'catalog')}: {section}.{name}"

    def find(self, section: str, name: str, where: str) -> Any:
        """The entry `name` of `section`. Raises UserError beginning with `where` and naming near entries."""
        entries = getattr(self, section)
        if name not in entries:
            raise UserError(f"{where}: {one_of(name, entries, section[:-1] if section != 'data' else section)}")
        return entries[name]

    def protocol(self, name: str, suite: str, overrides: dict[str, Any], where: str) -> Protocol:
        """The protocol `name` as it holds for `suite`, with a table's own `overrides`. Raises UserError."""
        fields: dict[str, Any] = {}
        chain: list[str] = []
        following: str | None = name
        while following:
            if following in chain:
                raise UserError(f"{where}: protocol {name!r} extends itself ({' -> '.join([*chain, following])})")
            chain.append(following)
            following = self.find("protocols", following, where).extends
        for link in reversed(chain):
            entry = self.protocols[link]
            fields |= (entry.model_extra or {}) | entry.suites.get(suite, {})
        try:
            return Protocol.model_validate(fields | overrides)
        except ValidationError as error:
            raise UserError(f"{where}: protocol {name!r}: {explain(error, Protocol)}") from None


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first of pydantic's complaints as one line: key, found, allowed; and how many more there are."""
    first, *more = error.errors()
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    suffix = "" if first["type"] == "missing" else f", found {_short(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        suffix = ""  # the whole entry
    if first["type"] == "string_type" and not isinstance(first["input"], dict | list):
        suffix += "; put it in quotes"  # YAML reads on, 007 and 2020-01-01 as other things than text
    if first["type"] == "extra_forbidden":
        message, suffix = one_of(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]), "key"), ""
    rest = f" (and {len(more)} more)" if more else ""
    return f"{key}: {message}{suffix}{rest}"


def _keys_at(model: type[BaseModel] | None, place: tuple[str | int, ...]) -> set[str]:
    """The keys that the models at a place of `model` may have: part by part through fields, names and kinds."""
    models = [] if model is None else [model]
    for part in place:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        kinds = [m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        models = [inner for field in fields for inner in _models_in(field.annotation)] or kinds or models
    return {field.alias or key for m in models for key, field in m.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_references(catalog: Catalog) -> None:
    """Raise UserError for a name in an entry that no other entry has, and for an unknown key of a protocol."""
    where = catalog.where
    if "base" in catalog.methods:
        raise UserError(f"{where('methods', 'base')}: `base` is the untuned model; give the method another name")
    for name, suite in catalog.suites.items():
        for task in suite.tasks:
            catalog.find("tasks", task, f"{where('suites', name)}.tasks")
    for name, entry in catalog.tasks.items():
        for which, items in entry.items.items():
            catalog.find("data", items, f"{where('tasks', name)}.items.{which}")
    for name, data in catalog.data.items():
        if data.kind == "hub" and data.otherwise is not None:
            catalog.find("data", data.otherwise, f"{where('data', name)}.otherwise")
    for name, protocol in catalog.protocols.items():
        if protocol.extends is not None:
            catalog.find("protocols", protocol.extends, f"{where('protocols', name)}.extends")
        for of_suite in protocol.suites:
            catalog.find("suites", of_suite, f"{where('protocols', name)}.suites")
        for of_suite, fields in {"": protocol.model_extra or {}, **protocol.suites}.items():
            for key in fields.keys() - Protocol.model_fields.keys():
                inside = f".suites.{of_suite}" if of_suite else ""
                raise UserError(f"{where('protocols', name)}{inside}: {one_of(key, Protocol.model_fields, 'key')}")
    for key, note in catalog.protocol_notes.items():
        if key not in Protocol.model_fields:
            raise UserError(f"{where('protocol_notes', key)}: {one_of(key, Protocol.model_fields, 'field')}")
        for of_suite in note.source if isinstance(note.source, dict) else ():
            catalog.find("suites", of_suite, f"{where('protocol_notes', key)}.source")


# A YAML file beside the catalog's with any of these keys and no section of a catalog is lm-eval's: a task's template.
TEMPLATE_KEYS = {"output_type", "doc_to_text", "doc_to_target", "task", "group", "include"}


@cache
def load_catalog(folder: str = str(CATALOG)) -> Catalog:
    """Read and merge every YAML of the folder. Raises UserError naming file and key."""
    merged: dict[str, dict] = {}
    origin: dict[tuple[str, str], str] = {}
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise UserError(f"{folder}: no catalog here; run this in the root of the repository")
    for path in files:
        try:
            sections = read_yaml(path)
            if sections.keys() & TEMPLATE_KEYS and not sections.keys() & Catalog.model_fields.keys():
                continue
            sections, named = spelled_out(sections, path)
            Catalog.model_validate(sections)
        except ValidationError as error:
            raise UserError(f"{path}: {explain(error, Catalog)}") from None
        for section, entries in sections.items():
            for name, entry in entries.items():
                if name in merged.setdefault(section, {}):
                    raise UserError(f"{path}: {section}.{name}: stands in another catalog file too; remove one")
                merged[section][name] = entry
                origin[section, name] = str(path)
        for section, entries in named.items():
            for name, entry in entries.items():
                if merged.setdefault(section, {}).setdefault(name, entry) != entry:
                    raise UserError(
                        f"{path}: suites: {section} {name} is another one in another file; give both the same"
                    )
                origin.setdefault((section, name), str(path))
    catalog = Catalog.model_validate(merged)
    catalog._files.update(origin)
    for (section, name), file in origin.items():
        entry = getattr(catalog, section)[name]
        beside = [entry, entry.lm_eval] if isinstance(entry, TaskEntry) else [entry]
        for one in beside:
            if isinstance(one, OwnData | LmEvalData | LmEvalTask | TaskEntry):
                one._beside = Path(file).parent
    check_references(catalog)
    return catalog
