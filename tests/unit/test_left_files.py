"""A test that leaves a file in the checkout fails the session, by name (tests/conftest.py)."""

import os
import subprocess

from tests import forked
from tests.factories.shipped import ROOT

TESTS = """
from pathlib import Path
def test_leaves_a_file(): Path("folder").mkdir(); Path("folder/left").touch()
def test_leaves_what_git_ignores(): Path("ignored").touch()
"""


def test_the_file_and_the_test_are_named(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("ignored\n__pycache__/\n")
    (tmp_path / "before").touch()
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ("-m", "pytest", "-q", "-n", "0", "-p", "tests.conftest", "-p", "no:cacheprovider")
    done = forked.python(*command, folder=tmp_path, environment=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "left in the checkout" in line]
    assert line.startswith("folder/left: left in the checkout by ") and "test_it.py::test_leaves_a_file" in line
    (tmp_path / "test_it.py").write_text(TESTS.splitlines()[-1].join(["from pathlib import Path\n", "\n"]))
    assert forked.python(*command, folder=tmp_path, environment=environment).returncode == 0
