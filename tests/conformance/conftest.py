"""What PEFT's tests need around them, for this folder's tests alone: models, offline mode, honest skips."""

import copy
import gc
from functools import cache

import jinja2
import pytest
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from . import tiny_models
from .sbora_rows import ALLOWED_SKIPS, SboraConfig

collect_ignore_glob = ["peft-*"]
TEMPLATE = cache(jinja2.Template)
AUTO_CLASSES = [AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification]


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """The folder of tiny models, written once a process."""
    folder = tmp_path_factory.mktemp("hub")
    tiny_models.write(folder)
    gc.freeze()  # PEFT's quantisation tests collect garbage after each case: leave all that was imported out of it
    yield folder
    gc.unfreeze()


@pytest.fixture(scope="package", autouse=True)
def models_loaded_once():
    """A tiny model is read from its folder once a process and copied for each test: 2 ms in place of 13."""
    with pytest.MonkeyPatch.context() as patch:
        for auto_class in AUTO_CLASSES:
            patch.setattr(auto_class, "from_pretrained", _copying(auto_class.from_pretrained))
        yield


def _copying(load):
    """A stand-in for the class method `load` that gives copies of what it loads of our tiny models."""
    load_once = cache(load)

    def from_pretrained(name, *arguments, **settings):
        if name not in tiny_models.MODELS or arguments or settings.keys() - {"dtype"}:
            return load(name, *arguments, **settings)
        return copy.deepcopy(load_once(name, **settings))

    return from_pretrained


@pytest.fixture(autouse=True)
def offline_hub(hub, monkeypatch):
    """Run each test where PEFT's model ids are local folders, in offline mode from its start to its end."""
    from peft_suite import testing_utils

    monkeypatch.chdir(hub)
    monkeypatch.setattr(testing_utils, "_HUB_MODEL_ACCESSES", dict.fromkeys(tiny_models.MODELS, 1))
    with testing_utils.hub_online_once(next(iter(tiny_models.MODELS))):
        yield


@pytest.fixture(autouse=True)
def template_compiled_once(monkeypatch):
    """The template of a model card, which each saved adapter gets, is compiled once: 1 ms a card in place of 11."""
    monkeypatch.setattr(jinja2, "Template", TEMPLATE)


@pytest.fixture(autouse=True)
def among_mixed_batch_methods(request, monkeypatch):
    """Let SBoRA into the mixed-batch tests, which skip every config class but LoRA's."""
    if "mixed_adapter_batches" in request.node.name:
        for module in ("testing_common", "test_decoder_models"):
            monkeypatch.setattr(f"peft_suite.{module}.LoraConfig", SboraConfig)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a case that is skipped for a reason not in ALLOWED_SKIPS: it would hide what it tests."""
    report = yield
    if report.skipped:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(tuple(ALLOWED_SKIPS)):
            report.outcome = "failed"
            report.longrepr = f"skipped for a reason that sbora_rows.ALLOWED_SKIPS does not list: {reason}"
    return report
