"""`tiny` by the profile for Kubernetes: manifests checked by its schema, pods as processes that share only a bucket.

    pytest -m "slow or not slow" tests/pods

No cluster and no image take part: `stand_in.py` answers for the API, moto for S3.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from sbora_bench.files import read_json
from tests import forked
from tests.factories.held import CHECKPOINT, Held
from tests.workflow.conftest import PATIENCE, reproduction, results_of, root, shared_folder, wait_for  # noqa: F401  (fixtures)

from .stand_in import StandIn

BUCKET = "sbora"
IMAGE = "registry.invalid/sbora"
COMMAND = [
    *(sys.executable, "-m", "snakemake", "--profile", "profiles/kubernetes", "--jobs", "2"),
    *("--container-image", IMAGE, "--default-storage-prefix", f"s3://{BUCKET}"),
    *("--seconds-between-status-checks", "1"),
]
PART = ("only=table=arithmetic,method=lora", "seeds=0")  # the bucket is asked for each file of the whole
# `python -m snakemake` where the client was imported, which is when it reads KUBECONFIG
SNAKEMAKE = """
import os, runpy
from kubernetes.config import kube_config
kube_config.KUBE_CONFIG_DEFAULT_LOCATION = os.environ["KUBECONFIG"]
runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
"""
STORE = f"/workdir/.snakemake/storage/s3/{BUCKET}/results/tiny/store"


@pytest.fixture
def bucket():
    """Address of an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    yield address
    requests.post(f"{address}/moto-api/reset")  # a server's content outlives it
    server.stop()


@pytest.fixture
def submitting(bucket, tmp_path):
    """The environment of `snakemake` on the submitting side, less the cluster's address."""
    keys = {"ACCESS_KEY": "key", "SECRET_KEY": "canary-secret", "ENDPOINT_URL": bucket}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_", "AWS_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**inherited, "PATH": path} | {f"SNAKEMAKE_STORAGE_S3_{key}": value for key, value in keys.items()}


@pytest.fixture
def versioned(root):  # noqa: F811
    """A root under git, since only what git lists travels to a pod."""
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=root.folder, check=True)
    return root


def told_by(command: list[str], versioned, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and all that it said, in a fork that has the heavy imports."""
    done = forked.python("-c", SNAKEMAKE, *command[3:], folder=versioned.folder, environment=environment)
    return done.returncode, done.stdout + done.stderr


def fetched(bucket: str, folder: Path) -> Path:
    """Everything in the bucket, in `folder`."""
    s3 = boto3.resource("s3", endpoint_url=bucket, aws_access_key_id="key", aws_secret_access_key="-")
    for entry in s3.Bucket(BUCKET).objects.all():
        path = folder / entry.key
        path.parent.mkdir(parents=True, exist_ok=True)
        entry.Object().download_file(path)
    return folder


@pytest.mark.slow
def test_tiny_in_pods_that_share_a_bucket_alone(reproduction, versioned, submitting, bucket, tmp_path):  # noqa: F811
    log, held = tmp_path / "snakemake.log", Held(tmp_path / "hold", CHECKPOINT)
    with StandIn(tmp_path, submitting["PATH"], variables=held.environment) as cluster, log.open("w") as output:
        environment = {**submitting, "KUBECONFIG": str(cluster.config)}
        command = [*COMMAND, "--kubernetes-persistent-volumes", f"store:{STORE}", "--config", "experiment=tiny"]
        process = subprocess.Popen(
            command, cwd=versioned.folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            training = wait_for("a checkpoint", process, held.process)
            (evicted,) = [pod for pod in cluster.pods.values() if pod.process.pid == os.getpgid(training.pid)]
            held.go()
            evicted.evict()
            process.wait(PATIENCE)
        finally:
            process.kill()
        logs = "\n".join((pod.folder / "pod.log").read_text()[-3000:] for pod in cluster.pods.values() if pod.exit_code)
        assert process.returncode == 0, log.read_text()[-6000:] + logs
        assert not cluster.invalid
        assert [pod for pod in cluster.pods.values() if pod.exit_code] == [evicted]
        status, again = told_by(command, versioned, environment)
    assert status == 0 and "Nothing to be done" in again
    assert not (versioned.folder / "results" / "tiny").exists()
    folder = fetched(bucket, tmp_path / "fetched")
    assert results_of(folder) == results_of(reproduction.folder)
    records = (folder / "results" / "tiny" / "runs").glob("arithmetic-*/train.json")
    assert any(read_json(path)["happened"]["resumed_from_step"] > 0 for path in records)
    assert reproduction.bench("verify", str(folder / "results" / "tiny")).returncode == 0
    for path in [log, *folder.rglob("*.log"), *folder.rglob("*.json")]:
        assert "canary-secret" not in path.read_text(), path


def test_a_job_on_a_gpu_asks_for_it_as_kubernetes_wants(versioned, submitting, tmp_path):
    with StandIn(tmp_path, submitting["PATH"], run=False) as cluster:
        environment = {**submitting, "KUBECONFIG": str(cluster.config), "HF_TOKEN": "canary-secret-token"}
        command = [*COMMAND, "--retries", "0", "--set-resources", "prepare_table:gpu=1"]
        command += ["--envvars", "HF_TOKEN", "--config", "experiment=tiny", *PART]
        status, output = told_by(command, versioned, environment)
    assert status == 1 and cluster.pods, output[-6000:]
    assert not cluster.invalid
    assert any("hf_token" in secret["data"] for secret in cluster.secrets.values()) and "canary-secret" not in output
    pods = [pod.manifest["spec"]["template"]["spec"] for pod in cluster.pods.values()]
    assert {pod["containers"][0]["image"] for pod in pods} == {IMAGE}
    resources = [pod["containers"][0]["resources"] for pod in pods]
    assert all(
        of_pod["limits"].get("nvidia.com/gpu") == of_pod["requests"].get("nvidia.com/gpu") for of_pod in resources
    )
    assert "1" in [of_pod["limits"].get("nvidia.com/gpu") for of_pod in resources], resources
    assert all("canary-secret" not in str(pod) for pod in pods)


def test_failed_runs_in_a_bucket_are_not_taken_for_none(versioned, submitting):
    command = ["-m", "snakemake", "--cores", "1", "--default-storage-provider", "s3"]
    command += ["--default-storage-prefix", f"s3://{BUCKET}", "--config", "experiment=tiny", "retry_failed=true"]
    done = forked.python(*command, folder=versioned.folder, environment=submitting)
    assert done.returncode == 2 and "retry_failed: failed runs in a storage are not looked for" in done.stderr
