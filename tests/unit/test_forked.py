"""The programs that stand before a server of forks, and what tests and forks inherit."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def test_a_program_that_waits_keeps_no_other_from_its_end(tmp_path):
    """And each status goes to who asked for that program."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(forked.python, "-c", f"import sys; open({str(gate)!r}).read(); sys.exit(3)")
        with gate.open("w"):
            assert [forked.python("-c", f"raise SystemExit({status})").returncode for status in (4, 0)] == [4, 0]
            assert not waiting.done()
        assert waiting.result().returncode == 3


def test_a_fork_ends_what_it_began_and_nothing_that_the_server_did():
    """torch has hundreds of finalizers, which took most of a short program's time."""
    program = "import tempfile, weakref; print(sum(f.atexit for f in weakref.finalize._registry));"
    done = forked.python("-c", program + "kept = tempfile.TemporaryDirectory(); print(kept.name)")
    inherited, folder = done.stdout.splitlines()
    assert inherited == "0" and not Path(folder).exists()


def test_a_process_computes_with_one_thread_unless_it_is_told_otherwise():
    assert os.environ["OMP_NUM_THREADS"].isdigit(), "not as many as this machine has cores"
