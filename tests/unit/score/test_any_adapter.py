"""An adapter from anywhere is scored as `evaluate` scores our own; what is none, or doesn't fit, is refused."""

import json
import shutil

import pytest
from bitsandbytes.nn import Linear4bit

from sbora_bench.errors import UserError
from sbora_bench.inputs.prepare import prepare_table
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.load import load_plan
from sbora_bench.results.records import ScoresRecord, read_record
from sbora_bench.score import any_adapter
from sbora_bench.score.evaluate import evaluate
from tests.factories import toy_runs
from tests.factories.workplace import TRIAL, workplace  # noqa: F401


@pytest.fixture
def place(workplace):  # noqa: F811
    """A toy base in the place of ladder-xs, and a folder of another one."""
    source = load_catalog().models["ladder-xs"].source.model_dump(mode="json")
    toy_runs.write_base(workplace.folder / "resources" / "models" / "ladder-xs", source)
    shutil.copytree(workplace.folder / "resources" / "models" / "ladder-xs", workplace.folder / "toy")
    (workplace.folder / "toy" / "base.json").unlink()
    workplace.experiment()
    return workplace


def samples(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "samples").iterdir())}


def test_the_same_samples_and_scores_as_those_of_a_run(place):
    plan = load_plan("small")
    table = plan.experiment.tables["sums"]
    limits = table.model_copy(update={"limit": dict.fromkeys(plan.tasks("sums"), 2)})
    plan.experiment = plan.experiment.model_copy(update={"tables": {"sums": limits}})
    results = place.folder / "results" / "small"
    prepare_table(plan, "sums", results / "data" / "sums")
    for run in (plan.runs[1], plan.runs[3]):  # LoRA, SBoRA-FA
        adapter = results / "runs" / run.name / "adapter"
        toy_runs.save_adapter(plan, run, adapter)
        evaluate(plan, [run], place.folder / "resources", results)
        output = place.folder / f"scored-{run.method}"
        options = ("--model", "ladder-xs", *TRIAL, "--train", "ladder-math", "--output", str(output))
        status, out, err = place.run("score", str(adapter), *options)
        assert status == 0 and "MultiArith" in out, err
        ours = read_record(output / "scores.json", ScoresRecord)
        theirs = read_record(results / "runs" / run.name / "scores.json", ScoresRecord)
        assert (
            ours.tasks == theirs.tasks and ours.rank == 4 and ours.method == ("sbora" if "fa" in run.name else "lora")
        )
        assert samples(output) == samples(results / "runs" / run.name)
        assert str(place.folder) not in (output / "scores.json").read_text()
    assert samples(place.folder / "scored-lora") != samples(place.folder / "scored-sbora-fa")


def test_a_base_in_a_folder_gives_the_same_and_no_training_set_no_marks(place):
    plan = load_plan("small")
    toy_runs.save_adapter(plan, plan.runs[1], place.folder / "adapter")
    scored = {}
    for model in ("ladder-xs", "toy"):
        status, _, err = place.run("score", "adapter", "--model", model, *TRIAL, "--output", f"scored-{model}")
        assert status == 0, err
        scored[model] = samples(place.folder / f"scored-{model}")
    assert scored["toy"] == scored["ladder-xs"] and len(scored["toy"]) == 6
    rows = toy_runs.read_rows(place.folder / "scored-toy" / "samples" / "SVAMP.jsonl")
    assert [row["contaminated"] for row in rows] == [None, None]
    record = read_record(place.folder / "scored-toy" / "scores.json", ScoresRecord)
    assert (record.model, record.train, record.run) == ("toy", None, "adapter")
    assert "scored-toy: is there already" in place.refused(
        "score", "adapter", "--model", "toy", *TRIAL, "--output", "scored-toy"
    )


def test_the_base_is_quantised_where_that_is_said(place, monkeypatch):
    plan = load_plan("small")
    toy_runs.save_adapter(plan, plan.runs[1], place.folder / "adapter")
    load, models = any_adapter.load_scorer, []

    def loaded(*arguments):
        scorer = load(*arguments)
        models.append(scorer.model)
        return scorer

    monkeypatch.setattr(any_adapter, "load_scorer", loaded)
    status, _, err = place.run(
        "score", "adapter", "--model", "ladder-xs", *TRIAL, "--quantization", "nf4", "--output", "scored"
    )
    assert status == 0, err
    assert any(isinstance(module, Linear4bit) for module in models[0].modules())


@pytest.mark.parametrize(("options", "revision"), [((), "main"), (("--revision", "v1.0"), "v1.0")])
def test_an_adapter_of_the_hub_is_of_the_revision_that_is_said(place, monkeypatch, options, revision):
    requested = []

    def snapshot(name, revision, *_):
        requested.append((name, revision))
        raise UserError("fetched no further here")

    monkeypatch.setattr(any_adapter, "snapshot", snapshot)
    arguments = ("some/adapter", "--model", "ladder-xs", *TRIAL, *options, "--output", "scored")
    assert "fetched no further here" in place.refused("score", *arguments)
    assert requested == [("some/adapter", revision)]


def config_edit(**changes):
    def spoil(folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))

    return spoil


def as_pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


SPOILED = {
    "a pickle": (as_pickle, "adapter_model.safetensors: no such file"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
    "a config that is no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "adapter_config.json: not a whole JSON file",
    ),
    "an unknown type": (config_edit(peft_type="LORAX"), "unknown PEFT method 'LORAX', did you mean 'LORA'"),
    "another rank": (config_edit(r=8), "does not fit ladder-xs"),
    "layers without weights": (
        config_edit(target_modules=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "o_proj"]),
        "does not fit ladder-xs: Found missing adapter keys",
    ),
    "layers that the base lacks": (config_edit(target_modules=["c_attn"]), "does not fit ladder-xs"),
    "damaged weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no"),
        "adapter_model.safetensors: not a whole safetensors file",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_no_adapter_or_does_not_fit(place, case):
    spoil, message = SPOILED[case]
    plan = load_plan("small")
    toy_runs.save_adapter(plan, plan.runs[1], place.folder / "adapter")
    spoil(place.folder / "adapter")
    before = place.files()
    status, out, err = place.run("score", "adapter", "--model", "ladder-xs", *TRIAL, "--output", "scored")
    last = err.splitlines()[-1]  # transformers' bar of loaded weights may stand before
    assert (status, out) == (2, "") and last.startswith("sbora-bench: ") and message in last, err
    assert place.files() == before


WRONG = {
    "no such folder": (["nowhere", "--model", "ladder-xs", *TRIAL], "no such folder; give the folder of an adapter"),
    "a hub id, offline": (["some/adapter", "--model", "ladder-xs", *TRIAL], "HF_HUB_OFFLINE"),
    "an unknown suite": (["a", "--model", "ladder-xs", "--suite", "arithmetics"], "did you mean 'arithmetic'"),
    "an unknown protocol": (["a", "--model", "m", *TRIAL, "--protocol", "oficial"], "did you mean 'official'"),
    "unknown items": (["a", "--model", "m", *TRIAL, "--items", "papers"], "did you mean 'paper'"),
    "an unknown training set": (["a", "--model", "m", *TRIAL, "--train", "maths"], "unknown data 'maths'"),
    "a limit of nothing": (["a", "--model", "m", *TRIAL, "--limit", "0"], "--limit: found 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_command_refuses(workplace, case):  # noqa: F811
    arguments, message = WRONG[case]
    assert message in workplace.refused("score", *arguments, "--output", "scored")


def test_an_unknown_base(place):
    plan = load_plan("small")
    toy_runs.save_adapter(plan, plan.runs[1], place.folder / "adapter")
    message = place.refused("score", "adapter", "--model", "ladder-xss", *TRIAL, "--output", "scored")
    assert "unknown model 'ladder-xss', did you mean" in message
