"""The card of a tuned run's adapter, read by huggingface_hub's own parser."""

import pytest
from huggingface_hub import ModelCard

from sbora_bench.files import sha256
from sbora_bench.report.cards import cards, model_card
from sbora_bench.results.records import ScoresRecord, Training, TrainRecord, read_record
from sbora_bench.score import evaluate as stage
from sbora_bench.score.evaluate import evaluate
from tests.factories import toy_runs
from tests.factories.made_results import make_experiment, make_run

RUN = "arithmetic-llama-7b-lora-r32-s1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    return make_experiment(folder)


def records(results):
    folder = results / "runs" / RUN
    return read_record(folder / "train.json", TrainRecord), read_record(folder / "scores.json", ScoresRecord)


def test_the_hubs_parser_reads_scores_as_model_index(made, tmp_path):
    plan, results = made
    training, scores = records(results)
    training = training.model_copy(update={"happened": Training(trainable_parameters=1234, total_parameters=56789)})
    path = tmp_path / "README.md"
    path.write_text(model_card(plan, plan.run(RUN), training, scores))
    card = ModelCard.load(path)
    data = card.data
    assert (data.base_model, data.library_name, data.tags) == ("llama-7b", "peft", ["lora"])
    assert data.pipeline_tag == "text-generation" and data.license is None and data.model_name == RUN
    shown = [(r.dataset_name, r.dataset_type, r.task_type, r.metric_type, r.metric_value) for r in data.eval_results]
    assert shown == [
        (title, "items", "text-generation", "acc", scores.tasks[task].value)
        for task, title in (("MultiArith", "MultiArith"), ("gsm8k", "GSM8K"), ("AddSub", "AddSub"))
    ]
    assert data.to_dict()["model-index"][0]["name"] == RUN
    assert "1,234 of 56,789 parameters." in card.text and "| MultiArith | 77.5 | 6.6 | 40 | acc |" in card.text
    for setting in ("| rank | 32 |", "| seed | 1 |", "| learning_rate | 0.001 |", "| target_modules | q_proj |"):
        assert setting in card.text
    for command in ("finetune", "evaluate"):
        assert f"sbora-bench {command} --experiment by-hand {RUN}\n" in card.text
    assert str(tmp_path.parent) not in card.text


def test_a_run_without_scores_says_so_and_has_no_model_index(made, tmp_path):
    plan, results = made
    make_run(plan, tmp_path, plan.run(RUN), failed="no memory")
    training, scores = records(tmp_path)
    card = ModelCard(model_card(plan, plan.run(RUN), None, scores))
    assert card.data.eval_results is None and "It has no score: no memory." in card.text
    failed = training.model_copy(update={"status": "failed", "reason": "loss nan"})
    assert model_card(plan, plan.run(RUN), failed, scores) == "Training failed: loss nan\n"


def test_the_card_has_the_scores_and_does_not_change_what_scores_depend_on(tmp_path, monkeypatch):
    plan = toy_runs.write_experiment(tmp_path, seeds=(0,))
    run = next(run for run in plan.runs if not run.is_base)
    path = toy_runs.write_adapter(plan, tmp_path, run) / "README.md"  # PEFT leaves one of its own
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    cards(plan, tmp_path / "results")
    card, digest = ModelCard.load(path), sha256(path)
    scores = read_record(path.parents[1] / "scores.json", ScoresRecord).tasks
    known = {plan.catalog.tasks[task].title: score.value for task, score in scores.items() if score.status == "ok"}
    shown = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert shown == pytest.approx(known, abs=1e-6)
    monkeypatch.setattr(stage, "score_run", lambda *_: pytest.fail("it was scored before"))
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    path.unlink()
    cards(plan, tmp_path / "results")
    assert sha256(path) == digest
