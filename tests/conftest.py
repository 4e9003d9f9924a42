"""The order of the tests: what takes longest, and what shares one reproduction, first; and what is no garbage."""

import gc

import pytest

from tests import forked


def pytest_configure(config: pytest.Config) -> None:
    """One server of forks for all workers, which has its imports by the time that they have collected the tests."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        forked.share()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist worksteal` the first half is one worker's: no two wait for each other's turn in the same folder."""
    items.sort(key=_place)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: searched for garbage again and again, it took half of a test's time."""
    gc.collect()
    gc.freeze()


def _place(item: pytest.Item) -> int:
    if "killed_22_times" in item.name:
        return 0
    return 1 if "shared_folder" in getattr(item, "fixturenames", ()) else 2
