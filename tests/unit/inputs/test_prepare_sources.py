"""Where examples come from: downloads (whole, interrupted, wrong), hub sets in a folder, Flan, the real files."""

import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest

from sbora_bench.errors import UserError
from sbora_bench.files import git_blob_id
from sbora_bench.hub import DOWNLOADS, Unreachable
from sbora_bench.inputs.data.flan import BUCKETS, sample
from sbora_bench.inputs.data.sources import fetch, read_examples
from sbora_bench.plan.data_entries import FileData, HubData
from tests.factories import shipped
from tests.factories.servers import served
from tests.factories.shipped import DATA

CONTENT = json.dumps([{"instruction": "é" * 3000, "input": "", "output": "o", "answer": "a"}]).encode()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Downloads land in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SBORA_DATA_ROOT", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def entry(address: str, content: bytes = CONTENT, **more) -> FileData:
    return FileData(kind="file", path="a/file.json", url=address, blob=git_blob_id(content), **more)


def kept() -> list[str]:
    """What lies in the downloads folder, lock files aside."""
    return sorted(p.name for p in (DOWNLOADS / "a").iterdir() if p.suffix != ".lock")


def part(content: bytes) -> None:
    (DOWNLOADS / "a").mkdir(parents=True)
    (DOWNLOADS / "a" / "file.json.part").write_bytes(content)


def test_a_download_is_kept_and_not_fetched_twice():
    with served(CONTENT) as (address, begun):
        for _ in range(2):
            assert fetch("x", entry(f"{address}/file.json")).read_bytes() == CONTENT
    assert begun == [0] and kept() == ["file.json"]


def test_an_interrupted_download_goes_on():
    part(CONTENT[:1000])
    with served(CONTENT) as (address, begun):
        assert fetch("x", entry(f"{address}/file.json")).read_bytes() == CONTENT
    assert begun == [1000] and kept() == ["file.json"]


def test_a_download_that_was_whole_but_not_renamed():
    part(CONTENT)
    with served(CONTENT) as (address, begun):
        assert fetch("x", entry(f"{address}/file.json")).read_bytes() == CONTENT
    assert begun == [] and kept() == ["file.json"]


def test_a_damaged_part_is_fetched_again_from_the_start():
    part(b"?" * 1000)
    with served(CONTENT) as (address, begun):
        assert fetch("x", entry(f"{address}/file.json")).read_bytes() == CONTENT
    assert begun == [1000, 0] and kept() == ["file.json"]


def test_a_server_that_cannot_go_on():
    part(CONTENT[:1000])
    with served(CONTENT, ranges=False) as (address, begun):
        assert fetch("x", entry(f"{address}/file.json")).read_bytes() == CONTENT
    assert begun == [0, 0]


def test_wrong_bytes_are_told_with_both_ids_and_not_kept():
    ids = f"git blob id {git_blob_id(b'[]')}, expected {git_blob_id(CONTENT)}"
    with served(b"[]") as (address, _), pytest.raises(UserError, match=ids) as raised:
        fetch("x", entry(f"{address}/file.json"))
    assert not isinstance(raised.value, Unreachable) and kept() == []


def test_a_damaged_file_in_the_cache_is_told():
    (DOWNLOADS / "a").mkdir(parents=True)
    (DOWNLOADS / "a" / "file.json").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="git blob id .* expected"):
        fetch("x", entry("http://127.0.0.1:9/file.json"))


def test_an_address_that_does_not_answer_is_named_with_the_place():
    with pytest.raises(Unreachable) as raised:
        fetch("x", entry("http://127.0.0.1:9/file.json"))
    for named in ("data x", "http://127.0.0.1:9/file.json", "resources/downloads/a/file.json", "SBORA_DATA_ROOT"):
        assert named in str(raised.value)
    assert "\n" not in str(raised.value) and kept() == []


def test_an_address_without_the_file():
    with served(CONTENT) as (address, _), pytest.raises(Unreachable, match="HTTP 404"):
        fetch("x", entry(f"{address}/other.json"))
    assert kept() == []


def test_offline_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with served(CONTENT) as (address, begun), pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
        fetch("x", entry(f"{address}/file.json"))
    assert begun == []


def test_a_data_root_takes_the_place_of_a_download(monkeypatch, tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file.json").write_bytes(CONTENT)
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path / "root"))
    with served(CONTENT) as (address, begun):
        assert read_examples("x", entry(f"{address}/file.json", rows=1))[0]["answer"] == "a"
    assert begun == [] and not DOWNLOADS.exists()


@pytest.fixture
def hub_root(tmp_path, monkeypatch):
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def put(id: str, split: str, rows: list[dict]) -> None:
        folder = tmp_path / "root" / id / "data"
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))

    return put


def test_alpaca_from_a_folder(hub_root):
    hub_root(
        "who/alpaca", "train", [{"instruction": f"I{i}", "input": "", "output": f"O{i}", "text": "t"} for i in (1, 2)]
    )
    alpaca = HubData(kind="hub", id="who/alpaca", revision="r", rows=2)
    assert read_examples("alpaca", alpaca)[1] == {
        "instruction": "I2",
        "input": "",
        "output": "O2",
        "answer": "O2",
        "text": "t",
    }
    with pytest.raises(UserError, match="found 2 rows, expected 52,002"):
        read_examples("alpaca", alpaca.model_copy(update={"rows": 52002}))
    with pytest.raises(UserError, match="split test can't be read"):
        read_examples("alpaca", alpaca.model_copy(update={"split": "test"}))


def test_a_hub_set_that_is_nowhere(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = HubData(kind="hub", id="nobody/nothing", revision="0" * 40)
    with pytest.raises(
        Unreachable, match=r"huggingface.co/datasets/nobody/nothing/tree/0+ .*hf download nobody/nothing"
    ):
        read_examples("x", nowhere)


def flan_row(source: str, kind: str, inputs: str = "i", targets: str = "t") -> dict[str, str]:
    return {"inputs": inputs, "targets": targets, "task_source": source, "task_name": "n", "template_type": kind}


def test_flan_from_a_folder_is_sampled(hub_root):
    rows = [flan_row("CoT", "zs_opt", "x" * 385), flan_row("CoT", "zs_opt", "short", "answer")]
    hub_root("who/flan", "cot", rows)
    hub_root("who/flan", "niv2", [flan_row("NIv2", "fs_opt", "n")])
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: data/{split}-*\n" for split in ("cot", "niv2")
    )
    (Path("root") / "who/flan/README.md").write_text(card + "---\n")
    flan = HubData(kind="hub", id="who/flan", revision="r", split="cot+niv2", rows=3, sampler="flan-v2")
    assert [row["input"] for row in read_examples("flan", flan)] == ["n", "short"]


def test_flan_takes_its_share_of_fourteen_buckets():
    assert len(BUCKETS) == 14 and sum(BUCKETS.values()) == 50_000
    rows = [flan_row(*bucket.split("_", 1)) for bucket in BUCKETS for _ in range(5100)]
    chosen = sample(rows)
    counts = Counter(f"{rows[i]['task_source']}_{rows[i]['template_type']}" for i in chosen)
    assert counts == BUCKETS and len(set(chosen)) == 50_000
    assert sample(rows) == chosen != sample(rows, seed=43)


def test_flan_keeps_short_rows_of_known_buckets():
    rows = [
        flan_row("P3", "zs_opt", "i" * 384, "t" * 128),
        flan_row("P3", "zs_opt", "i" * 385),
        flan_row("P3", "zs_opt", "i", "t" * 129),
        flan_row("Dialog", "zs_noopt"),
        flan_row("P3", "zs_opt"),
    ]
    assert sorted(sample(rows)) == [0, 4]


def test_every_file_of_the_catalog_is_pinned_by_commit():
    files = {name: data for name, data in shipped.catalog().data.items() if data.kind == "file" and not data.stand_in}
    assert len(files) >= 19
    for name, data in files.items():
        assert re.search(r"/[0-9a-f]{40}/", data.url) and data.url.endswith(Path(data.path).name), name
        assert data.rows and data.columns and data.licence, name


def test_other_columns_than_the_catalogs_are_told(monkeypatch, tmp_path):
    content = json.dumps([{"instruction": "i", "input": "", "output": "o"}]).encode()
    (tmp_path / "file.json").write_bytes(content)
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tmp_path))
    data = FileData(
        kind="file", path="file.json", url="u", blob=git_blob_id(content), columns=["instruction", "input", "output"]
    )
    assert read_examples("x", data)[0]["answer"] == "o"
    with pytest.raises(UserError, match="found columns instruction, input, output, expected instruction, answer"):
        read_examples("x", data.model_copy(update={"columns": ("instruction", "answer")}))


def real(name: str) -> list[dict[str, str]]:
    data = shipped.catalog().data[name]
    if not (DATA / data.path).is_file():
        pytest.skip(f"{data.path} is not at hand; set SBORA_DATA_ROOT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SBORA_DATA_ROOT", str(DATA))
        return read_examples(name, data)


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("boolq-test", {"true": 2033, "false": 1237}),
        ("piqa-test", {"solution1": 910, "solution2": 928}),
        ("winogrande-test", {"option1": 628, "option2": 639}),
        ("aqua-test", {"A": 63, "B": 58, "C": 46, "D": 53, "E": 34}),
    ],
)
def test_answers_of_the_real_files(name, answers):
    """Counts of protocol section 6; number of rows and columns are checked by reading."""
    assert Counter(row["answer"] for row in real(name)) == answers


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [
        ("social-i-qa-test", "answer", 3),
        ("hellaswag-test", "ending", 4),
        ("arc-easy-test", "answer", 5),
        ("arc-challenge-test", "answer", 5),
        ("openbookqa-test", "answer", 4),
    ],
)
def test_labels_of_the_real_files(name, label, options):
    assert {row["answer"] for row in real(name)} <= {f"{label}{number}" for number in range(1, options + 1)}


@pytest.mark.parametrize(("name", "threes", "fives"), [("arc-easy-test", 7, 4), ("arc-challenge-test", 4, 3)])
def test_items_of_arc_with_other_than_four_options(name, threes, fives):
    options = Counter(
        len(set(re.findall(r"answer\d", row["instruction"].rpartition("Answer format")[2]))) for row in real(name)
    )
    assert (options[3], options[5]) == (threes, fives) and set(options) == {3, 4, 5}


@pytest.mark.parametrize(
    ("name", "broken", "negative"), [("addsub-test", 126, 0), ("singleeq-test", 134, 0), ("gsm8k-test", 0, 2)]
)
def test_numbers_of_the_real_files(name, broken, negative):
    answers = [float(row["answer"]) for row in real(name)]
    assert sum(not answer.is_integer() for answer in answers) == broken
    assert sum(answer < 0 for answer in answers) == negative


def test_duplicate_questions_of_multiarith():
    questions = [row["instruction"] for row in real("multiarith-test")]
    assert len(questions) - len(set(questions)) == 20


@pytest.mark.parametrize("name", ["gsm8k-test", "svamp-test", "math-data", "math-10k", "commonsense-170k"])
def test_real_files_have_no_input(name):
    assert {row["input"] for row in real(name)} == {""}


def test_the_parts_of_commonsense_170k():
    """By the family of the label: those of SIQA, ARC and OpenBookQA are alike."""
    families = Counter(re.sub(r"\d", "", row["answer"]) for row in real("commonsense-170k"))
    assert families["true"] + families["false"] == 9427
    assert (families["solution"], families["ending"], families["option"]) == (16113, 39905, 63238)
    assert families["answer"] == 33410 + 2251 + 1119 + 4957


@pytest.mark.parametrize("name", ["mmlu-val", "mmlu-test"])
def test_mmlu_has_57_subjects_and_four_letters(name):
    rows = real(name)
    assert len({row["subject"] for row in rows}) == 57 and {row["answer"] for row in rows} == set("ABCD")
