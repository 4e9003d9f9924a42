"""The Makefile in a home that can't be written to and in a container that forbids Python to keep what it compiles; a
check that fails beside the tests fails them.
"""

import shlex
import subprocess
import sys

import pytest

from tests.factories.shipped import ROOT


def shown(line: str) -> str:
    """What a recipe of the Makefile prints."""
    command = ["make", "-s", "--eval", f"show: ; @{line}", "show"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("writable", [True, False])
def test_a_home_that_cannot_be_written_to_does_not_stop_snakemake(tmp_path, monkeypatch, writable):
    home = tmp_path if writable else tmp_path / "file" / "home"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shown("echo $(XDG_CACHE_HOME)") == ("" if writable else str(ROOT / "resources" / "cache"))


def test_what_a_job_compiles_is_kept_for_the_next(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert shown(shlex.join([sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"])) == "False"


@pytest.mark.parametrize("failing", ["tests", "docs", "lint-types"])
def test_what_fails_beside_the_others_fails_the_whole(tmp_path, monkeypatch, failing):
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the make that runs these tests
        monkeypatch.delenv(name, raising=False)
    stubs = {name: f"@echo {name} ran" for name in ("tests", "docs", "lint-types", "lint-workflow", "lint-python")}
    stubs[failing] += "; false"
    (tmp_path / "stubs.mk").write_text("".join(f"{name}: ; {recipe}\n" for name, recipe in stubs.items()))
    command = ["make", "--file", "Makefile", "--file", str(tmp_path / "stubs.mk"), "--old-file", ".venv/ready"]
    done = subprocess.run(
        [*command, f"MAKE={' '.join(command)}", "test"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert {"tests ran", f"{failing} ran"} <= set(done.stdout.splitlines()), done.stdout
