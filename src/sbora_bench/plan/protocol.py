"""A protocol in the catalog: how a table's runs are trained and scored, field by field (docs/protocol.md)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sbora_bench.plan.entry import Strict

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
    loss_kernel: Literal["any", "torch", "liger"] = Field(
        default="any",
        exclude_if=lambda choice: choice == "any",
        description="of a loss from supervised positions; any: Liger's on a GPU where it is installed, else torch's",
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
    tokens_at_once: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda tokens: not tokens,
        description="a micro-batch of more, padding among them, is trained on in parts of whole rows; 0: whole",
    )
    products: Literal["weights", "float32"] = Field(
        default="weights",
        exclude_if=lambda choice: choice == "weights",
        description="in training on a CPU, what products with frozen 16-bit weights are computed in: their own type, or"
        " float32, which some processors take less time for; equal but for rounding",
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
    score_batch: int | Literal["auto"] = Field(
        default=1,
        description="items scored at a time; auto: by length and memory, so that other machines round otherwise",
    )
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

    @field_validator("score_batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError("allowed a whole number of at least 1, or auto")
        return value

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
        if self.loss_kernel == "liger" and self.logits == "all":
            raise ValueError("loss_kernel: found liger, allowed with logits: supervised")
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
