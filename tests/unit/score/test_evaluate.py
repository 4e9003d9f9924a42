"""The stage: what it leaves, that its bytes repeat, and what it says when something is missing."""

import json
import math
import shlex
import shutil
from pathlib import Path

import pytest

from sbora_bench.cli.main import cli
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, sha256, write_json
from sbora_bench.plan.settings import settings_hash
from sbora_bench.results.aggregate import macro_average
from sbora_bench.results.records import BaseRecord, ScoresRecord, TrainRecord, read_record, write_record
from sbora_bench.score import tasks as scoring
from sbora_bench.score.evaluate import adapter_folder, depends_on, evaluate
from tests.factories import toy_runs, toy_training

TASKS = list(toy_runs.TASKS)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """(root, plan) of an experiment of a base and two seeds, all scored in one call."""
    root = tmp_path_factory.mktemp("scored")
    plan = _tuned(root)
    evaluate(plan, plan.runs, root / "resources", root / "results")
    return root, plan


def _tuned(root: Path, **fields):
    plan = toy_runs.write_experiment(root, **fields)
    for run in plan.runs:
        if not run.is_base:
            toy_runs.write_adapter(plan, root, run)
    return plan


def _bytes(root: Path, run) -> dict[str, bytes]:
    folder = root / "results" / "runs" / run.name
    paths = [folder / "scores.json", *sorted((folder / "samples").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def _scores(root: Path, run) -> ScoresRecord:
    return read_record(root / "results" / "runs" / run.name / "scores.json", ScoresRecord)


def test_batches_by_memory_leave_the_samples_of_batches_of_a_number(scored, tmp_path):
    root, plan = scored
    by_memory = _tuned(tmp_path, protocol={"score_batch": "auto"})
    for run in by_memory.runs[:2]:
        evaluate(by_memory, [run], tmp_path / "resources", tmp_path / "results")
        ours, theirs = _bytes(tmp_path, run), _bytes(root, run)
        assert {name: text for name, text in ours.items() if name != "scores.json"} == {
            name: text for name, text in theirs.items() if name != "scores.json"
        }
        assert _scores(tmp_path, run).settings_sha256 != _scores(root, run).settings_sha256


def test_every_task_has_samples_and_a_score(scored):
    root, plan = scored
    for run in plan.runs:
        assert sorted(_bytes(root, run)) == sorted(["scores.json", *(f"{task}.jsonl" for task in TASKS)])
        record = _scores(root, run)
        assert list(record.tasks) == TASKS or set(record.tasks) == set(TASKS)
        assert record.settings_sha256 == settings_hash(plan, run)
        assert record.algorithms == "deterministic where they exist"
        assert record.train == (None if run.is_base else "toy-items")
        for task in TASKS:
            rows = toy_runs.read_rows(root / "results" / "runs" / run.name / "samples" / f"{task}.jsonl")
            score = record.tasks[task]
            assert score.n == len(rows)
            if task == "absent":
                assert (score.status, score.reason, score.value) == ("not available", "test.json is not here", None)
                continue
            items = toy_runs.items(task)
            for key in ("id", "prompt", "answer", "contaminated"):
                assert [row[key] for row in rows] == [item[key] for item in items]
            right = [row["correct"] for row in rows]
            mean = sum(right) / len(right)
            if task != "letters":
                assert score.value == pytest.approx(mean)
                assert score.stderr == pytest.approx(math.sqrt(mean * (1 - mean) / 9))
            assert score.task_version == "1.0" and len(score.task_hash) == 64


def test_what_is_correct_follows_from_what_was_extracted(scored):
    root, plan = scored
    seen = set()
    for run in plan.runs:
        for task in ("choose", "count", "pick", "letters"):
            for row in toy_runs.read_rows(root / "results" / "runs" / run.name / "samples" / f"{task}.jsonl"):
                if task == "count":
                    equal = row["extracted"] != "" and abs(float(row["extracted"]) - float(row["answer"])) <= 0.001
                else:
                    equal = row["extracted"] == row["answer"]
                assert row["correct"] == equal
                assert row["extracted"] in row["response"]
                assert len(row["response"].split()) <= row["tokens"] <= (1 if task == "letters" else 6)
                seen.add((task, equal))
    assert len(seen) >= 7  # right and wrong answers of nearly every kind


def test_macro_micro_and_clean_scores(scored):
    root, plan = scored
    samples = root / "results" / "runs" / plan.runs[1].name / "samples"
    record = _scores(root, plan.runs[1])
    right = [row["correct"] for row in toy_runs.read_rows(samples / "letters.jsonl")]
    birds, maths = right[0::2], right[1::2]
    letters = record.tasks["letters"]
    assert (letters.metric, letters.mean_over) == ("acc", "subjects")
    assert letters.value == pytest.approx((sum(birds) / 5 + sum(maths) / 5) / 2)
    assert letters.extra["micro"] == pytest.approx(sum(right) / 10)
    right = [row["correct"] for row in toy_runs.read_rows(samples / "count.jsonl")]
    assert record.tasks["count"].extra == {"clean": pytest.approx(sum(right[4:]) / 6), "clean_n": 6.0}
    assert record.tasks["choose"].extra == {}


def test_macro_average_weighs_subjects_alike():
    values = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    average, stderr = macro_average(values, ["a", "a", "b", "b", "b", "b"])
    assert average == pytest.approx((1 + 0.25) / 2)
    assert stderr == pytest.approx(math.sqrt(0 + 0.25 * 0.75 / 3) / 2)
    assert macro_average([1.0, 0.0, 1.0], ["a", "a", "b"]) == (0.75, None)


def test_an_adapter_changes_the_answers(scored):
    root, plan = scored
    base, first, second = (_bytes(root, run)["choose.jsonl"] for run in plan.runs)
    assert len({base, first, second}) == 3


@pytest.mark.parametrize("merge", [False, True])
def test_bytes_repeat_and_do_not_depend_on_the_other_runs(scored, tmp_path, merge):
    together, plan = scored
    if merge:
        together = tmp_path / "together"
        plan = _tuned(together, protocol={"merge": True})
        evaluate(plan, list(reversed(plan.runs)), together / "resources", together / "results")
    alone = tmp_path / "alone"
    again = _tuned(alone, protocol={"merge": merge})
    for run in again.runs:
        evaluate(again, [run], alone / "resources", alone / "results")
        assert _bytes(alone, run) == _bytes(together, run)


def test_a_deleted_record_comes_back_and_a_changed_adapter_is_scored_anew(tmp_path):
    plan = _tuned(tmp_path, tasks={"choose": toy_runs.TASKS["choose"]})
    run = plan.runs[1]
    folder = tmp_path / "results" / "runs" / run.name
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    before = _bytes(tmp_path, run)
    (folder / "scores.json").unlink()
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    assert _bytes(tmp_path, run) == before
    other = tmp_path / "results" / "runs" / plan.runs[2].name / "adapter"
    shutil.copytree(other, folder / "adapter", dirs_exist_ok=True)
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    assert _bytes(tmp_path, run)["choose.jsonl"] != before["choose.jsonl"]


def test_a_crash_is_told_and_does_not_take_the_other_runs_along(tmp_path, capsys):
    plan = _tuned(tmp_path, tasks={"choose": toy_runs.TASKS["choose"]})
    broken, whole = plan.runs[1:]
    (tmp_path / "results" / "runs" / broken.name / "adapter" / "adapter_model.safetensors").write_bytes(b"no")
    evaluate(plan, [broken, whole], tmp_path / "resources", tmp_path / "results")
    errors, failed = capsys.readouterr().err, _scores(tmp_path, broken)
    assert "Traceback" in errors and f"{broken.name}: failed: SafetensorError: " in errors
    assert failed.status == "failed" and failed.reason.startswith("scoring: SafetensorError: ")
    assert {score.status for score in failed.tasks.values()} == {"failed"}
    assert _scores(tmp_path, whole).status == "ok"


def test_a_value_that_a_metric_does_not_allow_fails_its_run_alone(tmp_path, monkeypatch, capsys):
    plan = _tuned(tmp_path, tasks={"choose": toy_runs.TASKS["choose"]})
    broken, whole = plan.runs[1:]
    values = iter([0.5])

    def metric_values(task, name, metric, examples):
        return real(task, name, metric, [example | {name: next(values, example[name])} for example in examples])

    real = scoring.metric_values
    monkeypatch.setattr(scoring, "metric_values", metric_values)
    evaluate(plan, [broken, whole], tmp_path / "resources", tmp_path / "results")
    reason = _scores(tmp_path, broken).reason
    assert reason.startswith("scoring: catalog: tasks.choose.metrics.") and "found 0.5, allowed 0 or 1" in reason
    assert "Traceback" not in capsys.readouterr().err and _scores(tmp_path, whole).status == "ok"


def test_a_run_whose_training_failed_is_recorded_as_failed(tmp_path):
    plan = toy_runs.write_experiment(tmp_path)
    run = plan.runs[1]
    names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
    record = TrainRecord(
        **names, experiment="toy", run=run.name, status="failed", reason="loss is nan", asked={}, happened={}, on={}
    )
    write_record(tmp_path / "results" / "runs" / run.name / "train.json", record)
    evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")
    scores = _scores(tmp_path, run)
    assert (scores.status, scores.reason, scores.algorithms) == ("failed", "loss is nan", "")
    assert {task: score.status for task, score in scores.tasks.items() if score.status != "failed"} == {
        "absent": "not available"
    }
    assert _bytes(tmp_path, run)["choose.jsonl"] == b""


def test_a_task_of_one_s_own_takes_yaml_alone(tmp_path):
    plan = toy_runs.write_experiment(tmp_path, tasks={"mine": {"title": "M", "template": "mine.yaml", "answer": {}}})
    (tmp_path / "experiments" / "catalog" / "mine.yaml").unlink(missing_ok=True)
    template = tmp_path / "experiments" / "catalog" / "templates" / "mine.yaml"
    template.parent.mkdir()
    template.write_text(
        "output_type: multiple_choice\ndoc_to_text: prompt\ndoc_to_choice: ['red', 'blue cat']\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 3}\n"
    )
    catalog = tmp_path / "experiments" / "catalog" / "toy.yaml"
    write_json(catalog, json.loads(catalog.read_text().replace('"mine.yaml"', '"templates/mine.yaml"')))
    from sbora_bench.plan.catalog import load_catalog
    from sbora_bench.plan.load import load_plan

    load_catalog.cache_clear()
    plan = load_plan(plan.path)
    evaluate(plan, plan.runs[:1], tmp_path / "resources", tmp_path / "results")
    score = _scores(tmp_path, plan.runs[0]).tasks["mine"]
    assert (score.metric, score.task_version, score.n) == ("acc", "3", 10)


def test_what_is_missing_is_told_in_one_line(tmp_path):
    plan = toy_runs.write_experiment(tmp_path, tasks={"choose": toy_runs.TASKS["choose"]})
    resources, results, tuned = tmp_path / "resources", tmp_path / "results", plan.runs[1]
    with pytest.raises(
        UserError, match=f"no adapter here; make it with: sbora-bench finetune --experiment .* {tuned.name}"
    ):
        evaluate(plan, [tuned], resources, results)
    items = results / "data" / "toy" / "choose.jsonl"
    items.write_text(items.read_text().replace("answer1", "answer2"))
    with pytest.raises(UserError, match="choose.jsonl: SHA-256 .* prepare it again"):
        evaluate(plan, plan.runs[:1], resources, results)
    (results / "data" / "toy" / "contamination.json").unlink()
    with pytest.raises(UserError, match="contamination.json: no such file; make it with: sbora-bench prepare"):
        evaluate(plan, plan.runs[:1], resources, results)
    assert not (results / "runs").exists()


def test_a_template_that_lm_eval_refuses_is_the_user_s_mistake(tmp_path):
    toy_runs.write_experiment(tmp_path, tasks={"mine": {"title": "M", "template": "../mine.yaml", "answer": {}}})
    (tmp_path / "experiments" / "mine.yaml").write_text("output_type: generate_until\ndoc_to_txt: prompt\n")
    from sbora_bench.plan.load import load_plan

    plan = load_plan(str(tmp_path / "experiments" / "toy.yaml"))
    with pytest.raises(UserError, match="tasks.mine.template: lm-eval does not take it: .*doc_to_txt"):
        evaluate(plan, plan.runs[:1], tmp_path / "resources", tmp_path / "results")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_is_not_the_one_of_its_record_is_refused(tmp_path, name):
    plan = toy_training.house(tmp_path, steps=1)
    run = plan.run("toy-tiny-lora-r4-s1")
    toy_training.train(plan, tmp_path, run.name)
    path = adapter_folder(plan, tmp_path / "results", run) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"adapter/{name}: SHA-256 \w+, train\.json says \w+: damaged; delete"):
        adapter_folder(plan, tmp_path / "results", run)
    path.unlink()
    with pytest.raises(UserError, match="no adapter here" if name == "adapter_config.json" else "SHA-256 no file"):
        adapter_folder(plan, tmp_path / "results", run)


def test_an_adapter_of_another_run_or_of_other_settings_is_refused(tmp_path):
    plan = toy_training.house(tmp_path, steps=1)
    run, other = plan.run("toy-tiny-lora-r4-s1"), plan.run("toy-tiny-sbora-fa-r4-s1")
    toy_training.train(plan, tmp_path, run.name, other.name)
    runs = tmp_path / "results" / "runs"
    longer = toy_training.house(tmp_path, steps=2)
    expected = (
        r"train\.json: protocol\.steps: trained with 1, the experiment and its catalog say 2; train it again with:"
    )
    with pytest.raises(UserError, match=rf"{expected} sbora-bench finetune --experiment .*toy.yaml {run.name}$"):
        evaluate(longer, [longer.run(run.name)], tmp_path / "resources", tmp_path / "results")
    plan = toy_training.house(tmp_path, steps=1)
    shutil.rmtree(runs / run.name)
    shutil.copytree(runs / other.name, runs / run.name)
    with pytest.raises(UserError, match=r"train\.json: method: trained with 'sbora-fa', the experiment .* say 'lora'"):
        evaluate(plan, [run], tmp_path / "resources", tmp_path / "results")


def test_a_base_of_another_source_is_refused_with_the_command_that_makes_it(tmp_path, monkeypatch):
    plan = toy_training.house(tmp_path, steps=1)
    run, prepared = plan.run("toy-tiny-lora-r4-s1"), tmp_path / "resources" / "models" / "tiny"
    own = tmp_path / "own"
    own.mkdir()
    for name in read_record(prepared / "base.json", BaseRecord).files:
        shutil.copy(prepared / name, own / name)
    monkeypatch.setenv("SBORA_MODEL_TINY", str(own))
    toy_training.train(plan, tmp_path, run.name)  # the same files
    settings = read_json(own / "tokenizer_config.json")
    write_json(own / "tokenizer_config.json", settings | {"model_max_length": 64})
    places = tmp_path / "resources", tmp_path / "results"
    for stage in (lambda: toy_training.train(plan, tmp_path, run.name), lambda: depends_on(plan, run, *places)):
        with pytest.raises(
            UserError, match="models/tiny: prepared from another source .*; make it again with: "
        ) as raised:
            stage()
    cli(shlex.split(str(raised.value).rpartition("with: ")[2])[1:], standalone_mode=False)
    names = depends_on(plan, plan.runs[0], *places)["base"]["files"]
    assert names["tokenizer_config.json"] == sha256(own / "tokenizer_config.json")
    shutil.rmtree(prepared)
    with pytest.raises(UserError, match="tiny/base.json: no such file; make it with: sbora-bench prepare --experiment"):
        toy_training.train(plan, tmp_path, run.name)
