"""A task tried before anything runs: every item put as a question, the first ones scored, each metric looked at."""

import json

import pytest
from lm_eval.api import registry

from sbora_bench.errors import UserError
from sbora_bench.inputs.tasks import trial
from sbora_bench.plan.metric import SHARE, Metric
from tests import forked

ITEMS = [{"id": i, "prompt": f"{i} + 1", "answer": f"{i + 1}", "choices": ["1", "2"], "label": 0} for i in range(8)]
WRITTEN = {
    "task": "own",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "prompt",
    "doc_to_target": "answer",
    "generation_kwargs": {"until": [], "max_gen_toks": 4},
}
CHOSEN = {
    "task": "own",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "prompt",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
}
DOWN = Metric(higher_is_better=False)


def tried(config: dict, *names: str, items=ITEMS, metrics=None, **keys) -> None:
    listed = {"metric_list": [{"metric": name} for name in names]} if names else {}
    trial.try_task(config | listed | keys, json.loads(json.dumps(items)), metrics)


def test_what_works_passes():
    tried(WRITTEN, "exact_match")
    tried(WRITTEN, "exact_match", repeats=2)
    tried(CHOSEN, "acc", "acc_norm", "f1")
    tried(CHOSEN, "acc", doc_to_target="{{choices[label]}}")
    tried(WRITTEN, metric_list=[{"metric": "exact_match", "higher_is_better": False}], metrics={"exact_match": DOWN})


def test_a_metric_of_other_values_than_0_and_1_says_so():
    """An answer that is half right shows it, before any training."""
    with pytest.raises(UserError, match=r"token_f1: an item: found 0.67, allowed 0 or 1.*items: values"):
        tried(WRITTEN, "token_f1")
    tried(WRITTEN, "token_f1", metrics={"token_f1": Metric(items="values")})
    with pytest.raises(UserError, match="found 1, allowed from 0.0 to 0.5; correct these"):
        tried(WRITTEN, "token_f1", metrics={"token_f1": Metric(items="values", high=0.5)})


@pytest.mark.parametrize("place", [0, 7])
@pytest.mark.parametrize(
    ("spoilt", "expected"),
    [
        *(
            ({"choices": choices}, r"doc_to_choice: item \d: found .*, allowed a list of texts, none of them empty")
            for choices in ([], [3, 4], ["1", ""], "12")
        ),
        ({"choices": None}, r"doc_to_choice: item \d has no 'choices'"),
        (
            {"label": 2},
            r"doc_to_target: item \d: found 2, allowed one of its choices, '1', '2', or its place from 0 to 1",
        ),
        ({"label": -1}, r"doc_to_target: item \d: found -1"),
    ],
)
def test_every_item_has_choices_and_a_right_one(spoilt, expected, place):
    items = [item | spoilt if item["id"] == place else item for item in ITEMS]
    with pytest.raises(UserError, match=expected if place else "catalog: tasks.own.template"):
        tried(CHOSEN, "acc", items=items)


def test_every_item_has_what_the_prompt_names():
    items = [item | ({} if item["id"] == 7 else {"hint": "x"}) for item in ITEMS]
    with pytest.raises(UserError, match="doc_to_text: item 7 has no 'hint', which it names"):
        tried(WRITTEN, "exact_match", items=items, doc_to_text="{{'a' + hint}}")


def test_a_column_that_some_items_lack_is_never_written_as_the_word_none():
    for spoilt in ({}, {"hint": None}):
        for place in (0, 7):
            items = [item | (spoilt if item["id"] == place else {"hint": "x"}) for item in ITEMS]
            for key, text in (
                ("doc_to_text", "{{prompt}} {{hint}}"),
                ("doc_to_target", "hint"),
                ("gen_prefix", "hint"),
            ):
                with pytest.raises(UserError, match=f"{key}: item {place} has no 'hint'"):
                    tried(WRITTEN, "exact_match", items=items, **{key: text})
            for text in ("{% if hint %}{{hint}}{% endif %}", "{{hint or ''}}", "{{hint if hint}}"):
                tried(WRITTEN, "exact_match", items=items, doc_to_text="{{prompt}}" + text)


@pytest.mark.parametrize(
    ("config", "keys", "expected"),
    [
        (WRITTEN, {"doc_to_text": "promt"}, "doc_to_text: unknown column 'promt', did you mean 'prompt'"),
        (WRITTEN, {"doc_to_target": "anwser"}, "doc_to_target: unknown column 'anwser', did you mean 'answer'"),
        (CHOSEN, {"doc_to_choice": "choises"}, "doc_to_choice: unknown column 'choises', did you mean 'choices'"),
        (CHOSEN, {"doc_to_target": "lable"}, "found 'lable', allowed one of its choices.*did you mean 'label'"),
        (WRITTEN, {"doc_to_text": None}, "doc_to_text: missing; name the column"),
        (CHOSEN, {"doc_to_choice": None}, "doc_to_choice: missing; name the column"),
        (CHOSEN, {"doc_to_choice": [3, 4]}, r"doc_to_choice: found \[3, 4\], allowed a list of texts"),
    ],
)
def test_a_text_that_is_no_column_and_no_expression_is_not_asked_as_it_stands(config, keys, expected, capsys):
    with pytest.raises(UserError, match=expected):
        tried(config, **keys)
    assert capsys.readouterr().out == ""


def test_texts_that_are_meant_as_they_stand():
    tried(CHOSEN, "acc", doc_to_text="", doc_to_choice="['1', '2']", doc_to_target="1")
    tried(CHOSEN, "acc", doc_to_target="1", doc_to_choice=["1", "2"])
    tried(WRITTEN, "exact_match", doc_to_target="1", gen_prefix="So:")


def test_solved_examples_have_what_the_template_names():
    samples = {"samples": [{"prompt": "1 + 1", "answer": "2"}, {"prompt": "1 + 2"}]}
    with pytest.raises(UserError, match="doc_to_target: fewshot_config.samples: sample 2 has no 'answer'"):
        tried(WRITTEN, "exact_match", num_fewshot=2, fewshot_config=samples)


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        (CHOSEN, "f1", "f1 gives no number for an item .found tuple.: it is counted over all items at once"),
        (WRITTEN, "f1", "f1 gives no number for an item"),
        (CHOSEN, "mcc", "mcc gives no number"),
        (WRITTEN, "bleu", "bleu gives no number"),
        (WRITTEN | {"output_type": "loglikelihood"}, "perplexity", "perplexity: aggregation: allowed is mean"),
        (WRITTEN, "exact_mach", "unknown metric 'exact_mach', did you mean 'exact_match'"),
        (WRITTEN | {"output_type": "loglikelihood"}, "acc_norm", "acc_norm is not computed for loglikelihood"),
    ],
)
def test_a_score_is_the_mean_of_its_items(config, name, expected):
    with pytest.raises(UserError, match=expected):
        tried(config, name)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"metric_list": [{"metric": "exact_match", "aggregation": "median"}]},
            "exact_match: aggregation: allowed is mean",
        ),
        ({"metric_list": [{"metric": "exact_match", "aggregation": "mode"}]}, "unknown aggregation 'mode'"),
        (
            {"metric_list": [{"metric": "exact_match", "higher_is_better": False}]},
            "metrics: {exact_match: {higher_is_better: false}}",
        ),
        (
            {"generation_kwargs": {"until": [], "max_gen_toks": 4, "tempreature": 1}},
            "unknown key 'tempreature', did you mean 'temperature'",
        ),
        (
            {"repeats": 2, "filter_list": [{"name": "a", "filter": [{"function": "majority_vote"}]}]},
            "the filters leave a list of an item; end them with take_first",
        ),
    ],
)
def test_what_a_template_says_of_metrics_and_generation(keys, expected):
    with pytest.raises(UserError, match=expected):
        tried(WRITTEN, **keys)


def test_nothing_is_looked_for_on_the_network(monkeypatch):
    monkeypatch.setattr(registry, "get_metric", lambda *_: pytest.fail("asks the evaluate library"))
    with pytest.raises(UserError, match="unknown metric"):
        tried(WRITTEN, "anls")


def test_a_named_metric_is_held_to_its_direction():
    assert SHARE.higher_is_better
    with pytest.raises(UserError, match="metrics.acc: higher_is_better: the template says true"):
        tried(CHOSEN, "acc", metrics={"acc": DOWN})


def test_a_metric_of_ours_is_known_where_no_task_was_built_before():
    config = WRITTEN | {"metric_list": [{"metric": "token_f1", "aggregation": "mean", "higher_is_better": True}]}
    code = "from sbora_bench.inputs.tasks.trial import try_task; from sbora_bench.plan.metric import Metric;"
    code += f" try_task({config!r}, {ITEMS!r}, {{'token_f1': Metric(items='values')}})"
    assert forked.python("-c", code).returncode == 0
