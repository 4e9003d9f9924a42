"""The static list of a stage's source files holds all that the stage really imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbora_bench import provenance

STAGES = [
    "inputs.prepare",
    "inputs.models.fetch",
    "train.pretrain",
    "train.finetune",
    "score.evaluate",
    "cost.footprint",
]
STAGES += ["analysis.collect", "report.tables", "report.figures", "report.audit", "report.page", "results.failures"]
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


RUN = """
import json, pathlib, sys
from importlib import import_module
from sbora_bench.plan.experiment import load_plan
plan = load_plan("experiments/toy.yaml")
stage = getattr(import_module("sbora_bench." + sys.argv[1]), sys.argv[1].split(".")[-1])
stage(plan, [plan.run(sys.argv[2])], pathlib.Path("resources"), pathlib.Path("results"))
names = [name for name in sys.modules if name.split(".")[0] in ("sbora", "sbora_bench")]
print(json.dumps([sys.modules[name].__file__ for name in names]))
"""


@pytest.mark.slow
def test_what_training_and_scoring_import_while_they_work_is_in_their_lists(tmp_path):
    from tests.toy_training import house

    house(tmp_path)
    for stage, late in (("train.finetune", "wandb_log.py"), ("score.evaluate", "lm_eval_model.py")):
        command = [sys.executable, "-c", RUN, stage, "toy-tiny-sbora-fa-r4-s0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        imported = {Path(path).resolve() for path in json.loads(done.stdout.splitlines()[-1])}
        assert imported - set(provenance.source_files(f"sbora_bench.{stage}")) == set()
        assert late in {path.name for path in imported}


def test_imports_inside_functions_count():
    files = {path.name for path in provenance.source_files("sbora_bench.train.finetune")}
    assert {"finetune.py", "load.py", "adapters.py", "layer.py", "encoding.py"} <= files
    assert not {"main.py", "tables.py", "page.py", "file_names.py", "extraction.py"} & files


def test_templates_belong_to_scoring():
    files = {path.name for path in provenance.source_files("sbora_bench.score.evaluate")}
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


@pytest.fixture
def torch_as_it_was(monkeypatch):
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield torch
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_deterministic_algorithms_are_taken_and_told(torch_as_it_was, monkeypatch):
    assert provenance.algorithms() == "not restricted"
    provenance.use_deterministic_algorithms()
    assert provenance.algorithms() == "deterministic where they exist"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch_as_it_was.are_deterministic_algorithms_enabled() and not torch_as_it_was.backends.cudnn.benchmark
    torch_as_it_was.use_deterministic_algorithms(True)
    assert provenance.algorithms() == "deterministic"


@pytest.mark.parametrize("gpu", [False, True])
def test_training_asks_for_them_on_a_gpu_before_anything_is_loaded(torch_as_it_was, monkeypatch, tmp_path, gpu):
    """The GPU is a stub: what is loaded first ends the run."""
    from sbora_bench.train import finetune
    from tests import toy_runs

    def loads(*_):
        raise InterruptedError(provenance.algorithms())

    plan = toy_runs.write_experiment(tmp_path)
    monkeypatch.setattr(torch_as_it_was.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(finetune, "load_tokenizer", loads)
    monkeypatch.setattr("transformers.set_seed", lambda seed: None)
    with pytest.raises(InterruptedError, match="deterministic where they exist" if gpu else "not restricted"):
        finetune.train_run(plan, plan.runs[1], tmp_path, tmp_path, tmp_path, tmp_path, rows=1)
