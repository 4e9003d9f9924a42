"""Stand-in files are the catalog's byte for byte, and the real readers read them; random bases are the same twice."""

import json

import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import git_blob_id, sha256
from sbora_bench.inputs.data import flan, sources
from sbora_bench.inputs.data.own_files import read_rows
from sbora_bench.inputs.models.fetch import fetch_model
from sbora_bench.inputs.models.weights import check_weights
from sbora_bench.plan.model_entry import ModelEntry
from tests.factories import shipped

CATALOG = shipped.catalog()
STAND_INS = {name: entry for name, entry in CATALOG.data.items() if getattr(entry, "stand_in", None)}
RANDOM = [name for name, entry in CATALOG.models.items() if entry.source.kind == "random"]


@pytest.fixture(autouse=True)
def nothing_to_fetch(tmp_path, monkeypatch):
    """No network, and a data root that has nothing: stand-ins need neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path / "empty"))


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_is_made_once_and_read_as_the_real_one(name, tmp_path):
    entry = STAND_INS[name]
    examples = sources.read_examples(name, entry)
    made = sorted(path for path in (tmp_path / "resources" / "downloads").rglob("*") if path.is_file())
    stamps = [path.stat().st_mtime_ns for path in made]
    assert sources.read_examples(name, entry) == examples and [path.stat().st_mtime_ns for path in made] == stamps
    if entry.kind == "file":
        assert len(examples) == entry.rows and [git_blob_id(path.read_bytes()) for path in made] == [entry.blob]
    else:
        assert len(made) == len(entry.split.split("+")) and {path.suffix for path in made} == {".parquet"}
    assert all(example["output"] and example["answer"] for example in examples)


def test_stand_ins_have_the_real_columns():
    def columns(name):
        path = sources.fetch(name, STAND_INS[name])
        return [set(row) for row in read_rows(path).values]

    assert {frozenset(row) for row in columns("rehearsal-aqua-test")} == {
        frozenset({"instruction", "input", "output", "answer"})
    }
    assert {frozenset(row) for row in columns("rehearsal-mmlu-val")} == {frozenset({"subject", "input", "output"})}


def test_the_flan_stand_in_has_rows_of_every_bucket_and_goes_through_the_sampler():
    entry = STAND_INS["rehearsal-flan-v2"]
    sampled = sources.read_examples("rehearsal-flan-v2", entry)
    whole = sources._hub_rows("rehearsal-flan-v2", entry.model_copy(update={"sampler": None}))
    buckets = {f"{row['task_source']}_{row['template_type']}" for row in whole}
    assert buckets == set(flan.BUCKETS) and 64 < len(sampled) < len(whole) == entry.rows  # long rows are left out


def test_other_bytes_in_a_stand_ins_place_are_told(tmp_path):
    name = "rehearsal-boolq-test"
    sources.fetch(name, STAND_INS[name]).write_text("[]")
    with pytest.raises(UserError, match=f"expected {STAND_INS[name].blob}"):
        sources.read_examples(name, STAND_INS[name])


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_base_is_whole_and_has_the_same_bytes_twice(name, tmp_path):
    for folder in ("one", "two"):
        fetch_model(name, CATALOG.models[name], tmp_path / folder)
    assert (tmp_path / "one" / "base.json").read_bytes() == (tmp_path / "two" / "base.json").read_bytes()
    record = json.loads((tmp_path / "one" / "base.json").read_text())
    assert record["files"]["model.safetensors"] == sha256(tmp_path / "one" / "model.safetensors")
    assert record["source"]["kind"] == "random" and record["summary"]["training_steps"] == 0
    check_weights(tmp_path / "one", CATALOG.models[name].architecture)


def test_a_vocabulary_that_is_not_the_tokenizers_is_told(tmp_path):
    entry = CATALOG.models[RANDOM[0]].model_dump()
    entry["architecture"] = entry["architecture"] | {"vocab_size": 300}
    with pytest.raises(UserError, match="vocab_size: found 300, its tokenizer has 294"):
        fetch_model("m", ModelEntry.model_validate(entry), tmp_path / "m")
    assert not (tmp_path / "m").exists()
