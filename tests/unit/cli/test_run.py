"""A job's command: each run trained and scored in one process, to the bytes of a process for each stage."""

import mmap
import shutil
from pathlib import Path

import pytest

from sbora_bench.cli.main import cli
from sbora_bench.errors import Terminated
from sbora_bench.files import sha256
from sbora_bench.results.records import ScoresRecord, TrainRecord, read_record
from sbora_bench.score import evaluate
from sbora_bench.train import finetune
from tests import forked
from tests.factories.toy_training import house

BASE, LORA, SBORA = "toy-tiny-base", "toy-tiny-lora-r4-s0", "toy-tiny-sbora-fa-r4-s1"


def run(*names: str, command: str = "run") -> None:
    cli([command, *options(), *names], standalone_mode=False)


def options() -> list[str]:
    return ["--experiment", str(Path("experiments/toy.yaml").absolute()), "--results", "results"]


def left(root: Path, name: str) -> dict[str, str]:
    """File of a run -> SHA-256, but for `train.json`, which has times."""
    folder = root / "results" / "runs" / name
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "train.json"]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def training(root: Path, name: str) -> bytes:
    return (root / "results" / "runs" / name / "train.json").read_bytes()


@pytest.fixture
def root(tmp_path, monkeypatch):
    house(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_process_leaves_the_bytes_of_one_for_each_stage(root):
    run(LORA, BASE, SBORA)
    together = {name: left(root, name) for name in (LORA, BASE, SBORA)}
    modes = {
        read_record(root / "results/runs" / name / "train.json", TrainRecord).on.algorithms for name in (LORA, SBORA)
    }
    assert not (root / "results" / "runs" / BASE / "train.json").exists() and "scores.json" in together[BASE]
    for folder in ("runs", "store"):
        shutil.rmtree(root / "results" / folder)
    for stage, names in (("finetune", (SBORA, LORA)), ("evaluate", (SBORA, LORA, BASE))):
        done = forked.python("-m", "sbora_bench.cli", stage, *options(), *names, folder=root)
        assert done.returncode == 0, done.stderr[-3000:]
    assert {name: left(root, name) for name in (LORA, BASE, SBORA)} == together
    apart = {
        read_record(root / "results/runs" / name / "train.json", TrainRecord).on.algorithms for name in (LORA, SBORA)
    }
    assert modes == apart, "scoring before leaves its choice of algorithms to no training"


def test_an_edit_of_scoring_scores_again_and_trains_nothing(root, monkeypatch):
    run(LORA)
    trained, store = training(root, LORA), root / "results" / "store" / LORA
    shutil.rmtree(root / "results" / "runs")  # as Snakemake deletes what a job that runs again leaves
    monkeypatch.setattr(evaluate, "code_hash", lambda module: f"edited {module}")
    scored = []
    monkeypatch.setattr(evaluate, "score_run", lambda *given, real=evaluate.score_run: (scored.append(1), real(*given)))
    run(LORA)
    assert training(root, LORA) == trained and scored == [1]
    assert len(list(store.glob("finetune-*/done.json"))) == 1 and len(list(store.glob("evaluate-*/done.json"))) == 2


def test_a_run_that_fails_leaves_records_that_say_so_and_its_siblings_go_on(root, monkeypatch):
    def train_run(plan, one, *given, real=finetune.train_run):
        if one.name == LORA:
            raise RuntimeError("the device fell off the bus")
        return real(plan, one, *given)

    monkeypatch.setattr(finetune, "train_run", train_run)
    run(LORA, SBORA)
    runs = root / "results" / "runs"
    assert read_record(runs / LORA / "train.json", TrainRecord).status == "failed"
    scores = {name: read_record(runs / name / "scores.json", ScoresRecord) for name in (LORA, SBORA)}
    assert [scores[name].status for name in (LORA, SBORA)] == ["failed", "ok"]
    assert "the device fell off the bus" in scores[LORA].reason


def test_a_job_that_is_stopped_loses_no_finished_run(root, monkeypatch):
    def score_run(plan, one, *given, real=evaluate.score_run):
        if one.name == SBORA:
            raise Terminated
        real(plan, one, *given)

    with monkeypatch.context() as stopped, pytest.raises(Terminated):
        stopped.setattr(evaluate, "score_run", score_run)
        run(LORA, SBORA)
    trained = {name: training(root, name) for name in (LORA, SBORA)}
    scored = left(root, LORA)
    shutil.rmtree(root / "results" / "runs")
    run(LORA, SBORA)
    assert {name: training(root, name) for name in (LORA, SBORA)} == trained and left(root, LORA) == scored
    assert "scores.json" in left(root, SBORA)


def test_the_peak_of_a_training_is_not_that_of_the_scoring_before_it(root, monkeypatch):
    def score_run(plan, one, *given, real=evaluate.score_run):
        bytearray(400_000_000)[:: mmap.PAGESIZE] = b"1" * -(-400_000_000 // mmap.PAGESIZE)  # touches every page
        real(plan, one, *given)

    monkeypatch.setattr(evaluate, "score_run", score_run)
    run(LORA, SBORA)
    records = [read_record(root / "results/runs" / name / "train.json", TrainRecord) for name in (LORA, SBORA)]
    first, second = (record.happened.peak_memory_bytes for record in records)
    assert second < first + 200_000_000
