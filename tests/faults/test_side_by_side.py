"""Two Snakemakes in one folder, of one experiment or of two that share a base: the second is refused, none is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.faults.conftest import TINY, finished, outcome
from tests.workflow.conftest import Root


def start(root: Root) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *TINY]
    with (root.folder / "first.log").open("w") as log:
        return subprocess.Popen(
            command, cwd=root.folder, env=kept | {"HF_HUB_OFFLINE": "1", "PATH": path}, stdout=log, stderr=log
        )


@pytest.mark.slow
def test_two_at_once(undisturbed, root):
    tiny = yaml.safe_load((root.folder / "experiments" / "tiny.yaml").read_text())
    table = tiny["tables"]["arithmetic"] | {"seeds": [0]}
    other = tiny | {"title": "Beside", "tables": {"arithmetic": table}}
    (root.folder / "experiments" / "beside.yaml").write_text(yaml.safe_dump(other))
    first = start(root)
    try:
        while not (root.folder / "resources" / "models" / "ladder-xs" / "base.json").exists():
            assert first.poll() is None, (root.folder / "first.log").read_text()[-3000:]
            time.sleep(0.1)
        for second in (TINY, ["--config", "experiment=beside"]):
            refused = root.snakemake(*second)
            assert refused.returncode == 1 and "LockException" in refused.stderr, refused.stderr
            assert first.poll() is None
        assert first.wait(timeout=1200) == 0, (root.folder / "first.log").read_text()[-3000:]
    finally:
        first.kill()
        first.wait()
    assert outcome(root) == undisturbed
    finished(root.snakemake("--config", "experiment=beside"))
    both = outcome(root, "beside")
    shared = [name for name in both if name.startswith("runs/arithmetic-ladder-xs-lora-r4-s0/adapter/adapter_model")]
    assert len(shared) == 1 and both[shared[0]] == undisturbed[shared[0]]
