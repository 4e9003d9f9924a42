"""The static list of a stage's source files holds all that the stage really imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sbora_bench import provenance

STAGES = ["prepare", "pretrain", "finetune", "evaluate", "footprint", "collect", "tables", "figures", "report"]
STAGES += ["models.fetch"]
IMPORTED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
names = [name for name in sys.modules if name.split(".")[0] in ("sbora", "sbora_bench")]
print(json.dumps([sys.modules[name].__file__ for name in names]))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_the_static_list_holds_what_is_imported(stage):
    module = f"sbora_bench.{stage}"
    done = subprocess.run([sys.executable, "-c", IMPORTED, module], capture_output=True, text=True, check=True)
    imported = {Path(path).resolve() for path in json.loads(done.stdout.splitlines()[-1])}
    static = set(provenance.source_files(module))
    assert imported - static == set()
    assert provenance.SOURCE / "sbora_bench" / f"{stage.replace('.', '/')}.py" in imported


def test_imports_inside_functions_count():
    files = {path.name for path in provenance.source_files("sbora_bench.finetune")}
    assert {"finetune.py", "load.py", "adapters.py", "layer.py", "encoding.py"} <= files
    assert not {"cli.py", "tables.py", "report.py", "outputs.py", "extraction.py"} & files


def test_templates_belong_to_scoring():
    files = {path.name for path in provenance.source_files("sbora_bench.evaluate")}
    assert {"choice.yaml", "number.yaml", "extraction.py"} <= files


def test_the_hash_follows_the_bytes(tmp_path, monkeypatch):
    package = tmp_path / "sbora_bench"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from sbora_bench.two import x\n")
    (package / "two.py").write_text("x = 1\n")
    (package / "three.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)

    def digest() -> str:
        provenance.source_files.cache_clear()
        provenance.code_hash.cache_clear()
        return provenance.code_hash("sbora_bench.one")

    try:
        first = digest()
        (package / "three.py").write_text("x = 2\n")
        assert digest() == first
        (package / "two.py").write_text("x = 2\n")
        assert digest() != first
    finally:
        provenance.source_files.cache_clear()
        provenance.code_hash.cache_clear()


def test_versions_and_git(monkeypatch):
    versions = provenance.versions()
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert versions["torch"][0].isdigit()
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "not installed"
    monkeypatch.setattr(provenance, "SOURCE", Path("/"))
    assert provenance.git_state() == {}
