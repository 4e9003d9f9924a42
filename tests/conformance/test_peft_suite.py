"""PEFT's own test suite, run on SBoRA: each case of `sbora_rows` is one pytest case here.

`pytest tests/conformance -rs` runs it and lists what was skipped and why (README.md beside this file).
Without the sdist of the installed peft everything here is skipped, saying so; where CI is set, as continuous
integration does, that is an error.
"""

import inspect
import math
import os
from types import ModuleType

import pytest

from . import peft_sdist
from .sbora_rows import INLINE, LIFTED_SKIPS, OTHER_WORDS, ROWS

try:
    ROOT = peft_sdist.fetch()
except peft_sdist.SdistUnavailable as error:
    if os.environ.get("CI"):
        raise
    pytest.skip(str(error), allow_module_level=True)

# What PEFT's tests make others say, none of it about SBoRA.
NOISE = [
    ".*is deprecated and will be removed in v6",
    "The PEFT config's `base_model_name_or_path` was renamed",
    "Could not find a config file in",
    "Using the model-agnostic default `max_length`",
    "FSDP is switching to use `NO_SHARD`",
    "When using ``NO_SHARD``",
    "Class-scoped fixtures defined as instance methods",
]
pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in NOISE]


def _with_our_rows(test: str, mark: pytest.Mark, rows: dict[int, list]) -> pytest.Mark:
    names, values, *rest = mark.args
    parameter, ours = INLINE.get(test, (None, None))
    ours = ours if names == parameter else rows.get(id(values))
    return mark if ours is None else pytest.mark.parametrize(names, ours, *rest, **mark.kwargs).mark


def adopt(module: ModuleType, ours: dict[str, list]) -> tuple[dict[str, type], int]:
    """Put our rows into a test module of PEFT: its test classes by name, and how many cases they now hold.

    A parametrize mark keeps the very list object that the module names, so identity tells which marks range
    over methods. A test without such a mark is about another method, or about none, and is dropped.
    """
    rows = {id(getattr(module, name)): values for name, values in ours.items()}
    classes, cases = {}, 0
    for name, cls in inspect.getmembers(module, inspect.isclass):
        if not name.startswith("Test") or cls.__module__ != module.__name__:
            continue
        for test, function in inspect.getmembers(cls, inspect.isfunction):
            if not test.startswith("test_"):
                continue
            marks = getattr(function, "pytestmark", [])
            grids = [mark for mark in marks if mark.name == "parametrize"]
            swapped = [_with_our_rows(test, mark, rows) for mark in grids]
            others = (module.__name__.rpartition(".")[2], test) in OTHER_WORDS
            if others or all(new is old for new, old in zip(swapped, grids, strict=True)):
                delattr(cls, test)
                continue
            function.pytestmark = [mark for mark in marks if mark.name != "parametrize"] + swapped
            cases += math.prod(len(mark.args[1]) for mark in swapped)
            classes[name] = cls
    return classes, cases


for _module, _function in LIFTED_SKIPS:
    setattr(peft_sdist.load(ROOT, _module), _function, lambda *_: None)

CASES = {}
for _module, _rows in ROWS.items():
    _classes, CASES[_module] = adopt(peft_sdist.load(ROOT, _module), _rows)
    globals().update(_classes)  # pytest collects the classes that it finds in this module


def test_suite_is_whole():
    """A release of PEFT that renames or reshapes its tests must not shrink the suite unnoticed."""
    assert all(CASES.values()), CASES
    assert sum(CASES.values()) >= 2100, CASES
