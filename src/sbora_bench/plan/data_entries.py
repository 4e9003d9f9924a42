"""The catalog's entries of data, tasks, prompts and suites: where examples come from, how they are put and scored."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from sbora_bench.errors import UserError
from sbora_bench.files import content_sha256, sha256
from sbora_bench.plan.entry import BELOW, Strict
from sbora_bench.plan.metric import LOSS, SHARE, Metric

CATALOG = Path("experiments/catalog")
Answering = Literal["template", "label", "loss"]
LIKELIHOOD_TEMPLATES = ("continuation", "letter")  # of the harness; the others generate
ExampleField = Literal["instruction", "input", "output", "answer", "subject"]
# Columns that the source must have; or for a field of an example its column, or a Jinja template over the row.
Columns = tuple[str, ...] | dict[ExampleField, str]


def place_below(path: str, *folders: Path, is_there: Callable[[Path], bool], missing: str) -> Path:
    """The path itself where it is absolute, else the first place below one of the folders that `is_there`.

    Raises UserError naming the places that were looked at, `{}` in `missing`.
    """
    own = Path(path).expanduser()
    places = [own] if own.is_absolute() else list(dict.fromkeys(folder / own for folder in folders))
    for place in places:
        if is_there(place):
            return place
    raise UserError(missing.format(", ".join(map(str, places))))


class SyntheticData(Strict):
    """Rows made here from a seed; says so wherever it is shown."""

    kind: Literal["synthetic"]
    maker: Literal["items", "mmlu_items", "training_set", "corpus"]
    name: str
    rows: int | None = Field(default=None, ge=1)
    seed: int


class StandIn(Strict):
    """Synthetic rows written in the form of the real file or set, which are then read as that is (data/standins.py)."""

    form: Literal["llm-adapters", "mmlu", "alpaca", "flan", "metamath"]
    rows: SyntheticData


class FileData(Strict):
    """A file of a public repository: fetched by address or found under SBORA_DATA_ROOT, checked by its git blob id.

    A stand-in is made here instead, and checked likewise.
    """

    kind: Literal["file"]
    path: str = Field(pattern=BELOW, description="path below SBORA_DATA_ROOT")
    url: str
    blob: str = Field(pattern=r"^[0-9a-f]{40}$")
    rows: int | None = None
    columns: Columns = ()
    licence: str = ""
    stand_in: StandIn | None = None


class OwnData(Strict):
    """A file of one's own, read by its suffix (JSON, JSONL, CSV, TSV, Parquet, Arrow), or a folder of such files, or
    one that `datasets` saved.

    `{path: my.jsonl}` is enough; the hash of what was read is recorded.
    """

    kind: Literal["own"] = "own"
    path: str = Field(min_length=1, description="absolute, or looked for as `file` says")
    split: str | None = Field(default=None, description="of a folder that holds several")
    columns: dict[ExampleField, str] = Field(
        default_factory=dict, description="for a field its column, or a Jinja template over the row"
    )
    rows: int | None = None
    licence: str = ""
    _beside: Path = PrivateAttr(default=CATALOG)

    def file(self) -> Path:
        """The file or folder: beside the catalog's file, else below the working directory, else below SBORA_DATA_ROOT.

        Raises UserError naming the places that were looked at.
        """
        folders = (self._beside, Path(), Path(os.environ.get("SBORA_DATA_ROOT") or "."))
        missing = "{}: no such file; correct the entry's path, or give an absolute one"
        return place_below(self.path, *folders, is_there=Path.exists, missing=missing)


class HubData(Strict):
    """A data set on the Hugging Face hub at a pinned revision, read with `datasets`."""

    kind: Literal["hub"]
    id: str = Field(pattern=BELOW)
    revision: str
    split: str = "train"
    rows: int | None = None
    columns: Columns = ()
    licence: str = ""
    sampler: Literal["flan-v2"] | None = None
    where: str | None = Field(
        default=None,
        exclude_if=lambda text: text is None,
        description="Jinja over a row's columns: rows for which it says True are kept",
    )
    first: int | None = Field(
        default=None, ge=1, exclude_if=lambda rows: rows is None, description="of the rows that are kept"
    )
    lm_eval_task: str | None = Field(default=None, description="the lm-eval task of its own that makes the prompts")
    shots: int = Field(default=0, ge=0, description="solved questions before each of that task's")
    otherwise: str | None = Field(default=None, description="data entry in its place where this one can't be obtained")
    stand_in: StandIn | None = None


class LmEvalSource(Strict):
    """What names a task of lm-eval's own, or one in a folder of one's own YAML files."""

    lm_eval: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]*$", description="lm-eval's name of the task")
    include_path: str = Field(default="", description="a folder with YAML of tasks of one's own; empty: lm-eval's")
    shots: int | None = Field(default=None, ge=0, description="solved examples; null: as the task has it")
    _beside: Path = PrivateAttr(default=CATALOG)

    def file(self) -> Path:
        """The folder of tasks of one's own. Raises UserError naming the places that were looked at."""
        missing = f"lm_eval {self.lm_eval}: include_path: {{}}: no such folder"
        return place_below(self.include_path, self._beside, Path(), is_there=Path.is_dir, missing=missing)

    def folder(self) -> Path | None:
        """The folder of tasks of one's own; None for a task that comes with lm-eval."""
        return self.file() if self.include_path else None


class LmEvalData(LmEvalSource):
    """The items of such a task, each with the prompt that lm-eval makes of it."""

    kind: Literal["lm-eval"]
    rows: int | None = None
    columns: tuple[str, ...] = ()
    licence: str = ""


class LmEvalTask(LmEvalSource):
    """Such a task with one of its filters, by which its answers are read."""

    filter: str = Field(default="", description="of the task's filter_list; empty: the first")


def _with_kind(entry: Any) -> Any:
    """A data entry without `kind` says by its keys what it is: a blob id, a path, or an id of the hub."""
    if not isinstance(entry, dict) or "kind" in entry:
        return entry
    kinds = {"blob": "file", "path": "own", "id": "hub"}
    return next(({"kind": kind} | entry for key, kind in kinds.items() if key in entry), entry)


DataEntry = Annotated[
    FileData | SyntheticData | HubData | OwnData | LmEvalData, Field(discriminator="kind"), BeforeValidator(_with_kind)
]


class TaskEntry(Strict):
    """A scored task: an lm-eval task template with its settings, and where its items come from; or one of lm-eval's
    own tasks as it stands, which a suite names (plan/lm_eval_tasks.py).
    """

    title: str
    template: str = Field(
        default="",
        exclude_if=lambda template: not template,
        description="an lm-eval task YAML of sbora_bench/tasks/, by name, or a path",
    )
    lm_eval: LmEvalTask | None = Field(default=None, exclude_if=lambda task: task is None)
    answer: dict[str, str] = Field(
        default_factory=dict, description="extraction rule by name of the protocol's `extraction`"
    )
    max_new_tokens: int | None = Field(default=None, ge=1)
    items: dict[str, str] = Field(
        default_factory=dict, description="data entry by the experiment's `items` (paper, ladder, ...)"
    )
    metrics: dict[str, Metric] = Field(
        default_factory=dict,
        description="metrics of the template by name, the first the score; none: its first, right or wrong",
    )
    _beside: Path = PrivateAttr(default=CATALOG)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        missing = (
            [] if self.lm_eval else [key for key in ("template", "answer", "items") if key not in self.model_fields_set]
        )
        if missing:
            raise ValueError(f"{missing[0]}: missing; a task has a template, answer and items")
        return self

    def items_of(self, name: str, which: str) -> str | None:
        """The data entry of the items `which` of the task of this name; None where there are none."""
        return name if self.lm_eval else self.items.get(which)

    @property
    def metric(self) -> Metric:
        """What the score is a mean of."""
        return next(iter(self.metrics.values()), SHARE)

    def own_template(self) -> Path | None:
        """The file of a template of one's own, beside the catalog's file or below the working directory; None for one
        that comes with the harness. Raises UserError naming the places that were looked at.
        """
        if not self.template.endswith((".yaml", ".yml")):
            return None
        return place_below(self.template, self._beside, Path(), is_there=Path.is_file, missing="{}: no such file")

    def metric_by(self, answer_by: str) -> Metric:
        """What the score is a mean of where a table says `answer_by`."""
        return {"template": self.metric, "label": SHARE, "loss": LOSS}[self.answered(answer_by)]

    def answered(self, answer_by: str) -> Answering:
        """How its items are answered where a table says `answer_by`: as the template has it (always where that
        doesn't generate, and lm-eval's own tasks), by the likeliest label, or not at all: its loss is the score.
        """
        if answer_by == "generation" or not self._generates():
            return "template"
        return "label" if self.template == "choice" else "loss"

    def _generates(self) -> bool:
        own = self.own_template()
        if own is None:
            return not self.lm_eval and self.template not in LIKELIHOOD_TEMPLATES
        stated = re.search(r"^output_type:[ \t]*[\"']?(\w+)", own.read_text("utf-8", "replace"), re.MULTILINE)
        return stated is None or stated[1] == "generate_until"

    def settings(self) -> dict[str, Any]:
        """The entry as JSON, with the SHA-256 of a template of one's own."""
        own = self.own_template()
        settings = self.model_dump(mode="json", exclude={"metrics"})
        if self.metrics:  # a task without has the hash of its settings from before there were any
            settings["metrics"] = [{"name": name, **one.model_dump(mode="json")} for name, one in self.metrics.items()]
        folder = self.lm_eval.folder() if self.lm_eval else None
        if folder:
            settings["include_sha256"] = content_sha256(folder)
        return settings | ({"template_sha256": sha256(own)} if own else {})


class ChatMessage(Strict):
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, description="Jinja template over the row, as `jinja`; empty ones are left out")


class PromptEntry(Strict):
    """A prompt of one's own, all that stands before the response: a text, or messages for the tokenizer's template."""

    jinja: str = Field(default="", description="Jinja template over instruction, input and the row's other columns")
    chat: list[ChatMessage] = Field(default_factory=list, description="the last one is the user's")
    arguments: dict[str, bool | int | str] = Field(
        default_factory=dict, description="of the chat template, {enable_thinking: false}, say"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.jinja) == bool(self.chat):
            raise ValueError("give either jinja or chat")
        if self.arguments and not self.chat:
            raise ValueError("arguments: of a chat template; give chat, or take them out")
        if self.chat and self.chat[-1].role != "user":
            raise ValueError(
                f"chat: the last message: found role {self.chat[-1].role}, allowed user: the answer follows"
            )
        return self

    @property
    def stated(self) -> Any:
        """All that the prompt's text depends on but the row and the tokenizer, as JSON."""
        return self.model_dump(mode="json", exclude={"jinja"}) if self.chat else self.jinja


class SuiteEntry(Strict):
    title: str
    tasks: list[str] = Field(min_length=1)
