"""lm-eval's own tasks by name in a suite: found, prepared with their own prompts, scored by their own filters."""

import json
import os
from pathlib import Path

import pytest
import yaml

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl, sha256
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.data.lm_eval_tasks import task_keys, task_rows
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.inputs.prepare import Columns, prepare_items
from sbora_bench.inputs.tasks.local import local_task
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.inputs.tasks.trial import try_task
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.data_entries import LmEvalData, LmEvalTask
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import data_settings, settings_hash
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.tasks import score_task
from tests.factories import toy_runs
from tests.factories.toy_tasks import LETTERS, SUMS, write_tasks
from tests.factories.workplace import workplace  # noqa: F401


def catalog_of(folder: Path, *tasks: dict) -> Catalog:
    """A catalog with one suite of these lines."""
    (folder / "catalog").mkdir(exist_ok=True)
    suite = {
        "suites": {"own": {"title": "Own", "tasks": [{"include_path": str(folder / "own"), **task} for task in tasks]}}
    }
    (folder / "catalog" / "own.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    load_catalog.cache_clear()
    return load_catalog(str(folder / "catalog"))


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    write_tasks(tmp_path / "own")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SBORA_DATA_ROOT", raising=False)
    return tmp_path


def prepared(catalog: Catalog, task: str, folder: Path) -> tuple[dict, list[dict]]:
    """(lm-eval's configuration, the items) of a task of the catalog."""
    task_data = prepare_items(catalog, task, "plain", [], folder / f"{task}.jsonl", columns=Columns(gold=True))
    config = task_config(task, catalog.tasks[task], toy_runs.protocol())
    json.dumps(config)  # it is part of a key
    assert task_data.n == 4 and task_data.sha256 == sha256(folder / f"{task}.jsonl")
    return config, read_jsonl(folder / f"{task}.jsonl")


def test_items_have_the_prompts_that_lm_eval_makes(tasks):
    catalog = catalog_of(tasks, {"lm_eval": "toy_sums"})
    _, items = prepared(catalog, "lm-eval-toy-sums", tasks)
    for n, item in enumerate(items):
        *shots, question = item["prompt"].split("\n\n")
        assert question == f"Q: {n} + 1\nA:" and len(shots) == 2 and len(set(shots)) == 2
        assert all(int(shot[3]) >= 5 and "#### " in shot for shot in shots)
        assert item["gold"] == f" {n} and 1. #### {n + 1}" and item["contaminated"] is False
    fewer = catalog_of(tasks, {"lm_eval": "toy_sums", "shots": 0})
    assert read_examples("d", fewer.data["lm-eval-toy-sums-0-shot"])[0]["prompt"] == "Q: 0 + 1\nA:"


@pytest.mark.parametrize(("own", "right"), [("strict", [1.0, 0.0]), ("last", [1.0, 1.0])])
def test_answers_are_read_by_the_filter_that_is_named(tasks, own, right):
    catalog = catalog_of(tasks, {"lm_eval": "toy_sums", "filter": own})
    config, items = prepared(catalog, f"lm-eval-toy-sums-{own}", tasks)
    assert config["generation_kwargs"] == {"until": ["\n"], "do_sample": False, "max_gen_toks": 5}
    task = local_task(config, items[:2])
    task.build_all_requests()
    for request, text in zip(task.instances, ("so #### 1", "it is 2"), strict=True):
        assert request.args[0] == items[request.doc_id]["prompt"]
        request.resps.append(text)
    task.apply_filters()
    values = [task.process_results(r.doc, [r.filtered_resps[own]])["exact_match"] for r in task.instances]
    assert values == right
    try_task(config, items)


@pytest.mark.parametrize(("name", "metrics"), [("toy_sums", {}), ("toy_choice", {"acc_norm": {}, "acc": {}})])
def test_it_is_scored_as_any_task(tasks, name, metrics):
    catalog = catalog_of(tasks, {"lm_eval": name, "shots": 0, "metrics": metrics})
    task = f"lm-eval-{name.replace('_', '-')}-0-shot"
    config, items = prepared(catalog, task, tasks)
    try_task(config, items, catalog.tasks[task].metrics)
    scorer = Scorer(toy_runs.model(), toy_runs.tokenizer(), 2, 64)
    score, rows = score_task(scorer, config, items, True, catalog.tasks[task].metrics)
    assert score.metric == (next(iter(metrics), "exact_match")) and score.n == 4
    assert [row["prompt"] for row in rows] == [item["prompt"] for item in items]
    assert score.value == pytest.approx(sum(row["correct"] for row in rows) / 4)
    assert score.extra.keys() >= set(list(metrics)[1:])


@pytest.mark.parametrize("label", [-1, 2, "green"])
def test_an_item_of_which_no_choice_is_right_is_refused(tasks, label):
    """lm-eval marks all answers to it as wrong: a split whose labels are hidden has -1."""
    path = tasks / "own" / "choice.jsonl"
    path.write_text(path.read_text() + json.dumps({"question": "the cat is", "label": label}) + "\n")
    catalog = catalog_of(tasks, {"lm_eval": "toy_choice"})
    with pytest.raises(
        UserError, match=f"item 4: its right answer is '?{label}'?, allowed one of its choices, 'red', 'bl"
    ):
        read_examples("d", catalog.data["lm-eval-toy-choice"])


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"lm_eval": "toy_sum"}, "lm_eval toy_sum: unknown task 'toy_sum'"),
        ({"lm_eval": "toy_sums", "filter": "lats"}, "filter: unknown filter 'lats', did you mean 'last'"),
        ({"lm_eval": "toy_choice", "filter": "x"}, "filter: found x, and the task has none"),
        ({"lm_eval": "gsm8k", "include_path": "nowhere"}, "include_path: .*no such folder"),
        ({"lm_eval": "humaneval", "include_path": ""}, "runs the code that a model writes"),
    ],
)
def test_what_cannot_be_scored_is_refused(tasks, edit, expected):
    catalog = catalog_of(tasks, edit)
    (task,) = catalog.tasks
    with pytest.raises(UserError, match=expected):
        task_config(task, catalog.tasks[task], toy_runs.protocol())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("doc_to_text: !function utils.text", "line 1: names code to run"),
        ("include: ../other.yaml", "line 1: includes a file of another folder"),
    ],
)
def test_a_task_of_ones_own_names_no_code_and_no_other_folder(tasks, line, expected):
    (tasks / "own" / "sums.yaml").write_text(f"{line}\ntask: toy_sums\n")
    with pytest.raises(UserError, match=expected):
        task_keys(LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own")))


def test_data_lie_in_the_task_s_folder(tasks):
    (tasks / "own" / "sums.yaml").write_text(
        yaml.safe_dump(SUMS | {"dataset_kwargs": {"data_files": {"test": "../x.jsonl"}}})
    )
    (tasks / "x.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="data_files: found ../x.jsonl, allowed is a file in"):
        task_rows("d", LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own")))


def test_gsm8k_is_read_without_its_data_and_says_that_these_cannot_be_had(tasks, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tasks))
    source = LmEvalData(kind="lm-eval", lm_eval="gsm8k")
    keys = task_keys(source)
    assert keys["num_fewshot"] == 5 and [one["name"] for one in keys["filter_list"]] == [
        "strict-match",
        "flexible-extract",
    ]
    with pytest.raises(
        Unreachable, match="lm_eval gsm8k: its data set openai/gsm8k can't be fetched here .HF_HUB_OFFLINE"
    ):
        read_examples("d", source)


def test_functions_of_lm_eval_s_own_tasks_are_called_and_stand_in_keys_without_this_machine_s_paths(tasks, monkeypatch):
    from datasets import Dataset, DatasetDict

    row = {
        "ctx_a": "A cat",
        "ctx_b": "it",
        "activity_label": "Sit",
        "endings": ["is red.", "is [x] blue."],
        "label": "1",
    }
    DatasetDict({"validation": Dataset.from_list([row] * 4), "train": Dataset.from_list([row] * 4)}).save_to_disk(
        tasks / "h"
    )
    folder = tasks / "root" / "Rowan" / "hellaswag"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * 4)
    monkeypatch.setenv("SBORA_DATA_ROOT", str(tasks / "root"))
    catalog = catalog_of(tasks, {"lm_eval": "hellaswag", "include_path": ""})
    config, items = prepared(catalog, "lm-eval-hellaswag", tasks)
    assert str(Path.home()) not in json.dumps(config) and os.sep + "site-packages" not in json.dumps(config)
    assert items[0]["prompt"] == "Sit: A cat It" and items[0]["answer"] == "is blue."
    try_task(config, items)


def test_a_suite_of_such_tasks_is_validated_and_follows_its_folder(workplace):  # noqa: F811
    write_tasks(workplace.folder / "experiments" / "catalog" / "own")
    workplace.catalog(
        suites={
            "own": {
                "title": "Own",
                "tasks": [
                    {"lm_eval": "toy_sums", "include_path": "own"},
                    {"lm_eval": "toy_choice", "include_path": "own"},
                ],
            }
        }
    )
    name = workplace.experiment((("tables", "sums", "suite"), "own"), (("items",), "paper"))
    status, _, err = workplace.run("validate", name)
    assert status == 0, err
    load_catalog.cache_clear()
    before = load_plan(name)
    run = before.runs[-1]
    settings, key = data_settings(before, "sums"), settings_hash(before, run)
    assert before.items("sums")["lm-eval-toy-sums"] == "lm-eval-toy-sums"
    (workplace.folder / "experiments" / "catalog" / "own" / "train.jsonl").write_text("{}\n")
    assert data_settings(before, "sums") != settings
    assert settings_hash(before, run) != key
    workplace.catalog(suites={"own": {"title": "Own", "tasks": [{"lm_eval": "gsm8k"}]}})
    assert (
        "its data set openai/gsm8k can't be fetched here (HF_HUB_OFFLINE is set); put a copy at"
        in workplace.refused("validate", name)
    )


def group(folder: Path, name: str, *tasks, **more) -> None:
    (folder / "own" / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, "task": list(tasks), **more}))


def tagged(folder: Path, name: str, tag: str) -> None:
    (folder / "own" / f"{name}.yaml").write_text(yaml.safe_dump(LETTERS | {"task": name, "tag": [tag, "other"]}))


def test_a_group_stands_for_its_tasks_in_lm_evals_order(tasks):
    """Nested groups, a group defined in another, a tag, tasks of lm-eval's, a task that stands twice."""
    for name in ("toy_z", "toy_a"):
        tagged(tasks, name, "toy_tag")
    inner = {"group": "inner", "task": [{"task": "toy_choice", "num_fewshot": 0, "task_alias": "x"}]}
    group(tasks, "toy_nested", "toy_tag", "gsm8k", inner, num_fewshot=3)
    group(tasks, "toy_all", "toy_sums", "toy_nested", "toy_sums", aggregate_metric_list=[{"metric": "acc"}])
    catalog = catalog_of(tasks, {"lm_eval": "toy_all", "filter": ""}, {"lm_eval": "toy_tag", "shots": 1})
    named = {task: catalog.tasks[task].lm_eval for task in catalog.suites["own"].tasks}
    assert [(one.lm_eval, one.shots) for one in named.values()] == [
        *(("toy_sums", None), ("toy_a", 3), ("toy_z", 3), ("gsm8k", 3), ("toy_choice", 0), ("toy_a", 1), ("toy_z", 1)),
    ]
    assert named["lm-eval-gsm8k-3-shot"].include_path == "" and named["lm-eval-toy-sums"].include_path
    prepared(catalog, "lm-eval-toy-choice-0-shot", tasks)


def test_lm_evals_own_groups_are_read_without_lm_eval(tasks):
    """Two kinds: `mmlu` is a group of groups of tags, `arithmetic` a tag; names too long for a file are cut."""
    catalog = catalog_of(
        tasks, {"lm_eval": "mmlu", "include_path": "", "shots": 0}, {"lm_eval": "arithmetic", "include_path": ""}
    )
    ids = catalog.suites["own"].tasks
    assert len(ids) == len(set(ids)) == 57 + 10 and all(len(name) <= 48 for name in ids)
    assert [catalog.tasks[name].title for name in (ids[0], ids[-1])] == [
        "mmlu_abstract_algebra, 0-shot",
        "arithmetic_5ds",
    ]


@pytest.mark.parametrize(
    ("line", "more", "expected"),
    [
        ("toy_group", {}, "lm_eval toy_group: its group toy_group holds itself .toy_group -> toy_group"),
        ({"task": "toy_sums", "fewshot_split": "test"}, {}, "task toy_sums is given fewshot_split there"),
        ("toy_sums", {"metric_list": []}, "task toy_sums is given metric_list there"),
        ({"task": "toy_new", "num_fewshot": 2}, {}, "task toy_new is defined inside of the group"),
        ({"group": "toy_new"}, {}, "group toy_new has no list of tasks"),
    ],
)
def test_a_group_that_lines_cannot_say_is_refused(tasks, line, more, expected):
    group(tasks, "toy_group", line, **more)
    with pytest.raises(UserError, match=rf"own.yaml: suites.own.tasks.0: .*{expected}"):
        catalog_of(tasks, {"lm_eval": "toy_group"})


def test_a_group_has_no_title(tasks):
    group(tasks, "toy_group", "toy_sums", "toy_choice")
    with pytest.raises(UserError, match="title: found 'Both', and toy_group is 2 tasks"):
        catalog_of(tasks, {"lm_eval": "toy_group", "title": "Both"})


def test_mistakes_of_a_line_are_one_line(workplace):  # noqa: F811
    for line, expected in (
        ({"lm_eval": "gsm8k", "shot": 5}, "suites.own.tasks.0: unknown key 'shot', did you mean 'shots'"),
        ({"lm_eval": 5}, "suites.own.tasks.0: lm_eval: Input should be a valid string"),
    ):
        workplace.catalog(suites={"own": {"title": "Own", "tasks": [line]}})
        assert expected in workplace.refused("validate", workplace.experiment())
