"""What the stages leave behind, typed and versioned: enough to draw every table without the stage's other files.

`train.json` holds times and memory; `scores.json` and `footprint.json` hold nothing that differs between two
reproductions on one machine.
"""

from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, read_json, write_json
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.explain import explain
from sbora_bench.plan.metric import SHARE, Metric

VERSION: Final = 1
OLD_MACRO = "_macro"  # ended the metric's name before there was `mean_over`
SEAL = "record_sha256"  # a record's own checksum, of all its other keys
# what is alive at the peak of a training step, by what it is for
MEMORY_KINDS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "temporaries")


class Record(Strict):
    version: Literal[1] = VERSION


class RunRecord(Record):
    experiment: str
    table: str
    run: str
    model: str
    method: str
    rank: int | None
    seed: int | None
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""


class StageRecord(Record):
    """What a stage decided for a table on the way; `settings_sha256`: of all that it decided by."""

    experiment: str
    table: str
    settings_sha256: str


class BaseRecord(Record):
    """`base.json`: where a model's weights came from and what they are."""

    model: str
    source: dict[str, Any]
    files: dict[str, str] = Field(description="file name -> SHA-256; empty where the hub's cache holds them")
    summary: dict[str, Any] = Field(default_factory=dict, description="of what was made here")


class TaskData(Strict):
    """What a table scores of one task."""

    status: Literal["ok", "not available"] = "ok"
    reason: str = ""
    source: str = Field(default="", description="the catalog's data entry")
    sha256: str = Field(default="", description="of the prepared JSON lines")
    available: int = Field(default=0, description="items in the source")
    contaminated: list[int] = Field(default_factory=list, description="items whose question is in the training set")
    n: int = Field(default=0, description="items scored")


class ContaminationRecord(Record):
    """`contamination.json`: for each task of a table, the test items that the training set holds."""

    experiment: str
    table: str
    train: str
    train_rows: int
    train_sha256: str
    policy: Literal["keep", "drop"]
    settings_sha256: str = Field(default="", description="of all that the data were made from")
    own_data: dict[str, str] = Field(default_factory=dict, description="data entry of one's own -> SHA-256")
    tasks: dict[str, TaskData]


class Sparse(Strict):
    """A part of a record whose unknown values (None) are left out of the file."""

    @model_serializer(mode="wrap")
    def _known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class LossPoint(Sparse):
    """What was logged at an update: of training, or the validation loss alone."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    validation_loss: float | None = None


class TooLong(Strict):
    """Training rows of more tokens than `max_length`."""

    rows: int = Field(description="of them, in all")
    cut: int = Field(description="of these, rows that were cut and trained on")
    dropped: int = Field(description="of these, rows that were left out")


class Training(Sparse):
    """How a training went; of a failed one the step that it got to, and its loss curve."""

    steps: int | None = Field(default=None, description="updates")
    examples: int | None = None
    tokens: int | None = None
    seconds: float | None = Field(default=None, description="since the start, or since it went on from a checkpoint")
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = Field(default=None, description="of the allocator on a GPU, else of the process")
    micro_batch: int | None = Field(default=None, description="rows that went through the model at a time, at most")
    accumulation: int | None = None
    out_of_memory_with: list[int] | None = Field(default=None, description="micro-batches that were too large")
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    resumed_from_step: int | None = None
    best_checkpoint_step: int | None = None
    too_long: TooLong | None = Field(default=None, description="rows of more tokens than the protocol's max_length")
    last_good_checkpoint: int | None = Field(default=None, description="step; of a failed training")
    step: int | None = Field(default=None, description="where a training failed")
    adapter_sha256: dict[str, str] = Field(default_factory=dict, description="file name -> SHA-256")
    loss_curve: list[LossPoint] = Field(default_factory=list)

    def losses(self) -> list[float]:
        """The logged training losses, in nats a token."""
        return [point.loss for point in self.loss_curve if point.loss is not None]


class Git(Sparse):
    commit: str | None = None
    dirty: bool | None = Field(default=None, description="whether the tree differed from the commit")


class Hardware(Sparse):
    cores: int | None = None
    cpu: str | None = None
    gpu: str | None = Field(default=None, description="its name; none: trained on the CPU")
    machine: str | None = None
    system: str | None = None


class Environment(Sparse):
    """What a training ran on."""

    algorithms: str | None = Field(default=None, description="which torch took")
    code_sha256: str | None = None
    git: Git = Field(default_factory=Git)
    hardware: Hardware = Field(default_factory=Hardware)
    threads: int | None = None
    train_sha256: str | None = Field(default=None, description="of the prepared training rows")
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version")


class TrainRecord(RunRecord):
    """`train.json` in three parts: the settings, what happened, on what."""

    asked: dict[str, Any] = Field(description="the settings, as plan.settings.training_settings has them")
    happened: Training
    on: Environment


def old_metric(metric: str) -> tuple[str, Literal["items", "subjects"]]:
    """A metric's name as it was written before there was `mean_over`: the name, and what the mean is over."""
    return metric.removesuffix(OLD_MACRO), "subjects" if metric.endswith(OLD_MACRO) else "items"


class TaskScore(Strict):
    """One task's score: the mean over its items of a metric, or the mean over subjects of those means."""

    status: Literal["ok", "not available", "failed"] = "ok"
    reason: str = ""
    metric: str = Field(default="", description="its name")
    mean_over: Literal["items", "subjects"] = "items"
    measured: Metric = Field(default=SHARE, exclude_if=lambda metric: metric == SHARE)
    value: float | None = None
    stderr: float | None = None
    n: int = 0
    task_version: str = ""
    task_hash: str = Field(default="", description="SHA-256 of the lm-eval task as it was run")
    samples_sha256: str = ""
    extra: dict[str, float] = Field(default_factory=dict, description="further metrics, micro average say")

    def model_post_init(self, _: Any) -> None:
        """A score from before there was `mean_over` says it as one from now."""
        if "mean_over" not in self.model_fields_set:
            vars(self).update(zip(("metric", "mean_over"), old_metric(self.metric), strict=True))

    @property
    def shown_metric(self) -> str:
        """The metric's name, and what the mean is over where that isn't the items."""
        return self.metric if self.mean_over == "items" else f"{self.metric}, mean over {self.mean_over}"


class ModelCheck(Sparse):
    """How the logits of the scored model, on a few fixed tokens, compare to those that training left."""

    status: Literal["as trained", "no logits of training"]
    effect: float = Field(description="largest difference to the base's logits")
    difference: float | None = Field(default=None, description="largest, to the logits of the model as trained")
    tolerance: float | None = Field(default=None, description="the difference that rounding explains")


class ScoresRecord(RunRecord):
    """`scores.json`."""

    suite: str
    train: str | None
    protocol: str
    settings_sha256: str
    algorithms: str = Field(default="", description="which torch took; empty where no model was loaded")
    model_check: ModelCheck | None = Field(default=None, exclude_if=lambda check: check is None)
    tasks: dict[str, TaskScore]


class FootprintRecord(Record):
    """`footprint.json`: exact counts of a cell; bytes are of what is stored.

    `not traced`: the memory and the work of an update could not be estimated, for the `reason`; counts are None where
    they could not be made either.
    """

    model: str
    method: str
    rank: int | None
    status: Literal["ok", "not traced"] = "ok"
    reason: str = ""
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    memory: dict[str, int | None] = Field(
        default_factory=dict, description="weights, optimizer, activations, peak: bytes, estimated"
    )
    measured_peak_bytes: int | None = Field(
        default=None, description="the allocator's, in a real step of this size on a CPU with random weights"
    )
    flops_per_step: int | None = None
    flops: dict[str, int] = Field(
        default_factory=dict, description="of an update: forward, recomputation, backward, the adapter's"
    )
    moved_bytes_per_step: int | None = Field(default=None, description="operands read and results written")
    notes: list[str] = Field(default_factory=list)


R = TypeVar("R", bound=Record)


def write_record(path: str | Path, record: Record) -> None:
    """Write a record as JSON with its own checksum, whole or not at all; the same record, the same bytes."""
    value = record.model_dump(mode="json")
    write_json(path, value | {SEAL: hash_of(value)})


def record_at(path: str | Path, kind: type[R]) -> R | None:
    """The record, or None where there is none. Raises UserError as `read_record` does."""
    return read_record(path, kind) if Path(path).exists() else None


def _check_version(path: str | Path, value: Any) -> None:
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise UserError(
            f"{path}: version: found {version!r}, allowed {VERSION}; another version of the harness wrote this:"
            " choose another results folder or delete this one"
        )


def check_results(results: str | Path) -> None:
    """Raise UserError if another version left any record below `results`; a damaged one is reported by its stage."""
    for path in sorted(Path(results).glob("*/*/*.json")):
        try:
            value = read_json(path)
        except UserError:
            continue
        _check_version(path, value)


def read_record(path: str | Path, kind: type[R]) -> R:
    """Read and check a record. Raises UserError if it's missing, damaged, or another version wrote it.

    One without a checksum, from before there were any, is taken as it is.
    """
    value = read_json(path)
    _check_version(path, value)
    seal = value.pop(SEAL, None)
    if seal is not None and seal != hash_of(value):
        raise UserError(f"{path}: {SEAL}: differs from the contents: damaged or edited; delete it and make it again")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, kind)}; delete it and run the experiment again") from None
