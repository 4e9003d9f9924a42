"""The Makefile where HOME is not to be written to: Snakemake's cache stands below the checkout."""

import subprocess

import pytest

from tests.factories.shipped import ROOT

SHOW = "show: ; @echo $(XDG_CACHE_HOME)"


@pytest.mark.parametrize("writable", [True, False])
def test_a_home_that_cannot_be_written_to_does_not_stop_snakemake(tmp_path, monkeypatch, writable):
    home = tmp_path if writable else tmp_path / "file" / "home"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    command = ["make", "-s", "--eval", SHOW, "show"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert shown == ("" if writable else str(ROOT / "resources" / "cache"))
