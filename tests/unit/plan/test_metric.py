"""A task's metric: what may be said of it, and that saying nothing leaves settings as they were."""

import pytest
import yaml
from pydantic import ValidationError

from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.metric import LOSS, SHARE, Metric

TASK = {"title": "Own", "template": "number", "answer": {}, "items": {"paper": "own"}}


def catalog(tmp_path, **fields):
    entries = {"data": {"own": {"path": "own.jsonl"}}, "tasks": {"own": TASK | fields}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return load_catalog(str(tmp_path))


def test_a_task_that_names_no_metric_is_right_or_wrong(tmp_path):
    task = catalog(tmp_path).tasks["own"]
    assert task.metric == SHARE and SHARE.right_or_wrong and SHARE.is_share and SHARE.sign == 1
    assert "metrics" not in task.settings(), "the hash of settings is that from before there were metrics"


def test_the_first_metric_is_the_score(tmp_path):
    written = {"loss": {"items": "values", "higher_is_better": False, "high": None, "unit": "nats"}, "acc": {}}
    task = catalog(tmp_path, metrics=written).tasks["own"]
    assert (task.metric.unit, task.metric.sign, task.metric.high) == ("nats", -1, None)
    assert [metric["name"] for metric in task.settings()["metrics"]] == ["loss", "acc"], "a hash knows their order"


def test_how_a_value_is_shown_and_averaged():
    assert (SHARE.scale, SHARE.digits, SHARE.shown_unit, SHARE.point) == (100, 1, "%", 0.01)
    assert (LOSS.scale, LOSS.digits, LOSS.shown_unit, LOSS.point) == (1, 3, "nats a token", 0.01)
    assert Metric(items="values", low=0, high=5, unit="stars").point == 0.05
    assert SHARE.averages_with(Metric(items="values")) and not SHARE.averages_with(LOSS)
    assert LOSS.contains(1e9) and not LOSS.contains(-0.1) and not SHARE.contains(1.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "low 1 is not below high 1"),
        ({"high": None}, "right-or-wrong items are 0 or 1"),
        ({"unit": "points"}, "right-or-wrong items are 0 or 1"),
        ({"items": "some"}, "right-or-wrong"),
        ({"direction": "up"}, "direction"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, fields, message):
    with pytest.raises(ValidationError, match=message):
        Metric(**fields)
    with pytest.raises(UserError, match=r"own\.yaml: tasks\.own\.metrics\.f1"):
        catalog(tmp_path, metrics={"f1": fields})


@pytest.mark.parametrize(
    ("template", "answered", "metric"),
    [
        ("choice", "label", SHARE),
        ("number", "loss", LOSS),
        ("option", "loss", LOSS),
        ("stated", "loss", LOSS),
        ("letter", "template", SHARE),
        ("continuation", "template", SHARE),
        ("generates.yaml", "loss", LOSS),
        ("says-so.yaml", "loss", LOSS),
        ("reads.yaml", "template", SHARE),
        ("templates/latin.yaml", "loss", LOSS),
    ],
)
def test_how_a_task_is_answered_and_measured_by_likelihood(tmp_path, template, answered, metric):
    (tmp_path / "generates.yaml").write_text("doc_to_text: prompt\n")
    (tmp_path / "says-so.yaml").write_text("output_type: generate_until  # lm-eval's default\n")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "latin.yaml").write_bytes(b"task: caf\xe9")
    (tmp_path / "reads.yaml").write_text("task: x\noutput_type: 'multiple_choice'\n")
    task = catalog(tmp_path, template=template).tasks["own"]
    assert (task.answered("likelihood"), task.metric_by("likelihood")) == (answered, metric)
    assert (task.answered("generation"), task.metric_by("generation")) == ("template", SHARE)


def test_a_task_of_lm_evals_own_is_answered_as_lm_eval_has_it(tmp_path):
    (tmp_path / "own.yaml").write_text("suites: {own: {title: Own, tasks: [{lm_eval: gsm8k}]}}")
    (task,) = load_catalog(str(tmp_path)).tasks.values()
    assert task.lm_eval and task.answered("likelihood") == "template"
