"""`prepare` for a table: prompts, draws, what is missing or wrong, and that a folder appears whole or not at all."""

import json
from pathlib import Path

import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.files import git_blob_id, read_jsonl, sha256
from sbora_bench.inputs.prepare import choose, prepare_table
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.results.records import ContaminationRecord, read_record

PROTOCOLS = Path(__file__).parents[3] / "experiments" / "catalog" / "protocols.yaml"
LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def qa(i: int) -> dict[str, str]:
    return {"instruction": f"What is {i} plus 1?", "input": "", "output": f"It is {i + 1}.", "answer": str(i + 1)}


def lettered(i: int) -> dict[str, str]:
    shot = "Which is first?\nA. 1\nB. 2\nAnswer: A"
    header = "The following are multiple choice questions (with answers) about  sums."
    return {"subject": "sums", "input": f"{header}\n\n{shot}\n\nWhich is {i}?\nA. {i}\nB. 0\nAnswer:", "output": "A"}


TRAIN = [qa(i) for i in (1, 3, 100, 101)]
ITEMS = [qa(i) for i in range(20)]
LETTERS = [lettered(i) for i in range(3)]


class House:
    """A data root, a catalog and an experiment in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self.data: dict[str, dict] = {}
        self.put("train", json.dumps(TRAIN), 4)
        self.put("sums", json.dumps(ITEMS), 20)
        self.put("letters", "".join(json.dumps(row) + "\n" for row in LETTERS), 3)

    def put(self, name: str, text: str, rows: int | None = None) -> None:
        path = self.root / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        blob = git_blob_id(text.encode())
        self.data[name] = {
            "kind": "file",
            "path": path.name,
            "url": f"http://127.0.0.1:9/{name}.json",
            "blob": blob,
            "rows": rows,
        }

    def plan(self, **table):
        catalog = self.folder / "catalog"
        catalog.mkdir(exist_ok=True)
        task = {"title": "t", "template": "number", "answer": {"official": "x"}}
        entries = {
            "models": {"m": {"title": "M", "source": {"kind": "folder", "path": "m"}, "architecture": LLAMA}},
            "methods": {"lora": {"title": "LoRA", "peft_type": "LORA", "arguments": {}}},
            "data": self.data,
            "tasks": {name: task | {"items": {"own": name}} for name in ("sums", "letters")},
            "suites": {
                name: {"title": "Both", "tasks": ["sums", "letters"]}
                for name in ("both", "commonsense", "arithmetic", "mmlu")  # the last three: of the protocols
            },
        }
        (catalog / "own.yaml").write_text(yaml.safe_dump(entries))
        (catalog / "protocols.yaml").write_text(PROTOCOLS.read_text())
        grid = {"models": ["m"], "methods": ["lora"], "ranks": [4]}
        overrides = {"steps": 1, "epochs": None, "batch_size": 1, "micro_batch": 1, "validation_every": 1}
        entry = {"suite": "both", "train": "train", "protocol": "official", "seeds": [0], "grids": [grid]}
        experiment = {"title": "E", "items": "own", "tables": {"t": entry | {"overrides": overrides} | table}}
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(experiment))
        load_catalog.cache_clear()
        return load_plan(str(self.folder / "toy.yaml"))


@pytest.fixture
def house(tmp_path, monkeypatch):
    house = House(tmp_path)
    monkeypatch.setenv("SBORA_DATA_ROOT", str(house.root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return house


def test_rows_prompts_and_record(house, tmp_path):
    out = tmp_path / "out"
    prepare_table(house.plan(), "t", out)
    train = read_jsonl(out / "train.jsonl")
    assert [row["response"] for row in train] == [row["output"] for row in TRAIN]
    assert "request.  \n\n" in train[0]["prompt"] and train[0]["prompt"].endswith("### Response:\n" + " " * 16)
    items = read_jsonl(out / "sums.jsonl")
    assert [row["id"] for row in items] == list(range(20))
    assert items[4]["answer"] == "5" and "request. \n\n" in items[4]["prompt"]
    assert [row["id"] for row in items if row["contaminated"]] == [1, 3]
    assert "subject" not in items[0]

    record = read_record(out / "contamination.json", ContaminationRecord)
    assert (record.train, record.train_rows, record.policy) == ("train", 4, "keep")
    assert record.train_sha256 == sha256(out / "train.jsonl")
    sums = record.tasks["sums"]
    assert (sums.available, sums.contaminated, sums.n) == (20, [1, 3], 20)
    assert sums.sha256 == sha256(out / "sums.jsonl")


def test_mmlu_keeps_its_subject_and_its_own_text(house, tmp_path):
    overrides = {
        "steps": 1,
        "epochs": None,
        "batch_size": 1,
        "micro_batch": 1,
        "score_prompt": "mmlu",
        "validation_every": 1,
    }
    prepare_table(house.plan(overrides=overrides), "t", tmp_path / "out")
    rows = read_jsonl(tmp_path / "out" / "letters.jsonl")
    assert [(row["subject"], row["answer"]) for row in rows] == [("sums", "A")] * 3
    assert rows[2]["prompt"] == LETTERS[2]["input"]


def test_contaminated_items_are_dropped_before_the_draw(house, tmp_path):
    prepare_table(house.plan(contaminated="drop", limit={"sums": 18}), "t", tmp_path / "out")
    ids = [row["id"] for row in read_jsonl(tmp_path / "out" / "sums.jsonl")]
    assert ids == [i for i in range(20) if i not in (1, 3)]


def test_a_draw_is_seeded_and_keeps_the_order_of_the_source():
    first = choose(1000, [], "keep", 50, seed=1)
    assert first == choose(1000, [], "keep", 50, seed=1) == sorted(set(first))
    assert first != choose(1000, [], "keep", 50, seed=2)
    assert choose(10, [], "keep", 50, seed=1) == list(range(10))
    assert not set(choose(1000, list(range(500)), "drop", 400, seed=1)) & set(range(500))


def test_the_same_inputs_give_the_same_bytes(house, tmp_path):
    for name in ("one", "two"):
        prepare_table(house.plan(limit={"sums": 7}), "t", tmp_path / name)
    hashes = [{p.name: sha256(p) for p in sorted((tmp_path / name).iterdir())} for name in ("one", "two")]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 4


def test_a_missing_file_stops_the_run_or_is_skipped(house, tmp_path):
    (house.root / "sums.json").unlink()
    with pytest.raises(UserError, match=r"root/sums.json: no such file; fetch http://127.0.0.1:9/sums.json"):
        prepare_table(house.plan(), "t", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    prepare_table(house.plan(missing="skip"), "t", tmp_path / "out")
    record = read_record(tmp_path / "out" / "contamination.json", ContaminationRecord)
    assert record.tasks["sums"].status == "not available" and record.tasks["letters"].status == "ok"
    assert "http://127.0.0.1:9/sums.json" in record.tasks["sums"].reason
    assert str(tmp_path) not in (tmp_path / "out" / "contamination.json").read_text()
    assert not (tmp_path / "out" / "sums.jsonl").exists()


def test_a_missing_training_set_is_never_skipped(house, tmp_path):
    (house.root / "train.json").unlink()
    with pytest.raises(UserError, match="data train: "):
        prepare_table(house.plan(missing="skip"), "t", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_score_is_a_mistake_even_when_skipping(house, tmp_path):
    for name in ("sums", "letters"):
        (house.root / f"{name}.json").unlink()
    with pytest.raises(UserError, match="no task's items"):
        prepare_table(house.plan(missing="skip"), "t", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("missing", ["fail", "skip"])
def test_other_bytes_stop_the_run_with_both_ids(house, tmp_path, missing):
    path = house.root / "sums.json"
    path.write_bytes(path.read_bytes()[:-9])
    actual, expected = git_blob_id(path.read_bytes()), house.data["sums"]["blob"]
    with pytest.raises(UserError, match=f"git blob id {actual}, expected {expected}"):
        prepare_table(house.plan(missing=missing), "t", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_another_number_of_rows_is_told(house, tmp_path):
    house.data["sums"]["rows"] = 21
    with pytest.raises(UserError, match="found 20 rows, expected 21"):
        prepare_table(house.plan(), "t", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"question": "1"}]', "row 0: found question; allowed are the keys instruction, input, output, answer"),
        ("[3]", "row 0: found int"),
        ('[{"instruction": null, "input": "", "output": "", "answer": "1"}]', "row 0: instruction: found null"),
        ('[{"instruction": "a', "line 1: not JSON .Unterminated string"),
    ],
)
def test_rows_of_another_kind_are_told(house, tmp_path, text, message):
    house.put("sums", text)
    with pytest.raises(UserError, match=message):
        prepare_table(house.plan(), "t", tmp_path / "out")


def test_an_unknown_table_names_the_nearest(house, tmp_path):
    with pytest.raises(UserError, match="unknown table 'tt', did you mean 't'"):
        prepare_table(house.plan(), "tt", tmp_path / "out")


def test_an_older_folder_is_replaced_whole(house, tmp_path):
    out = tmp_path / "out"
    prepare_table(house.plan(), "t", out)
    (out / "stale.jsonl").write_text("{}")
    prepare_table(house.plan(limit={"sums": 2}), "t", out)
    assert sorted(p.name for p in out.iterdir()) == ["contamination.json", "letters.jsonl", "sums.jsonl", "train.jsonl"]
    assert len(read_jsonl(out / "sums.jsonl")) == 2
