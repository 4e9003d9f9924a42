"""The programs that stand before a server of forks, and what tests and forks inherit."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import forked


def test_a_python_whose_path_has_a_space_serves(tmp_path, monkeypatch):
    """As that of a checkout in such a folder."""
    linked = tmp_path / "a folder" / "python"
    linked.parent.mkdir()
    linked.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(linked))
    forked.programs(str(tmp_path), str(tmp_path / "nobody"))

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(tmp_path / command[0]), *command[1:]], capture_output=True, text=True, check=False)

    assert run("python", "-IS", "-c", "print(1)").stdout == "1\n"
    asked = run("sbora-bench", "plan")
    assert asked.returncode == 1 and asked.stderr.splitlines()[-1].startswith("FileNotFoundError"), "no server is there"


def test_the_command_beside_the_server_runs_in_it(tmp_path):
    """As the jobs of a Snakemake that runs there call it."""
    command = [str(Path(forked.address()).with_name("sbora-bench")), "schema"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["properties"]["tables"], done.stderr


def test_a_process_computes_with_one_thread_unless_it_is_told_otherwise():
    assert os.environ["OMP_NUM_THREADS"].isdigit(), "not as many as this machine has cores"
