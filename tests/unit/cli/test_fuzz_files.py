"""Malformed data files and adapters: exit status 2, one line naming the file, nothing written; never a traceback."""

import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sbora_bench.files import git_blob_id
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from tests.factories import toy_runs
from tests.factories.junk import JUNK, MANY
from tests.factories.workplace import EXPERIMENT, TRIAL, workplace  # noqa: F401

SECONDS = 5  # of this process's own time, at most
GOOD = {"instruction": "1 + 1", "input": "", "output": "2", "answer": "2"}
KEYS = tuple(GOOD)


class Files:
    """A workplace whose training set is a file of ours, with the blob id of whatever is written to it."""

    def __init__(self, place) -> None:
        self.place, self.data = place, place.folder / "root" / "train.json"
        self.data.parent.mkdir()
        place.monkeypatch.setenv("SBORA_DATA_ROOT", str(self.data.parent))

    def refused(self, content: bytes, blob: str | None = None, **more) -> str:
        self.data.write_bytes(content)
        entry = {"kind": "file", "path": "train.json", "url": "http://127.0.0.1:9/train.json"}
        entry |= {"blob": blob or git_blob_id(content)} | more
        self.place.catalog(data={"own": entry})
        table = EXPERIMENT["tables"]["sums"] | {"train": "own"}
        self.place.write(yaml.safe_dump(EXPERIMENT | {"tables": {"sums": table}}))
        began = time.process_time()
        message = self.place.refused("prepare", "-e", "small", "--table", "sums", "--output", "out")
        assert time.process_time() - began < SECONDS and "train.json" in message, message
        return message


@pytest.fixture
def files(workplace):  # noqa: F811
    return Files(workplace)


def as_json(value) -> bytes:
    return json.dumps(value).encode()


def is_no_rows(content: bytes) -> bool:
    """Whether the bytes are neither a JSON list nor JSON lines."""
    try:
        text = content.decode()
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(x) for x in text.split("\n") if x]
    except ValueError:
        return True
    return False


NOT_TEXT = JUNK.filter(lambda value: not isinstance(value, str | int | float))
MALFORMED = {
    "no JSON": st.binary(min_size=1, max_size=60).filter(is_no_rows),
    "cut short": st.integers(1, 40).map(lambda n: as_json([GOOD])[:-n]),
    "rows that are no mappings": JUNK.filter(lambda value: not isinstance(value, dict)).map(lambda v: as_json([v])),
    "keys missing": st.sets(st.sampled_from(KEYS), min_size=1)
    .filter(lambda keys: "output" in keys or {"instruction", "input"} <= keys)  # input alone may be left out
    .map(lambda keys: as_json([{key: value for key, value in GOOD.items() if key not in keys}])),
    "values that are no text": st.tuples(st.sampled_from(KEYS), NOT_TEXT)
    .filter(lambda pair: pair != ("input", None))  # as good as left out
    .map(lambda pair: as_json([GOOD, GOOD | {pair[0]: pair[1]}])),
}


@pytest.mark.parametrize("rule", MALFORMED)
def test_a_malformed_data_file_is_refused(files, rule):
    @MANY
    @given(content=MALFORMED[rule])
    def check(content):
        files.refused(content)

    check()


@MANY
@given(content=st.binary(max_size=60), flipped=st.integers(min_value=0))
def test_a_file_of_other_bytes_is_refused(files, content, flipped):
    """Whatever the file: where its blob id isn't the catalog's, both ids are told."""
    other = git_blob_id(content + b"?")
    assert f"git blob id {git_blob_id(content)}, expected {other}" in files.refused(content, blob=other)


@MANY
@given(count=st.integers(0, 4), expected=st.integers(5, 9))
def test_a_file_of_other_length_is_refused(files, count, expected):
    message = files.refused(as_json([GOOD] * count), rows=expected)
    assert f"found {count} rows, expected {expected}" in message


@pytest.fixture
def adapter(workplace):  # noqa: F811
    """`score` of an adapter folder for a toy base; `write` puts bytes in the place of one of its files."""
    source = load_catalog().models["ladder-xs"].source.model_dump(mode="json")
    toy_runs.write_base(workplace.folder / "resources" / "models" / "ladder-xs", source)
    workplace.experiment()
    plan = load_plan("small")
    folder = workplace.folder / "adapter"
    toy_runs.save_adapter(plan, plan.runs[1], folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(name: str, content: bytes) -> str:
        for file, first in whole.items():
            (folder / file).write_bytes(first)
        (folder / name).write_bytes(content)
        before, began = workplace.files(), time.process_time()
        status, out, err = workplace.run("score", "adapter", "--model", "ladder-xs", *TRIAL, "--output", "scored")
        last = err.splitlines()[-1] if err else ""  # transformers' bar of loaded weights may stand before
        assert (status, out) == (2, "") and last.startswith("sbora-bench: ") and "Traceback" not in err, err
        assert time.process_time() - began < SECONDS and "adapter" in last and workplace.files() == before
        return last

    refused.config = json.loads(whole["adapter_config.json"])
    refused.weights = whole["adapter_model.safetensors"]
    return refused


@MANY
@given(content=st.binary(max_size=60) | JUNK.map(as_json))
def test_an_adapters_config_of_junk_is_refused(adapter, content):
    assert "adapter_config.json" in adapter("adapter_config.json", content)


NEVER = {
    "peft_type": JUNK.filter(lambda value: value != "LORA"),
    "r": st.integers(max_value=0) | st.integers(5, 64) | st.text() | st.lists(JUNK, min_size=1) | st.just({}),
    "target_modules": st.lists(st.text(max_size=6), min_size=1) | st.integers(1, 9) | st.just("no_such_layer"),
    "modules_to_save": st.just(["lm_head"]),
    "use_dora": st.just(True),
}


@pytest.mark.parametrize("key", NEVER)
def test_an_adapters_config_that_does_not_fit_is_refused(adapter, key):
    @settings(MANY, max_examples=6)  # each loads the base
    @given(value=NEVER[key])
    def check(value):
        adapter("adapter_config.json", as_json(adapter.config | {key: value}))

    check()


@MANY
@given(data=st.data())
def test_an_adapters_weights_cut_or_of_junk_are_refused(adapter, data):
    cut = st.integers(0, len(adapter.weights) - 1).map(lambda size: adapter.weights[:size])
    assert "adapter_model.safetensors" in adapter("adapter_model.safetensors", data.draw(cut | st.binary(max_size=80)))
