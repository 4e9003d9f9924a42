"""Where a model's weights come from: a class a kind of `source` in the catalog.

Each says what it fetches, which config its models have (so that they can be counted without weights), how many bits a
parameter takes on disk, and which command makes its folder. Nothing heavy is imported until something is fetched.
"""

import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import content_sha256, hash_of
from sbora_bench.hub import MODEL_FILES, Unreachable, snapshot
from sbora_bench.inputs.models import wheel
from sbora_bench.inputs.models.weights import check_weights, hashes, link, parts, read_config_file
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.model_entry import (
    FolderSource,
    GgufSource,
    HubSource,
    ModelEntry,
    PretrainSource,
    RandomSource,
    ShippedSource,
    WheelSource,
    hub_gguf,
)
from sbora_bench.results.folders import model_folder
from sbora_bench.results.records import BaseRecord

_GGUF_CONFIGS: dict[str, dict[str, Any]] = {}  # by file and hash: reading one takes a second
S = TypeVar("S", HubSource, WheelSource, PretrainSource, ShippedSource, RandomSource, FolderSource, GgufSource)


def variable(model: str) -> str:
    """The environment variable that names a local folder for a model."""
    return "SBORA_MODEL_" + re.sub(r"[^A-Z0-9]", "_", model.upper())


class Source(ABC, Generic[S]):
    """The source of the catalog's entry of a model."""

    stored_bits: ClassVar[int] = 16  # of a parameter on disk
    command: ClassVar[str] = "prepare"  # of sbora-bench, that makes the model's folder
    pads: ClassVar[bool] = False  # whether the vocabulary has a row for [PAD] already

    def __init__(self, model: str, entry: ModelEntry, settings: S) -> None:
        self.model, self.entry = model, entry
        self.settings: S = settings

    @property
    def name(self) -> str:
        """What the public knows the model by."""
        return self.model

    @abstractmethod
    def fetch(self, folder: Path) -> dict[str, Any]:
        """Put the files into `folder`; `source`, `files` and `summary` of their BaseRecord. Raises UserError."""

    def files(self) -> Path | None:
        """The folder with the model's config and tokenizer, where it is at hand before anything is fetched."""
        return None

    def content(self) -> str:
        """What the folder's files hold, where they are a user's own; empty where their names and hashes are pinned."""
        return ""

    def made(self, record: BaseRecord) -> bool:
        """Whether a prepared folder with this record is of this source as it is now."""
        return record.source == self.settings.model_dump(mode="json")

    def values(self) -> dict[str, Any]:
        """The keys of the model's config.json: of its files, or where they aren't at hand the entry's `architecture`.

        Raises Unreachable where there is neither.
        """
        folder = self.files()
        if folder is not None:
            return read_config_file(folder / "config.json")
        if self.entry.architecture:
            return self.entry.architecture
        raise Unreachable(
            f"catalog: models.{self.model}: its config.json is not at hand and the entry has no `architecture`, so it"
            f" can't be counted; run `sbora-bench {self.command}` for it first, or give `architecture`",
            self.name,
        )


class Hub(Source[HubSource]):
    """The Hugging Face hub at a pinned revision; the files stay in the hub's cache."""

    @property
    def name(self) -> str:
        return self.settings.id

    def files(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.settings.id, "config.json", revision=self.settings.revision)
        return Path(path).parent if isinstance(path, str) else None

    def values(self) -> dict[str, Any]:
        if self.files() is None and not self.entry.architecture:
            return read_config_file(self._snapshot(["config.json"]) / "config.json")
        return super().values()

    def made(self, record: BaseRecord) -> bool:
        own = self.settings.model_dump()
        pinned = re.fullmatch(r"[0-9a-f]{40}", self.settings.revision)
        return record.source == own | ({} if pinned else {"revision": record.source.get("revision")})

    def fetch(self, folder: Path) -> dict[str, Any]:
        weights = self._snapshot(MODEL_FILES)
        check_weights(weights, self.entry.architecture)
        return {"source": self._at(weights.name), "files": {}}

    def _at(self, commit: str) -> dict[str, Any]:
        """The settings with the commit that the revision is, as the cache's folder has it."""
        revision = commit if re.fullmatch(r"[0-9a-f]{40}", commit) else self.settings.revision
        return self.settings.model_dump() | {"revision": revision}

    def _snapshot(self, patterns: list[str]) -> Path:
        instead = (
            "a local folder with its config.json, safetensors and tokenizer, or a GGUF file, serves too: set"
            f" {variable(self.model)} to it"
        )
        return snapshot(self.settings.id, self.settings.revision, "model", patterns, instead)


class Folder(Source[FolderSource]):
    """A local folder, or one that the model's environment variable names; its files are linked."""

    def files(self) -> Path | None:
        path = Path(self.settings.path)
        return path if (path / "config.json").is_file() else None

    def values(self) -> dict[str, Any]:
        path = Path(self.settings.path)
        if path.suffix == ".json":
            return read_config_file(path)
        if self.files() is None and not self.entry.architecture:
            raise Unreachable(f"{path / 'config.json'}: no such file; give the folder of model {self.model}", str(path))
        return super().values()

    def made(self, record: BaseRecord) -> bool:
        now = self._hashes()
        return record.files == now if now else record.source.get("kind") == self.settings.kind  # the source is gone

    def content(self) -> str:
        return hash_of(self._hashes())

    def _hashes(self) -> dict[str, str]:
        return {path.name: content_sha256(path) for path in parts(Path(self.settings.path))}

    def fetch(self, folder: Path) -> dict[str, Any]:
        weights = Path(self.settings.path)
        check_weights(weights, self.entry.architecture)
        link(weights, folder)
        return {"source": self.settings.model_dump(), "files": hashes(folder)}


class Wheel(Source[WheelSource]):
    """A GGUF file in a wheel, written as float32 safetensors."""

    stored_bits = 32

    def files(self) -> Path | None:
        prepared = model_folder(self.model)
        return prepared if not self.entry.architecture and (prepared / "config.json").is_file() else None

    def fetch(self, folder: Path) -> dict[str, Any]:
        summary = wheel.write_weights(self.settings, self.entry.architecture, folder)
        return {"source": self.settings.model_dump(), "files": hashes(folder), "summary": summary}


class Gguf(Source[GgufSource]):
    """A GGUF file of a user's own, written as float32 safetensors."""

    stored_bits = 32

    def values(self) -> dict[str, Any]:
        return self.entry.architecture or _gguf_config(Path(self.settings.path))

    def made(self, record: BaseRecord) -> bool:
        path = Path(self.settings.path)
        now = self._source() if path.is_file() else record.source  # the source is gone
        return record.source == now and now["kind"] == self.settings.kind

    def content(self) -> str:
        return content_sha256(self.settings.path) if Path(self.settings.path).is_file() else ""

    def _source(self) -> dict[str, Any]:
        return self.settings.model_dump() | {"sha256": content_sha256(self.settings.path)}

    def fetch(self, folder: Path) -> dict[str, Any]:
        from sbora_bench.inputs.models.gguf_file import write_gguf

        summary = write_gguf(Path(self.settings.path), self.entry.architecture, folder)
        return {"source": self._source(), "files": hashes(folder), "summary": summary}


class HubGguf(Hub):
    """A GGUF file of the hub, which alone is fetched; written as float32 safetensors."""

    stored_bits = 32

    @property
    def name(self) -> str:
        return f"{self.settings.id}/{self.settings.gguf_file}"

    def files(self) -> Path | None:
        return None

    def values(self) -> dict[str, Any]:
        return self.entry.architecture or _gguf_config(self._file())

    def made(self, record: BaseRecord) -> bool:
        source = {key: value for key, value in record.source.items() if key != "sha256"}
        return super().made(record.model_copy(update={"source": source}))

    def fetch(self, folder: Path) -> dict[str, Any]:
        from sbora_bench.inputs.models.gguf_file import write_gguf

        path = self._file()
        summary = write_gguf(path, self.entry.architecture, folder)
        commit = path.parents[self.settings.gguf_file.count("/")].name
        source = self._at(commit) | {"sha256": content_sha256(path)}
        return {"source": source, "files": hashes(folder), "summary": summary}

    def _file(self) -> Path:
        name = self.settings.gguf_file
        path = self._snapshot([name]) / name
        if not path.is_file():
            raise UserError(
                f"catalog: models.{self.model}: gguf_file: {self.settings.id} has no {name} at revision"
                f" {self.settings.revision}; correct it"
            )
        return path


class Random(Source[RandomSource]):
    """Random weights, drawn from a seed."""

    stored_bits = 32

    def fetch(self, folder: Path) -> dict[str, Any]:
        from sbora_bench.inputs.models.untrained import write_untrained

        summary = write_untrained(self.entry, folder)
        return {"source": self.settings.model_dump(), "files": hashes(folder), "summary": summary}


class Pretrain(Source[PretrainSource]):
    """A base trained here; stage `pretrain` makes it."""

    stored_bits = 32
    command = "pretrain"
    pads = True

    def values(self) -> dict[str, Any]:
        if "vocab_size" in self.entry.architecture:
            return self.entry.architecture
        from sbora_bench.inputs.data import corpus

        return {"vocab_size": len(corpus.tokenizer()), **self.entry.architecture}

    def fetch(self, folder: Path) -> dict[str, Any]:
        raise UserError(f"model {self.model} is trained here, by `sbora-bench {self.command}`; it can't be fetched")


class Shipped(Source[ShippedSource]):
    """A base that was trained here and comes with the harness, in half precision; written as float32."""

    stored_bits = 32
    pads = True

    def fetch(self, folder: Path) -> dict[str, Any]:
        from sbora_bench.inputs.models.shipped import write_shipped

        summary = write_shipped(self.model, self.entry, folder)
        return {"source": self.settings.model_dump(), "files": hashes(folder), "summary": summary}


def _gguf_config(path: Path) -> dict[str, Any]:
    from sbora_bench.inputs.models.gguf_file import gguf_config

    key = f"{path} {content_sha256(path) if path.is_file() else ''}"
    if key not in _GGUF_CONFIGS:
        _GGUF_CONFIGS[key] = gguf_config(path)
    return _GGUF_CONFIGS[key]


KINDS: dict[str, type[Source]] = {
    "hub": Hub,
    "wheel": Wheel,
    "folder": Folder,
    "gguf": Gguf,
    "random": Random,
    "pretrain": Pretrain,
    "shipped": Shipped,
}


def source_of(model: str, entry: ModelEntry) -> Source:
    """The source of a model: that of its entry, or the local folder that its environment variable names."""
    local = os.environ.get(variable(model))
    if local and local.endswith(".gguf"):
        return Gguf(model, entry, GgufSource(kind="gguf", path=local))
    if local:
        return Folder(model, entry, FolderSource(kind="folder", path=local))
    if isinstance(entry.source, HubSource) and entry.source.gguf_file:
        return HubGguf(model, entry, entry.source)
    return KINDS[entry.source.kind](model, entry, entry.source)


def named_source(catalog: Catalog, model: str) -> Source:
    """The source of a model of the catalog, of a local folder or config.json, or of a hub id.

    Raises UserError where it is none of them.
    """
    if model in catalog.models:
        return source_of(model, catalog.models[model])
    path = Path(model)
    if not path.exists() and (of_hub := hub_gguf(model)) is not None:
        return HubGguf(model, ModelEntry(title=model, source=of_hub), of_hub)
    if path.suffix == ".gguf":
        file = GgufSource(kind="gguf", path=model)
        return Gguf(model, ModelEntry(title=model, source=file), file)
    if path.suffix == ".json" or path.is_dir():
        folder = FolderSource(kind="folder", path=model)
        return Folder(model, ModelEntry(title=model, source=folder), folder)
    if path.is_absolute() or model.startswith((".", "~")):
        raise UserError(f"--model {model}: no such folder or config.json")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UserError(f"--model: {one_of(model, catalog.models, 'model')}; or a hub id or a config.json")
    hub = HubSource(kind="hub", id=model)
    return Hub(model, ModelEntry(title=model, source=hub), hub)
