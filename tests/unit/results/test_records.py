"""Records: the same bytes for the same values, and a folder that another version wrote is refused."""

import json

import pytest

from sbora_bench.errors import UserError
from sbora_bench.results.records import (
    VERSION,
    BaseRecord,
    FootprintRecord,
    ScoresRecord,
    TaskScore,
    TrainRecord,
    check_results,
    read_record,
    write_record,
)

BASE = BaseRecord(model="m", source={"kind": "folder"}, files={"b": "2", "a": "1"})


def test_the_same_record_has_the_same_bytes(tmp_path):
    write_record(tmp_path / "a", BASE)
    write_record(tmp_path / "b", BaseRecord(files={"a": "1", "b": "2"}, source={"kind": "folder"}, model="m"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_record(tmp_path / "a", BaseRecord) == BASE


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_can_be_flipped_unseen(tmp_path, bit):
    """Every value of every key, one bit at a time: the record is refused, naming the file, or reads as it was."""
    path = tmp_path / "base.json"
    write_record(path, BASE)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        try:
            assert read_record(path, BaseRecord) == BASE
        except UserError as error:
            assert "base.json" in str(error)
            refused += 1
    assert refused > len(whole) * 0.9


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_record_is_refused(tmp_path, share):
    path = tmp_path / "base.json"
    write_record(path, BASE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"base\.json: not a whole JSON file .*make it again"):
        read_record(path, BaseRecord)


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, "1", [1]])
def test_another_version_is_refused(tmp_path, version):
    path = tmp_path / "base.json"
    path.write_text(json.dumps({**BASE.model_dump(), "version": version}))
    with pytest.raises(UserError, match=r"base\.json: version: found .*, allowed 1; .*choose another results folder"):
        read_record(path, BaseRecord)


@pytest.mark.parametrize("content", ["[]", "7", "null", "{}"])
def test_json_that_is_no_record(tmp_path, content):
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"base\.json: version: found None"):
        read_record(path, BaseRecord)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model": 7}, "model: .*found 7"), ({"models": "m"}, "models: unknown key 'models', did you mean 'model'")],
)
def test_a_record_with_other_keys(tmp_path, change, message):
    path = tmp_path / "base.json"
    path.write_text(json.dumps(BASE.model_dump() | change))
    with pytest.raises(UserError, match=rf"base\.json: {message}.*run the experiment again"):
        read_record(path, BaseRecord)


def test_a_record_of_another_kind(tmp_path):
    write_record(tmp_path / "train.json", BASE)
    with pytest.raises(UserError, match="unknown key|required"):
        read_record(tmp_path / "train.json", TrainRecord)


def test_a_folder_of_results_is_checked_as_a_whole(tmp_path):
    record = FootprintRecord(
        model="m", method="base", rank=None, trainable_parameters=0, total_parameters=1, adapter_bytes=None
    )
    for run in ("a", "b"):
        write_record(tmp_path / "runs" / run / "footprint.json", record)
    check_results(tmp_path)
    check_results(tmp_path / "none")
    path = tmp_path / "runs" / "b" / "footprint.json"
    whole = path.read_text()
    path.write_text(whole[:20])
    check_results(tmp_path)  # damaged: its stage tells
    path.write_text(whole.replace('"version": 1', '"version": 2'))
    with pytest.raises(UserError, match=r"runs/b/footprint\.json: version: found 2, allowed 1"):
        check_results(tmp_path)


NAMES = {"experiment": "e", "table": "t", "run": "t-m-lora-r4-s0", "model": "m", "method": "lora", "rank": 4, "seed": 0}


def test_a_training_is_typed_and_what_is_unknown_is_left_out(tmp_path):
    """As records of before had it: a key that was not measured is not in the file, and reads as None."""
    happened = {"steps": 3, "out_of_memory_with": [], "loss_curve": [{"step": 1, "loss": 0.5}, {"step": 2}]}
    record = TrainRecord(**NAMES, asked={}, happened=happened, on={"hardware": {"gpu": None, "cores": 2}})
    write_record(tmp_path / "train.json", record)
    assert read_record(tmp_path / "train.json", TrainRecord) == record
    written = json.loads((tmp_path / "train.json").read_text())
    assert written["happened"] == {**happened, "adapter_sha256": {}}
    assert written["on"]["hardware"] == {"cores": 2} and record.on.hardware.gpu is None
    assert record.happened.losses() == [0.5] and record.happened.seconds is None


def test_a_misspelt_measurement_is_refused(tmp_path):
    whole = {"version": 1, **NAMES, "asked": {}, "happened": {"tokens_a_second": 1.0}, "on": {}}
    (tmp_path / "train.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"train\.json: happened\.tokens_a_second"):
        read_record(tmp_path / "train.json", TrainRecord)


@pytest.mark.parametrize(
    ("written", "metric", "mean_over"),
    [
        ({"metric": "acc_macro"}, "acc", "subjects"),
        ({"metric": "acc"}, "acc", "items"),
        ({"metric": "f1_macro", "mean_over": "items"}, "f1_macro", "items"),
        ({"metric": "acc", "mean_over": "subjects"}, "acc", "subjects"),
    ],
)
def test_a_score_says_what_its_mean_is_over_one_of_before_too(tmp_path, written, metric, mean_over):
    names = dict.fromkeys(
        ("experiment", "table", "run", "model", "method", "suite", "protocol", "settings_sha256"), "x"
    )
    value = {"version": VERSION, **names, "rank": None, "seed": None, "train": None, "tasks": {"mmlu": written}}
    (tmp_path / "scores.json").write_text(json.dumps(value))
    record = read_record(tmp_path / "scores.json", ScoresRecord)
    assert (record.tasks["mmlu"].metric, record.tasks["mmlu"].mean_over) == (metric, mean_over)
    write_record(tmp_path / "scores.json", record)
    assert read_record(tmp_path / "scores.json", ScoresRecord) == record


def test_a_mean_over_subjects_is_shown_with_the_metric():
    assert TaskScore(metric="acc", mean_over="subjects").shown_metric == "acc, mean over subjects"
    assert TaskScore(metric="acc", mean_over="items").shown_metric == "acc"
