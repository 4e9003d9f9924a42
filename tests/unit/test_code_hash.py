"""A stage's hash holds every function that the stage calls, and follows what code does, not how it is written."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from sbora_bench import code_hash as hashing
from tests import forked
from tests.factories.made_results import make_plan, make_results

STAGES = ["inputs.prepare", "inputs.models.fetch", "train.pretrain", "train.finetune", "score.evaluate"]
STAGES += ["cost.footprint", "analysis.collect", "report.cards", "report.tables", "report.figures", "report.audit"]
STAGES += ["report.page", "results.failures"]


def source_files(module: str) -> set[Path]:
    """The files that hold what `module` runs."""
    counted, _, files = hashing.reached(module)
    return {Path(find_spec(name).origin) for name, _ in counted} | files


IMPORTED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
names = [name for name in sys.modules if name.split(".")[0] in ("sbora", "sbora_bench")]
print(json.dumps([sys.modules[name].__file__ for name in names]))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_the_static_list_holds_what_is_imported(stage):
    module = f"sbora_bench.{stage}"
    done = forked.python("-c", IMPORTED, module)
    assert done.returncode == 0, done.stderr
    imported = {Path(path).resolve() for path in json.loads(done.stdout.splitlines()[-1])}
    static = {path for path in source_files(module) if path.suffix == ".py"}
    empty = {path for path in imported if not hashing.Module("", path).statements}
    assert imported - static - empty == set()
    assert hashing.SOURCE / "sbora_bench" / f"{stage.replace('.', '/')}.py" in imported


# Runs a stage on results in the working directory and prints the code of ours that was called: file, first line.
CALLED = """
import inspect, json, pathlib, sys, threading
from importlib import import_module
from sbora_bench.plan.load import load_plan
module, experiment, *runs = sys.argv[1:]
plan, called = load_plan(experiment), set()
stage = getattr(import_module("sbora_bench." + module), {"report.page": "report"}.get(module, module.split(".")[-1]))

def note(frame, event, _):
    function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # and no body of a module or a class
    if event == "call" and function and "/sbora" in frame.f_code.co_filename:
        called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

threading.setprofile(note)
sys.setprofile(note)
try:
    if runs:
        stage(plan, [plan.run(run) for run in runs], pathlib.Path("resources"), pathlib.Path("results"))
    else:
        stage(plan, pathlib.Path("results"))
finally:
    sys.setprofile(None)
print(json.dumps(sorted(called)))
"""


def called_but_not_counted(stage: str, folder: Path, experiment: str, *runs: str) -> tuple[set, set]:
    """(top-level statements of ours that ran without being counted, all that ran), as (file, first line)."""
    done = forked.python("-c", CALLED, stage, experiment, *runs, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    counted, _, files = hashing.reached(f"sbora_bench.{stage}")
    modules = {hashing._known(name).path: hashing._known(name) for name, _ in counted}
    missing, ran = set(), set()
    for file, line in json.loads(done.stdout.splitlines()[-1]):
        path = Path(file).resolve()
        if not path.is_relative_to(hashing.SOURCE) or path in files:  # a template is code too
            continue
        ran.add((path.name, line))
        module = modules.get(path)
        places = module and [
            place
            for place, node in enumerate(module.statements)
            if min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) <= line <= node.end_lineno
        ]
        if not places or (module.name, places[0]) not in counted:
            missing.add((path.name, line))
    return missing, ran


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    plan = make_plan(folder)
    make_results(plan, folder / "results")
    return folder, plan


def test_all_that_reading_stages_call_is_counted(made):
    folder, plan = made
    for stage in ("analysis.collect", "report.tables"):
        missing, ran = called_but_not_counted(stage, folder, plan.path)
        assert missing == set() and len(ran) > 30, stage


@pytest.mark.slow
def test_all_that_training_and_scoring_call_is_counted(tmp_path):
    from tests.factories.toy_training import house

    house(tmp_path)
    for stage, late in (("train.finetune", "wandb_log.py"), ("score.evaluate", "lm_eval_model.py")):
        missing, ran = called_but_not_counted(stage, tmp_path, "experiments/toy.yaml", "toy-tiny-sbora-fa-r4-s0")
        assert missing == set()
        assert late in {name for name, _ in ran}


def test_imports_inside_functions_count():
    files = {path.name for path in source_files("sbora_bench.train.finetune")}
    assert {"finetune.py", "load.py", "adapters.py", "layer.py", "encoding.py"} <= files
    assert not {"main.py", "checks.py", "tables.py", "page.py", "layouts.py", "extraction.py"} & files


def test_data_files_count_where_they_are_named():
    def files(stage: str) -> set[str]:
        return {path.name for path in source_files(f"sbora_bench.{stage}") if path.suffix != ".py"}

    assert "extraction.py" in {path.name for path in source_files("sbora_bench.score.evaluate")}
    assert {"choice.yaml", "number.yaml"} <= files("score.evaluate")
    assert files("train.finetune") == files("analysis.collect") == set()
    assert {"table.html", "macros.html", "report.css"} <= files("report.tables")
    assert not {"report.html", "report.js"} & files("report.tables") | {"report.html"} & files("report.figures")
    assert {"report.html", "report.js", "report.css", "macros.html"} <= files("report.page")


ONE = """
import contextlib
from sbora_bench.two import LATER, used as renamed

def one():
    \"\"\"What one does.\"\"\"
    from sbora_bench import four
    return renamed(), four.four, "note.txt"
"""
TWO = """
import sbora_bench.three

LATER = {"a": 1}  # needed by nothing

def used():
    return helper()

def helper():
    return 1

def unused():
    return 2
"""
REST = {"three": "SEEN = []\nSEEN.append(1)\n", "four": "four = 4\nfive = 5\n", "six": "six = 6\n"}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """A package of small modules; a function that edits a file (text, its replacement) and gives the hash of `one`."""
    package = tmp_path / "sbora_bench"
    package.mkdir()
    for name, text in {"__init__": "", "one": ONE, "two": TWO, **REST}.items():
        (package / f"{name}.py").write_text(text)
    (package / "note.txt").write_text("a note")
    (package / "other.txt").write_text("another")
    monkeypatch.setattr(hashing, "SOURCE", tmp_path)
    caches = (hashing.code_hash, hashing.reached, hashing._module, hashing._data_files, hashing._sources)

    def edited(file: str = "", old: str = "", new: str = "") -> str:
        if file:
            path = package / file
            assert path.read_text().count(old) == 1
            path.write_text(path.read_text().replace(old, new))
        for cached in caches:
            cached.cache_clear()
        return hashing.code_hash("sbora_bench.one")

    yield edited
    for cached in caches:
        cached.cache_clear()


def test_the_hash_follows_what_runs(digest):
    seen = [digest()]
    for file, old, new in (
        ("two.py", "return 1", "return 3"),
        ("two.py", "return helper()", "return helper() + 1"),
        ("three.py", "append(1)", "append(2)"),
        ("four.py", "four = 4", "four = 5"),
        ("note.txt", "a note", "a word"),
        ("one.py", "used as renamed", "unused as renamed"),
    ):
        seen.append(digest(file, old, new))
    assert len(set(seen)) == 7


def test_the_hash_does_not_follow_how_it_is_written_nor_what_does_not_run(digest):
    first = digest()
    for file, old, new in (
        ("one.py", "What one does.", "What it does."),
        ("one.py", "def one", "# a reason\n\n\ndef one"),
        ("one.py", "import contextlib", "import contextlib\nimport functools"),
        ("two.py", "return 2", "return 5"),
        ("two.py", '"a": 1', '"a": 2'),
        ("two.py", "def unused", "def added():\n    return 0\n\n\ndef unused"),
        ("four.py", "five = 5", "five = 6"),
        ("six.py", "six = 6", "six = 7"),
        ("other.txt", "another", "one more"),
    ):
        assert digest(file, old, new) == first, (file, new)


def test_an_argument_that_a_stage_does_nothing_with_can_be_left_out(digest):
    def without(*edit: str) -> str:
        digest(*edit)
        return hashing.code_hash("sbora_bench.one", frozenset({"caption"}))

    whole = digest("three.py", "SEEN = []", 'SEEN = list(caption="old")')
    first = without()
    assert without("three.py", '"old"', '"new"') == first and digest() != whole
    assert without("three.py", "caption=", "title=") != first


def test_a_module_of_what_runs_is_counted_by_the_way_it_is_imported(digest):
    first = digest("three.py", "SEEN = []", "import sbora_bench.six\nSEEN = []")
    assert digest("six.py", "six = 6", "six = 7") == first  # a constant that nothing names
    assert digest("six.py", "six = 7", "six = 7\nprint(six)") != first


def test_hashes_are_kept_beside_what_python_compiles_until_a_file_changes(digest, monkeypatch):
    monkeypatch.setattr(hashing.sys, "dont_write_bytecode", False)
    computed, compute = [], hashing._computed
    monkeypatch.setattr(hashing, "_computed", lambda *what: computed.append(what) or compute(*what))
    first = digest()
    assert [digest(), digest()] == [first, first] and len(computed) == 1
    (kept,) = hashing.SOURCE.glob("sbora_bench/__pycache__/*.json")
    assert digest("two.py", "return 1", "return 3") != first and len(computed) == 2
    second = kept.read_text()
    for damaged in ("", "[]", "{}", second.replace("hashes", "others")):
        kept.write_text(damaged)
        assert digest() != first and kept.read_text() == second


def test_nothing_is_kept_where_python_may_keep_nothing(digest, monkeypatch):
    monkeypatch.setattr(hashing.sys, "dont_write_bytecode", True)
    assert digest() and not list(hashing.SOURCE.rglob("*.json"))
