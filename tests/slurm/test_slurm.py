"""`tiny` through a real Slurm, a job killed by its time limit, the node drained, another job killed: the local bytes.

    pytest -m slow tests/slurm

Without Slurm it is skipped; with CI=true Slurm is installed (Debian, root), and what can't be is a failure.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from sbora_bench.files import read_json
from tests.factories.held import CHECKPOINT, Held
from tests.workflow.conftest import PATIENCE, reproduction, results_of, root, shared_folder, wait_for  # noqa: F401  (fixtures)

from .cluster import Cluster, missing

OPTIONS = [
    *("--profile", "profiles/slurm", "--jobs", "2", "--default-resources", "mem_mb=1000", "runtime=10"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"),
    *("--seconds-between-status-checks", "2", "--latency-wait", "20"),
    *("--config", "experiment=tiny"),
]


def installed() -> None:
    """Skips where Slurm is missing; with CI=true installs it, and fails where it can't."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        reason = "snakemake-executor-plugin-slurm is not installed (pip install '.[cluster]')"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    if not missing():
        return
    if os.environ.get("CI") != "true":
        pytest.skip(f"no Slurm here: apt-get install {' '.join(missing())}")
    if os.getuid() or not shutil.which("apt-get"):
        pytest.fail(f"CI=true, and only root with apt-get could install Slurm: install {' '.join(missing())} first")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing()]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run([*apt, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"CI=true, and Slurm can't be installed: {done.stderr[-1500:]}"


@pytest.fixture
def cluster():
    installed()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def commands(folder: Path, stage: str) -> list[psutil.Process]:
    """The running `sbora-bench STAGE` of a root."""
    processes = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and words[2:3] == [stage]:  # python sbora-bench STAGE
            processes.append(process)
    return processes


def kill(folder: Path, spared: str) -> str | None:
    """Kill a job's command outright, but for the one `spared`; its job's id."""
    for process in commands(folder, "run"):
        with contextlib.suppress(psutil.NoSuchProcess):
            job = process.environ()["SLURM_JOB_ID"]
            if job != spared:
                process.kill()
                return job
    return None


@pytest.mark.slow
def test_tiny_survives_a_time_limit_a_drained_node_and_a_failed_job(cluster, reproduction, root):  # noqa: F811
    drained = ["scontrol", "update", f"NodeName={cluster.host}"]
    held = Held(root.folder / "hold", CHECKPOINT)
    environment = {**cluster.environment, "HF_HUB_OFFLINE": "1", **held.environment}
    log = root.folder / "snakemake.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "snakemake", *OPTIONS]
        process = subprocess.Popen(command, cwd=root.folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            training = wait_for("a checkpoint", process, held.process)
            training.suspend()  # Slurm wakes it to end it
            held.go()
            shown = root.bench("status", "tiny").stdout
            assert re.search(r"^  running  arithmetic-\S+: training, step 5 of 10, .* left, last line ", shown, re.M), (
                shown
            )
            out_of_time = training.environ()["SLURM_JOB_ID"]
            cluster.ask("scontrol", "update", f"JobId={out_of_time}", "TimeLimit=1")  # minutes, since its start
            cluster.ask(*drained, "State=DRAIN", "Reason=test")
            states = ("squeue", "--noheader", "--states=PENDING", "--format=%i|%r")
            wait_for("a job that waits for the node", process, lambda: cluster.ask(*states))
            assert "drain" in cluster.ask("sinfo", "--noheader", "--format=%T")
            cluster.ask(*drained, "State=RESUME")
            failed = wait_for("another job", process, lambda: kill(root.folder, out_of_time))
            assert process.wait(PATIENCE) == 0, log.read_text()[-6000:]
        finally:
            process.kill()
    ended = dict(line.split("|") for line in cluster.ask("squeue", "--states=all", "-ho", "%i|%T").split())
    assert ended[out_of_time] == "TIMEOUT" and ended[failed] == "FAILED", ended
    assert {job for job, state in ended.items() if state not in ("COMPLETED", "TIMEOUT")} == {failed}, ended
    records = (root.folder / "results" / "tiny" / "runs").glob("arithmetic-*/train.json")
    assert any(read_json(path)["happened"]["resumed_from_step"] > 0 for path in records)
    assert results_of(root.folder) == results_of(reproduction.folder)
    print((cluster.folder / "slurmctld.log").read_text())
