"""Malformed experiments, catalogs and command lines: exit status 2, one line, nothing written; never a traceback."""

import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.junk import JUNK, MANY
from tests.factories.workplace import EXPERIMENT, GRID, TABLE, workplace  # noqa: F401

PLACES = [(), ("title",), ("items",), ("tables",), TABLE, GRID]
PLACES += [(*TABLE, key) for key in ("suite", "train", "protocol", "seeds", "grids", "limit", "overrides")]
PLACES += [(*GRID, key) for key in ("models", "methods", "ranks")]
# what these may never hold, whatever else they hold
NEVER = {
    (): st.none() | st.text() | st.lists(JUNK),
    ("tables",): st.none() | st.text() | st.integers() | st.just({}),
    TABLE: st.none() | st.text() | st.lists(JUNK),
    (*TABLE, "seeds"): st.lists(st.integers(max_value=-1) | st.text() | st.floats(), min_size=1) | st.just([]),
    (*TABLE, "suite"): st.text().filter(lambda text: text not in ("arithmetic", "commonsense", "mmlu")) | st.integers(),
    (*TABLE, "protocol"): st.integers() | st.lists(JUNK) | st.text(max_size=3),
    (*TABLE, "limit"): st.dictionaries(st.just("MultiArith"), st.integers(max_value=0) | st.text(), min_size=1),
    (*TABLE, "overrides"): st.dictionaries(st.text(max_size=3), JUNK, min_size=1),
    (*GRID, "models"): st.lists(st.text(max_size=5), min_size=1) | st.just([]),
    (*GRID, "methods"): st.lists(st.text(max_size=3) | st.integers(), min_size=1) | st.just([]),
    (*GRID, "ranks"): st.lists(st.integers(max_value=0) | st.floats() | st.text() | st.booleans(), min_size=1),
}


def put(place: tuple, value) -> str:
    """The small experiment with `value` at `place`, as YAML."""
    if not place:
        return yaml.safe_dump(value)
    made = copy.deepcopy(EXPERIMENT)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return yaml.safe_dump(made, allow_unicode=True)


@pytest.mark.parametrize("place", NEVER, ids=lambda place: ".".join(map(str, place)) or "the whole")
def test_what_may_never_stand_there_is_refused(workplace, place):  # noqa: F811
    @MANY
    @given(value=NEVER[place])
    def check(value):
        message = workplace.refused("validate", workplace.write(put(place, value)))
        assert "small.yaml" in message

    check()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)) or "the whole")
def test_junk_is_refused_or_fits(workplace, place):  # noqa: F811
    @MANY
    @given(value=JUNK)
    def check(value):
        path = workplace.write(put(place, value))
        status, _, _ = workplace.run("validate", path)
        if status:
            workplace.refused("validate", path)

    check()


@MANY
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_experiment_are_refused(workplace, content):  # noqa: F811
    workplace.refused("validate", workplace.write(content))


@pytest.mark.parametrize("section", ["models", "methods", "data", "tasks", "suites", "protocols"])
def test_a_catalog_entry_of_junk_is_refused(workplace, section):  # noqa: F811
    path = workplace.experiment()

    @MANY
    @given(name=st.text(max_size=6), entry=JUNK)
    def check(name, entry):
        workplace.catalog(**{section: {name: entry}})
        assert "own.yaml" in workplace.refused("validate", path)

    check()


WORD = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=8)
COMMANDS = [
    "plan",
    "validate",
    "prepare",
    "run",
    "finetune",
    "evaluate",
    "collect",
    "tables",
    "report",
    "failures",
    "export",
]


@MANY
@given(command=st.sampled_from(COMMANDS), words=st.lists(WORD, min_size=3, max_size=5))
def test_command_lines_of_junk_are_refused(workplace, command, words):  # noqa: F811
    words = [word.replace("h", "x") for word in words]  # not -h: that is a question
    workplace.refused(command, *words)


# found by the tests above or by users; each has been a traceback, or could have been
FOUND = [
    "",
    "null",
    "[]",
    "- title",
    "title: &a [*a]",
    "tables: !!python/object/apply:os.system [id]",
    "title: x\ntitle: y\n",
    "title: \x00",
    "tables: {sums: {suite: arithmetic}}",
    "? [a, b]\n: c\n",
    "1: 2",
    "<<: 3",
    "title: 2026-13-45",
    "a: " + "[" * 2000,
    "x: 1e999999999",
    "\ufeff\ufeff",
]


@pytest.mark.parametrize("text", FOUND, ids=range(len(FOUND)))
def test_found_ones_are_refused(workplace, text):  # noqa: F811
    assert "small.yaml" in workplace.refused("validate", workplace.write(text))
