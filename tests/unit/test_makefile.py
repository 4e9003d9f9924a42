"""The Makefile in a home that can't be written to, and in a container that forbids Python to keep what it compiles."""

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
    assert shown(f"{sys.executable} -c 'import sys; print(sys.dont_write_bytecode)'") == "False"
