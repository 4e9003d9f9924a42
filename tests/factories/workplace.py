"""A folder with the shipped catalog and one small experiment to spoil, and `sbora-bench` called in this process."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from sbora_bench.cli import main as cli
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.checks import check_plan
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.table import Experiment
from tests.factories import shipped
from tests.factories.shipped import CATALOG

EXPERIMENT = {
    "title": "Small",
    "items": "ladder",
    "tables": {
        "sums": {
            "suite": "arithmetic",
            "train": "ladder-math",
            "protocol": "tiny",
            "seeds": [0, 1],
            "grids": [{"models": ["ladder-xs"], "methods": ["lora", "sbora-fa"], "ranks": [4]}],
        }
    },
}
REMOVED = object()
# a program: `sbora-bench` with its arguments, and last on stdout the packages that were loaded, as JSON
LOADED = """
import json, sys
from sbora_bench.cli import main as cli
sys.argv = ["sbora-bench", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
TABLE = ("tables", "sums")
GRID = (*TABLE, "grids", 0)
SHIPPED = {path.name: path.read_bytes() for path in CATALOG.iterdir()}
TRIAL = ("--suite", "arithmetic", "--protocol", "tiny", "--items", "ladder", "--limit", "2")  # a quick `score`


class Workplace:
    """A copy of `experiments/catalog` in `folder`, which is the working directory."""

    def __init__(self, folder: Path, monkeypatch, capsys) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        shutil.copytree(CATALOG, folder / "experiments" / "catalog")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.delenv("SBORA_DATA_ROOT", raising=False)

    def write(self, text: str | bytes, name: str = "small") -> str:
        """Write `experiments/NAME.yaml`; returns the path as messages give it."""
        path = self.folder / "experiments" / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"experiments/{name}.yaml"

    def experiment(self, *edits, name: str = "small") -> str:
        """Write EXPERIMENT with edits: (path of keys, value)."""
        return self.write(yaml.safe_dump(edited(EXPERIMENT, *edits), sort_keys=False), name)

    def catalog(self, **sections) -> None:
        """Write `experiments/catalog/own.yaml`."""
        load_catalog.cache_clear()
        (self.folder / "experiments" / "catalog" / "own.yaml").write_text(yaml.safe_dump(sections))

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `sbora-bench ARGUMENTS`."""
        self._forget_own_catalog()
        self.monkeypatch.setattr("sys.argv", ["sbora-bench", *arguments])
        self.capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            self._forget_own_catalog()
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def _forget_own_catalog(self) -> None:
        """As a new process would: the shipped catalog alone stays read."""
        entries = (self.folder / "experiments" / "catalog").glob("*")
        if {path.name: path.read_bytes() if path.is_file() else None for path in entries} != SHIPPED:
            load_catalog.cache_clear()

    def refused(self, *arguments: str) -> str:
        """The one line that the command must end with, exit status 2, nothing printed or written."""
        before = self.files()
        status, out, err = self.run(*arguments)
        assert (status, out) == (2, ""), (status, out, err)
        assert err.endswith("\n") and len(err.splitlines()) == 1 and err.startswith("sbora-bench"), err
        assert self.files() == before
        return err


def edited(value: dict, *edits) -> dict:
    """A deep copy in which each (path of keys, value) is set, or taken out where the value is REMOVED."""
    made = copy.deepcopy(value)
    for path, new in edits:
        place = made
        for key in path[:-1]:
            place = place[key]
        if new is REMOVED:
            del place[path[-1]]
        else:
            place[path[-1]] = new
    return made


def plan_of(*edits) -> Plan:
    """EXPERIMENT with edits as a plan that is checked, without a file."""
    experiment = Experiment.model_validate(edited(EXPERIMENT, *edits))
    plan = Plan("small", experiment, shipped.catalog(), "experiments/small.yaml")
    check_plan(plan)
    return plan


COMPARISON = {"a": "sbora-fa-r4", "b": "lora-r4", "equal": "rank", "margin": 0.02}


def compare(**changes) -> tuple:
    """An edit that plans COMPARISON, changed so."""
    made = {key: value for key, value in (COMPARISON | changes).items() if value is not REMOVED}
    return (*TABLE, "comparisons"), [made]


@pytest.fixture
def workplace(tmp_path, monkeypatch, capsys):
    load_catalog.cache_clear()
    yield Workplace(tmp_path, monkeypatch, capsys)
    load_catalog.cache_clear()  # it is kept by a relative path, which is another test's too
