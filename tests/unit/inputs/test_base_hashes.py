"""The SHA-256 of a prepared base: read once a process, and again once a file changes."""

import hashlib

import pytest

from sbora_bench.errors import UserError
from sbora_bench.inputs.models import load
from sbora_bench.results.records import BaseRecord, write_record

WEIGHTS = "model.safetensors"


@pytest.fixture
def resources(tmp_path):
    folder = tmp_path / "models" / "toy"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"weights")
    files = {WEIGHTS: hashlib.sha256(b"weights").hexdigest()}
    write_record(folder / "base.json", BaseRecord(model="toy", source={}, files=files))
    return tmp_path


def test_a_base_is_read_once_for_all_that_ask(resources, monkeypatch):
    reads, sha256 = [], load.sha256
    monkeypatch.setattr(load, "sha256", lambda path: reads.append(path.name) or sha256(path))
    for _ in range(4):  # tokenizer and weights, for training and for scoring
        load.prepared_folder(resources, "toy")
    assert reads == [WEIGHTS]


def test_a_base_that_is_damaged_later_is_refused(resources):
    load.prepared_folder(resources, "toy")
    (resources / "models" / "toy" / WEIGHTS).write_bytes(b"damaged weights")
    with pytest.raises(UserError, match="delete .* and prepare it again"):
        load.prepared_folder(resources, "toy")
