"""What is written down of the packages, the checkout and torch's algorithms that a result was made with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbora_bench import provenance


def test_versions_and_git(monkeypatch):
    versions = provenance.versions()
    assert versions["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert versions["torch"][0].isdigit()
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "not installed"
    monkeypatch.setattr(provenance, "SOURCE", Path("/"))
    assert provenance.git_state() == {}


def test_a_process_looks_once(monkeypatch):
    before = provenance.versions(), provenance.git_state()
    monkeypatch.setattr(provenance.metadata, "version", lambda name: pytest.fail(f"{name} is looked up again"))
    monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: pytest.fail("git is asked again"))
    assert (provenance.versions(), provenance.git_state()) == before


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
    from tests.factories import toy_runs

    def loads(*_):
        raise InterruptedError(provenance.algorithms())

    plan = toy_runs.write_experiment(tmp_path)
    monkeypatch.setattr(torch_as_it_was.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(finetune, "load_tokenizer", loads)
    monkeypatch.setattr("transformers.set_seed", lambda seed: None)
    with pytest.raises(InterruptedError, match="deterministic where they exist" if gpu else "not restricted"):
        finetune.train_run(plan, plan.runs[1], tmp_path, tmp_path, tmp_path, tmp_path, rows=1)


def test_the_commit_of_another_project_is_not_ours(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "another project")
    unpacked = tmp_path / "vendor" / "sbora" / "src"
    unpacked.mkdir(parents=True)
    monkeypatch.setattr(provenance, "SOURCE", unpacked)
    assert provenance.git_state() == {}
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(provenance, "SOURCE", tmp_path / "src")
    assert len(provenance.git_state()["commit"]) == 40
