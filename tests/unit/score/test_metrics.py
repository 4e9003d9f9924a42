"""Metrics other than right or wrong, through lm-eval: what is scored, recorded and counted again from samples."""

import numpy as np
import pytest
from lm_eval.api import metrics as registered  # noqa: F401  (the aggregations)
from lm_eval.api.registry import register_metric

from sbora_bench.errors import UserError
from sbora_bench.files import sha256, write_jsonl
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.report.verify import recomputed
from sbora_bench.results.records import ScoresRecord, TaskScore
from sbora_bench.score.tasks import score_task
from tests.factories.scorers import Canned

VALUES = Metric(items="values")
LENGTH = Metric(items="values", higher_is_better=False, high=None, unit="words")


@register_metric(metric="own_words", higher_is_better=False, output_type="generate_until", aggregation="mean")
def own_words(references: list[str], predictions: list[str]) -> float:
    return float(len(predictions[0].split()))


@register_metric(metric="own_truth", higher_is_better=True, output_type="generate_until", aggregation="mean")
def own_truth(references: list[str], predictions: list[str]) -> np.bool_:
    return np.array(references[0]) == np.array(predictions[0])


RESPONSES = [("the red house", "a red house"), ("red", "a red house"), ("blue", "red"), ("red", "red")]
F1 = [2 / 3, 1 / 2, 0.0, 1.0]


def score(metrics: dict[str, Metric], *names: str):
    config = {
        "task": "own",
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": []},
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names],
    }
    items = [
        {"id": place, "prompt": f"item {place}", "answer": answer, "contaminated": place == 2}
        for place, (_, answer) in enumerate(RESPONSES)
    ]
    model = Canned({f"item {place}": response for place, (response, _) in enumerate(RESPONSES)})
    return score_task(model, config, items, True, metrics)


def test_a_mean_of_real_values():
    task_score, rows = score({"token_f1": VALUES}, "token_f1")
    assert task_score.metric == "token_f1" and task_score.measured == VALUES
    assert task_score.value == pytest.approx(sum(F1) / 4) and task_score.stderr > 0
    assert [row["value"] for row in rows] == pytest.approx(F1) and "correct" not in rows[0]
    assert task_score.extra == {"clean": pytest.approx((F1[0] + F1[1] + F1[3]) / 3), "clean_n": 3.0}


def test_the_named_metric_is_the_score_and_others_stand_beside():
    task_score, rows = score({"own_words": LENGTH, "exact_match": SHARE}, "exact_match", "own_words")
    assert (task_score.metric, task_score.value, task_score.measured.sign) == ("own_words", 1.5, -1)
    assert task_score.extra["exact_match"] == 0.25 and rows[3]["metrics"] == {"exact_match": 1.0}


def test_a_truth_value_of_numpy_is_right_or_wrong():
    """The trial before training takes it: it must not fail after."""
    task_score, rows = score({"own_truth": SHARE}, "own_truth")
    assert task_score.value == 0.25 and [row["correct"] for row in rows] == [False, False, False, True]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({}, r"catalog: tasks\.own\.metrics\.token_f1: an item: found 0\.66\d+, allowed 0 or 1; .*items: values"),
        ({"token_f1": Metric(items="values", high=0.5, unit="x")}, "allowed from 0.0 to 0.5"),
        ({"bleu": VALUES}, r"metrics\.bleu: an item: found None, allowed a number"),
    ],
)
def test_values_that_the_metric_does_not_allow_are_refused(metrics, message):
    with pytest.raises(UserError, match=message):
        score(metrics, "token_f1")


def test_the_score_is_counted_again_from_the_samples(tmp_path):
    task_score, rows = score({"own_words": LENGTH, "exact_match": SHARE}, "own_words", "exact_match")
    write_jsonl(tmp_path / "samples" / "own.jsonl", rows)
    names = {"experiment": "e", "table": "t", "run": "r", "model": "m", "method": "base", "rank": None, "seed": None}
    names |= {"suite": "s", "train": None, "protocol": "p", "settings_sha256": ""}
    whole = task_score.model_copy(update={"samples_sha256": sha256(tmp_path / "samples" / "own.jsonl")})
    again, findings = recomputed(tmp_path, ScoresRecord(**names, tasks={"own": whole}))
    assert findings == [] and again.tasks["own"] == whole
    edited = ScoresRecord(**names, tasks={"own": whole.model_copy(update={"value": 1.25})})
    assert any("value: found 1.25, the samples give 1.5" in line for line in recomputed(tmp_path, edited)[1])


def test_a_record_names_its_metric_only_where_it_is_not_right_or_wrong():
    assert "measured" not in TaskScore(metric="acc").model_dump(mode="json")
    written = TaskScore(metric="own_words", measured=LENGTH).model_dump(mode="json")
    assert written["measured"]["unit"] == "words" and TaskScore.model_validate(written).measured == LENGTH
