"""The order of the tests: what takes longest, and what shares one reproduction, first; what is no garbage; and what no
test may leave in the checkout.
"""

import gc
import os
import subprocess
from pathlib import Path

import pytest

from tests import forked

TICK = 0.05  # seconds by which a file's time may be off the clock that tests are timed by


def pytest_configure(config: pytest.Config) -> None:
    """One server of forks for all workers, which has its imports by the time that they have collected the tests.

    And one thread a process: workers are as many as cores, and no sum or peak is to depend on how many those are.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read where torch is imported, by workers and forks too
    forked.look_for_garbage_seldom()
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Watch(config.rootpath))
    if config.getoption("numprocesses", None):
        forked.share()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist worksteal` the first half is one worker's: no two wait for each other's turn in the same folder."""
    items.sort(key=_place)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: searched for garbage again and again, it took half of a test's time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What is left ends with the process: pytest would search all of it for garbage, five times."""
    gc.freeze()


def _place(item: pytest.Item) -> int:
    if "killed_22_times" in item.name:
        return 0
    return 1 if "shared_folder" in getattr(item, "fixturenames", ()) else 2


class Watch:
    """A file that git lists and does not ignore, and that was not there before the tests: they fail, naming it."""

    def __init__(self, root: Path) -> None:
        self.root, self.before, self.spans = root, untracked(root), {}
        self.left: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        span = self.spans.setdefault(report.nodeid, [report.start, report.stop])
        span[1] = report.stop

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for path in sorted(untracked(self.root) - self.before):
            made = (self.root / path).lstat().st_mtime
            during = [name for name, (begin, end) in self.spans.items() if begin - TICK <= made <= end + TICK]
            self.left.append(f"{path}: left in the checkout by {' or '.join(during) or 'no test that ran here'}")
        if self.left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.left:
            terminalreporter.write_line(line, red=True)


def untracked(root: Path) -> set[Path]:
    """What git lists as new in a checkout; none where there is no checkout, or no git."""
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(map(Path, filter(None, done.stdout.split("\0"))))
