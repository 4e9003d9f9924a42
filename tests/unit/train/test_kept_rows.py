"""Training rows are encoded once for the runs of a process that train on the same, and never given to others."""

import pytest

from sbora_bench.files import write_jsonl
from sbora_bench.train import kept_rows
from sbora_bench.train.kept_rows import ENCODED_BY, training_rows
from tests.factories import toy_runs
from tests.factories.toy_runs import protocol

ROWS = [{"prompt": f"house {word} is", "response": word} for word in ("red", "blue", "red")]


@pytest.fixture
def encoded(monkeypatch):
    """Number of calls of the encoding so far."""
    calls = []
    whole = kept_rows.encode_rows

    def counted(*arguments):
        calls.append(1)
        return whole(*arguments)

    monkeypatch.setattr(kept_rows, "encode_rows", counted)
    monkeypatch.setattr(kept_rows, "_kept", [])
    return calls


def test_the_same_rows_are_encoded_once(encoded, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    first, _ = training_rows(toy_runs.tokenizer(), tmp_path / "train.jsonl", protocol(), "toy")
    first.shuffle(seed=1)  # as a run does, each in its own order
    again, _ = training_rows(toy_runs.tokenizer(), tmp_path / "train.jsonl", protocol(learning_rate=1e-5), "toy")
    assert len(encoded) == 1
    assert again.to_list() == kept_rows.encode_rows(toy_runs.tokenizer(), tmp_path / "train.jsonl", protocol())[0]


def test_other_rows_settings_and_tokenizers_are_encoded_anew(encoded, tmp_path):
    path = tmp_path / "train.jsonl"
    write_jsonl(path, ROWS)
    training_rows(toy_runs.tokenizer(), path, protocol(loss_on="answer"), "toy")
    whole, _ = training_rows(toy_runs.tokenizer(), path, protocol(loss_on="all"), "toy")
    assert -100 not in whole[0]["labels"]
    training_rows(toy_runs.tokenizer(), path, protocol(loss_on="all"), "other")
    write_jsonl(path, ROWS[:2])
    fewer, _ = training_rows(toy_runs.tokenizer(), path, protocol(loss_on="all"), "other")
    assert len(encoded) == 4 and len(fewer) == 2


@pytest.mark.parametrize("lengths", [{}, {"source_length": 8, "target_length": 4}, {"loss_on": "all"}])
def test_all_that_the_encoding_reads_of_a_protocol_tells_rows_apart(tmp_path, lengths):
    read = set()

    class Watched:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            read.add(name)
            return getattr(self.real, name)

    write_jsonl(tmp_path / "train.jsonl", ROWS)
    kept_rows.encode_rows(toy_runs.tokenizer(), tmp_path / "train.jsonl", Watched(protocol(**lengths)))
    assert read and read <= set(ENCODED_BY)
