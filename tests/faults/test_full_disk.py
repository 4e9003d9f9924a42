"""A disk that fills up, really (a small tmpfs): one line with path and bytes, nothing half-written, and on it goes."""

import shutil
import subprocess
import sys

import pytest

from sbora_bench.cli import main as cli
from sbora_bench.errors import UserError
from sbora_bench.files import git_blob_id, nearly_full, read_json, write_json
from sbora_bench.hub import DOWNLOADS
from sbora_bench.inputs.data.sources import fetch
from sbora_bench.plan.data_entries import FileData
from sbora_bench.results import store
from sbora_bench.train import callbacks
from tests.factories import toy_pretraining as pretraining
from tests.factories.interruptions import LORA, RESUMED, at_step, kept, record_of
from tests.factories.servers import served
from tests.factories.toy_training import digests, house, train
from tests.faults.conftest import TINY, finished, outcome

SETTINGS = RESUMED | {"steps": 5, "checkpoint_every": 2}
COMMAND = "from sbora_bench.cli.main import main; main()"
FULL = r"no space left on the disk \((about |more than )?[\d,]+ bytes needed, [\d,]+ bytes free\); make room"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(house(root, **SETTINGS), root, LORA)
    return digests(root, LORA)


@pytest.fixture(scope="module")
def whole_base(tmp_path_factory):
    return pretraining.train(tmp_path_factory.mktemp("whole-base"))


def parts(folder) -> list:
    return [path for path in folder.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize("free", range(0, 49152, 8192))
def test_during_a_checkpoint(tmp_path, disk, whole, free):
    """So many bytes left for the second checkpoint: each of its files in turn is the one that lacks room."""
    small = disk(tmp_path / "results", "size=4m")
    plan = house(tmp_path, **SETTINGS)
    with pytest.raises(UserError, match=FULL) as raised, at_step(4, lambda _: small.leave(free)):
        train(plan, tmp_path, LORA)
    assert "checkpoint-4" in str(raised.value)
    assert not parts(tmp_path) and not (tmp_path / "results" / "runs").exists()
    assert [checkpoint.name for checkpoint in kept(tmp_path) if store.is_whole(checkpoint)] == ["checkpoint-2"]
    small.clear()
    train(plan, tmp_path, LORA)
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 2
    assert digests(tmp_path, LORA) == whole


@pytest.mark.parametrize(("free", "needed"), [(0, "about 2"), (155648, "about 2"), (294912, "180 bytes")])
def test_during_a_checkpoint_of_pretraining(tmp_path, disk, whole_base, capsys, free, needed):
    """Room for nothing, for a part of the tensors, for all but the list of files."""
    small = disk(tmp_path / "models", "size=4m")
    with pytest.raises(UserError, match=FULL) as raised, pretraining.at_step(4, lambda: small.leave(free)):
        pretraining.train(small.folder)
    assert "checkpoint-4" in str(raised.value) and f"({needed}" in str(raised.value) and not parts(tmp_path)
    assert [checkpoint.name for checkpoint in pretraining.kept(small.folder)] == ["checkpoint-2"]
    small.clear()
    capsys.readouterr()
    assert pretraining.train(small.folder) == whole_base and pretraining.begun(capsys.readouterr().err) == 2


@pytest.mark.parametrize("free", [0, 8192, 16384])
def test_during_the_adapter_and_its_record(tmp_path, disk, whole, monkeypatch, free):
    small = disk(tmp_path / "results", "size=4m")
    plan = house(tmp_path, **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.TerminationCallback, "on_train_end", lambda *_, **__: small.leave(free))
        with pytest.raises(UserError, match=FULL):
            train(plan, tmp_path, LORA)
    assert not parts(tmp_path) and not (tmp_path / "results" / "runs").exists()
    small.clear()
    train(plan, tmp_path, LORA)
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 5
    assert digests(tmp_path, LORA) == whole


def test_during_a_record(tmp_path, disk):
    small = disk(tmp_path / "results", "size=64k")
    small.leave(8192)
    with pytest.raises(UserError, match=r"train\.json: no space left on the disk \(100,003 bytes needed, 8,192"):
        write_json(tmp_path / "results" / "train.json", "x" * 100_000)
    assert [path.name for path in small.folder.iterdir()] == ["ballast"]


def test_during_a_download(tmp_path, disk, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SBORA_DATA_ROOT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    content = b"[" + b"1," * 100_000 + b"1]"
    small = disk(tmp_path / DOWNLOADS, "size=512k")
    small.leave(65536)
    with served(content) as (address, begun):
        entry = FileData(kind="file", path="file.json", url=f"{address}/file.json", blob=git_blob_id(content))
        with pytest.raises(UserError, match=r"downloads/file\.json: no space left on the disk \(200,003 bytes"):
            fetch("x", entry)
        assert {path.name for path in small.folder.iterdir()} <= {"ballast", "file.json.lock"}
        small.clear()
        assert fetch("x", entry).read_bytes() == content
    assert begun == [0, 0]


def test_the_line_of_the_command(tmp_path, disk, monkeypatch, capsys):
    """What `sbora-bench finetune` ends with: status 2, one line of ours, no traceback."""
    small = disk(tmp_path / "results", "size=4m")
    plan = house(tmp_path, **SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sbora-bench", "finetune", "-e", plan.path, "--results", "results", LORA])
    with at_step(4, lambda _: small.leave(0)), pytest.raises(SystemExit) as ended:
        cli.main()
    errors = capsys.readouterr().err
    ours = [line for line in errors.splitlines() if line.startswith("sbora-bench: ")]
    assert ended.value.code == 2 and len(ours) == 1 and "Traceback" not in errors
    assert "checkpoint-4: no space left on the disk (about " in ours[0]


def test_no_room_for_the_line_itself(tmp_path, disk):
    """The log lies on the full disk: it stays empty, and the status is the same."""
    small = disk(tmp_path / "results", "size=64k")
    small.leave(0)
    with (small.folder / "log").open("w") as log:
        done = subprocess.run([sys.executable, "-c", COMMAND, "status", "-e", "none"], stdout=log, stderr=log)
    assert done.returncode == 2 and not (small.folder / "log").read_text()
    assert f"{small.folder}: almost no space left on the disk (0 bytes free)" in nearly_full(small.folder)
    assert not nearly_full(small.folder, least=0)


@pytest.mark.slow
def test_a_reproduction_goes_on_after_room_is_made(undisturbed, root, disk):
    """All results on a disk that is too small for them; then it is made larger, and the same command goes on."""
    small = disk(root.folder / "results", "size=3m")
    done = root.snakemake(*TINY)
    log = done.stdout + done.stderr
    assert done.returncode == 1 and "almost no space left on the disk" in log and "Traceback" not in log, log[-4000:]
    assert not (root.folder / "results" / "tiny" / "every-run-ok").exists()
    small.remount("size=64m")
    finished(root.snakemake(*TINY))
    assert outcome(root) == undisturbed


def test_a_read_only_results_folder(root, disk):
    results = root.folder / "results"
    small = disk(results, "size=1m")
    small.remount("ro,size=1m")
    done = root.snakemake(*TINY)
    line = "snakemake: results/tiny: " + f"{results} can't be written; choose a folder that you may write to"
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == line, done.stderr
    dry = root.snakemake("--dry-run", "--quiet", *TINY)
    assert dry.returncode == 0, dry.stderr


def test_what_a_full_disk_makes_of_a_committed_list(tmp_path, disk):
    """The list of a checkpoint's files is its last: without room for it the checkpoint is not whole."""
    small = disk(tmp_path / "disk", "size=64k")
    folder = small.folder / "checkpoint-1"
    folder.mkdir()
    (folder / "weights").write_text("w")
    small.leave(0)
    with pytest.raises(UserError, match=FULL):
        store.seal(folder)
    assert not store.is_whole(folder)
    small.clear()
    store.seal(folder)
    assert store.is_whole(folder) and set(read_json(folder / store.DONE)) == {"weights"}
    shutil.rmtree(folder)
