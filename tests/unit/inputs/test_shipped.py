"""Bases that come with the harness: of the catalog's recipe, the same bytes each time, refused where they aren't."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sbora_bench.errors import UserError
from sbora_bench.files import read_json
from sbora_bench.inputs.models import shipped
from sbora_bench.inputs.models.fetch import fetch_model
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.results.records import BaseRecord, read_record

MODELS = {name: entry for name, entry in load_catalog().models.items() if entry.source.kind == "shipped"}


@pytest.mark.parametrize("model", MODELS)
def test_a_shipped_base_is_small_and_of_its_recipe(model, tmp_path):
    fetch_model(model, MODELS[model], tmp_path / "base")
    record = read_record(tmp_path / "base" / "base.json", BaseRecord)
    assert record.summary["steps"] == MODELS[model].source.recipe["steps"]
    assert (shipped.FILES / f"{model}.safetensors").stat().st_size < 2_000_000
    assert read_json(tmp_path / "base" / "config.json")["hidden_size"] == MODELS[model].architecture["hidden_size"]


def changed(entry: ModelEntry, **source) -> ModelEntry:
    return entry.model_copy(update={"source": entry.source.model_copy(update=source)})


def test_a_shipped_base_of_another_recipe_or_other_bytes_is_refused(tmp_path):
    model, entry = next(iter(MODELS.items()))
    with pytest.raises(UserError, match="trained by another recipe"):
        fetch_model(model, changed(entry, recipe={"seed": 1}), tmp_path / "base")
    with pytest.raises(UserError, match=f"SHA-256 {entry.source.sha256}, expected 0 "):
        fetch_model(model, changed(entry, sha256="0"), tmp_path / "base")
    with pytest.raises(UserError, match="no such file; `sbora-bench pretrain other"):
        fetch_model("other", entry, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def is_zen_4() -> bool:
    """Whether this is the kind of processor that the bases were trained on."""
    path = Path("/proc/cpuinfo")
    cpu = path.read_text(encoding="utf-8") if path.is_file() else ""
    return bool(re.search(r"^cpu family\s*: 25$", cpu, re.M) and re.search(r"^flags\b.*\bavx512_bf16\b", cpu, re.M))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_pretraining_makes_a_shipped_base_again(model, tmp_path):
    """To the bit on a Zen 4, where it was trained; elsewhere it learns as much. A header's keys have no order."""
    from sbora_bench.train.pretrain import pretrain_model

    pretrain_model(load_catalog(), model, tmp_path / model)
    shipped.ship(tmp_path / model, MODELS[model], tmp_path / "again")
    with safe_open(tmp_path / "again", "pt") as again, safe_open(shipped.FILES / f"{model}.safetensors", "pt") as held:
        names, headers = sorted(held.keys()), [again.metadata(), held.metadata()]
        assert sorted(again.keys()) == names and headers[0]["recipe"] == headers[1]["recipe"]
        accuracies = [json.loads(header["summary"])["held_out_accuracy"] for header in headers]
        assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)
        if is_zen_4():
            assert headers[0] == headers[1]
            assert [name for name in names if not torch.equal(again.get_tensor(name), held.get_tensor(name))] == []
