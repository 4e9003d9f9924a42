"""Templates of a user's own: where they lie, which of lm-eval's keys hold, and what reaches them."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.inputs.prepare import Columns, prepare_items
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.data_entries import TaskEntry
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import settings_hash, training_hash
from tests.factories import toy_runs
from tests.factories.shipped import ROOT
from tests.factories.workplace import EXPERIMENT, edited

TEMPLATE = toy_runs.TEMPLATE | {"doc_to_text": "Q: {{prompt}}\nA:"}
ITEMS = [{"prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(6)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(**keys):
    """The configuration of a template with other keys, under the toy protocol."""
    Path("own.yaml").write_text(yaml.safe_dump(TEMPLATE | keys))
    entry = TaskEntry(title="T", template="own.yaml", answer={}, items={})
    return task_config("own", entry, toy_runs.protocol())


def prompts(config, items=ITEMS) -> list[str]:
    task = local_task(config, items)
    task.build_all_requests()
    return [request.args[0] for request in task.instances]


def test_solved_examples_come_from_the_other_items_and_are_the_same_twice():
    shown = prompts(config(num_fewshot=2, description="Add.\n\n", fewshot_split="test"))
    assert shown == prompts(config(num_fewshot=2, description="Add.\n\n"))
    for index, prompt in enumerate(shown):
        *shots, own = prompt.removeprefix("Add.\n\n").split("\n\n")
        assert own == f"Q: {index} + 1\nA:" and len(shots) == 2
        assert all(shot.startswith("Q: ") and f"Q: {index} + 1\n" not in shot for shot in shots)
    assert len({prompt.rpartition("\n\n")[0] for prompt in shown}) > 1


def test_solved_examples_of_the_template_s_own():
    samples = [{"prompt": "x", "answer": "y"}, {"prompt": "v", "answer": "w"}]
    own = {"sampler": "first_n", "samples": samples}
    assert prompts(config(num_fewshot=2, fewshot_config=own))[0] == "Q: x\nA: y\n\nQ: v\nA: w\n\nQ: 0 + 1\nA:"


def test_without_solved_examples_as_before():
    assert prompts(config())[3] == "Q: 3 + 1\nA:"
    assert "fewshot_split" not in config()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"dataset_path": "json"}, "own.yaml: dataset_path: not read here"),
        ({"dataset_name": "main"}, "own.yaml: dataset_name: not read here"),
        ({"dataset_kwargs": {"data_files": "x"}}, "own.yaml: dataset_kwargs: not read here"),
        ({"validation_split": "dev"}, "own.yaml: validation_split"),
        ({"test_split": "validation"}, "own.yaml: test_split: found 'validation', allowed test"),
        ({"num_fewshot": 1, "fewshot_split": "train"}, "own.yaml: fewshot_split: found 'train', allowed test"),
        ({"num_fewshot": 1, "fewshot_config": {"split": "dev"}}, "fewshot_config.split: found 'dev'"),
        ({"num_fewshot": 3, "fewshot_config": {"samples": [{}]}}, "samples: found 1, and num_fewshot is 3"),
        ({"num_fewshot": "five"}, "num_fewshot: found 'five'"),
        ({"include": "other.yaml"}, "own.yaml: include: not read here; copy that file's keys"),
        ({"group": "all", "task": ["a", "b"]}, "own.yaml: group: a template is one task"),
        ({"process_docs": "utils.docs"}, "own.yaml: process_docs: names code to run"),
        ({"metric_list": []}, "own.yaml: metric_list: List should have at least 1 item"),
        ({"metric_list": ["exact_match"]}, "own.yaml: metric_list.0: .*found 'exact_match'"),
        ({"metric_list": [{"metric": "exact_match", "higher_is_better": "no"}]}, "metric_list.0.higher_is_better"),
        ({"filter_list": []}, "own.yaml: filter_list: List should have at least 1 item"),
        ({"filter_list": [{"filter": []}]}, "own.yaml: filter_list.0.name: Field required"),
        ({"filter_list": {"name": "a", "filter": []}}, "own.yaml: filter_list: Input should be a valid list"),
        ({"generation_kwargs": None}, "own.yaml: generation_kwargs"),
        ({"generation_kwargs": {"max_gen_toks": "7"}}, "own.yaml: generation_kwargs.max_gen_toks"),
        ({"generation_kwargs": {"max_new_tokens": 7}}, "generation_kwargs.max_new_tokens: say max_gen_toks"),
        ({"generation_kwargs": {"until": None}}, "own.yaml: generation_kwargs.until"),
        ({"generation_kwargs": {"do_sample": True, "temperature": 0.0}}, "temperature: found 0 with do_sample: true"),
    ],
)
def test_keys_that_do_not_hold_here_are_refused(keys, expected):
    with pytest.raises(UserError, match=expected):
        config(**keys)


def test_no_code_is_run_from_a_template():
    Path("own.yaml").write_text("output_type: generate_until\ndoc_to_text: !function utils.text\n")
    entry = TaskEntry(title="T", template="own.yaml", answer={}, items={})
    with pytest.raises(UserError, match="own.yaml, line 2: .*the tag !function is not read: no code is run from YAML"):
        task_config("own", entry, toy_runs.protocol())


def test_a_template_without_an_output_type_generates():
    Path("own.yaml").write_text(yaml.safe_dump({key: TEMPLATE[key] for key in ("doc_to_text", "doc_to_target")}))
    entry = TaskEntry(title="T", template="own.yaml", answer={}, items={})
    made = task_config("own", entry, toy_runs.protocol())
    assert made["output_type"] == "generate_until" and made["generation_kwargs"]["max_gen_toks"] > 0


def test_one_pipeline_of_filters_may_have_any_name():
    filters = [{"name": "strict-match", "filter": [{"function": "take_first"}]}]
    assert config(filter_list=filters)["filter_list"] == filters
    with pytest.raises(UserError, match="filter_list: unknown extraction 'official'"):
        config(filter_list=[*filters, {"name": "flexible", "filter": []}])


def test_whatever_lm_eval_refuses_is_one_line():
    for keys in ({"doc_to_text": "{{prompt"}, {"no_such_key": 1}, {"doc_to_text": "{{nothing.of_it}}"}):
        with pytest.raises(UserError, match=r"catalog: tasks.own.template: lm-eval does not take it: \w+"):
            local_task(config(**keys), ITEMS)


def test_choices_of_each_item_and_any_column_reach_the_task():
    rows = [
        {"question": "Which?", "choices": ["a", "b"], "label": 1, "hint": "two"},
        {"question": "And?", "choices": ["c", "d", "e"], "label": 0, "hint": None},
    ]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"instruction": "question", "answer": "label"}
    Path("catalog").mkdir()
    Path("catalog/own.yaml").write_text(yaml.safe_dump({"data": {"own": {"path": "own.jsonl", "columns": columns}}}))
    load_catalog.cache_clear()
    prepare_items(load_catalog("catalog"), "own", "plain", None, Path("items.jsonl"))
    items = read_jsonl("items.jsonl")
    assert items[0] == rows[0] | {"id": 0, "prompt": "Which?", "answer": "1", "contaminated": None}
    prepare_items(load_catalog("catalog"), "own", "plain", None, Path("items.jsonl"), columns=Columns(whole=True))
    items = read_jsonl("items.jsonl")
    assert (items[0]["instruction"], items[0]["output"], items[0]["choices"]) == ("Which?", "1", ["a", "b"])
    chosen = config(
        output_type="multiple_choice", doc_to_choice="choices", doc_to_target="label", metric_list=[{"metric": "acc"}]
    )
    task = local_task(chosen, items)
    task.build_all_requests()
    assert [request.args[1] for request in task.instances] == [" a", " b", " c", " d", " e"]
    assert [task.doc_to_target(doc) for doc in task.test_docs()] == [1, 0]


def plan_with(template: str, folder: Path):
    """A plan whose only task has that template; the catalog lies in `folder`."""
    catalog = folder / "catalog"
    shutil.copytree(ROOT / "experiments" / "catalog", catalog, dirs_exist_ok=True)
    task = {"title": "T", "template": template, "answer": {}, "items": {"ladder": "ladder-gsm8k"}}
    own = {"tasks": {"own": task}, "suites": {"own": {"title": "Own", "tasks": ["own"]}}}
    (catalog / "own.yaml").write_text(yaml.safe_dump(own))
    (folder / "own-experiment.yaml").write_text(
        yaml.safe_dump(edited(EXPERIMENT, (["tables", "sums", "suite"], "own")))
    )
    load_catalog.cache_clear()
    return load_plan(str(folder / "own-experiment.yaml"))


@pytest.mark.parametrize("place", ["own/catalog/mine.yaml", "mine.yaml", "far/away/mine.yaml"])
def test_a_template_may_lie_anywhere(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(yaml.safe_dump(TEMPLATE))
    template = str(tmp_path / place) if place.startswith("far") else "mine.yaml"
    plan = plan_with(template, tmp_path / "own")
    assert plan.catalog.tasks["own"].own_template().samefile(tmp_path / place)


def test_what_is_scored_depends_on_the_template_s_content_and_what_is_trained_does_not(tmp_path):
    hashes = []
    for doc_to_text in ("Q: {{prompt}}", "{{prompt}}", "Q: {{prompt}}"):
        Path("mine.yaml").write_text(yaml.safe_dump(TEMPLATE | {"doc_to_text": doc_to_text}))
        plan = plan_with("mine.yaml", tmp_path / "own")
        run = plan.runs[-1]
        hashes.append((settings_hash(plan, run), training_hash(plan, run)))
    assert hashes[0] == hashes[2] and hashes[0][0] != hashes[1][0] and hashes[0][1] == hashes[1][1]
