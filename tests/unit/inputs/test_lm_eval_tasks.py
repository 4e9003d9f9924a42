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
from sbora_bench.plan.lm_eval_yaml import data_set_of
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


def test_a_metric_of_ours_is_one_of_a_task_of_ones_own(tasks):
    keys = SUMS | {"metric_list": [{"metric": "token_f1"}], "num_fewshot": 0}
    (tasks / "own" / "sums.yaml").write_text(yaml.safe_dump(keys))
    metrics = {"token_f1": {"items": "values"}}
    catalog = catalog_of(tasks, {"lm_eval": "toy_sums", "metrics": metrics, "filter": "last"})
    task = "lm-eval-toy-sums-last"
    config, items = prepared(catalog, task, tasks)
    try_task(config, items, catalog.tasks[task].metrics)
    scorer = Scorer(toy_runs.model(), toy_runs.tokenizer(), 2, 64)
    score, _ = score_task(scorer, config, items, True, catalog.tasks[task].metrics)
    assert score.metric == "token_f1" and 0 <= score.value <= 1


@pytest.mark.parametrize("listed", [["_first.yaml", "_last.yaml"], "_both.yaml"])
def test_the_data_set_of_a_task_is_that_of_the_last_file_it_includes(tasks, listed):
    """As lm-eval reads it: `hub_copies` looks for that set below SBORA_DATA_ROOT."""
    for name, keys in {
        "_first": {"dataset_path": "org/first"},
        "_last": {"include": "_named.yaml", "num_fewshot": 0},
        "_named": {"dataset_path": "org/last"},
        "_both": {"include": ["_first.yaml", "_last.yaml"]},
        "sums": {"task": "toy_sums", "include": listed},
    }.items():
        (tasks / "own" / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    source = LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own"))
    assert data_set_of(source) == task_keys(source)["dataset_path"] == "org/last"


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
        ("doc_to_text: !function utils.text", "line 1: .*the tag !function is not read: no code is run"),
        ("include: ../other.yaml", "include: found ../other.yaml, allowed is a YAML file in"),
    ],
)
def test_a_task_of_ones_own_names_no_code_and_no_other_folder(tasks, line, expected):
    (tasks / "own" / "sums.yaml").write_text(f"{line}\ntask: toy_sums\n")
    with pytest.raises(UserError, match=expected):
        task_keys(LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own")))


def own(folder: Path, **keys) -> LmEvalTask:
    """A task of one's own: the sums with other keys."""
    (folder / "own" / "sums.yaml").write_text(yaml.safe_dump(SUMS | keys))
    return LmEvalTask(lm_eval="toy_sums", include_path=str(folder / "own"))


@pytest.mark.parametrize(
    "keys",
    [{"dataset_kwargs": {"data_files": {"test": "../data", "train": "train.jsonl"}}}, {"dataset_path": "../data"}],
)
def test_data_lie_in_the_task_s_folder(tasks, keys):
    (tasks / "data").mkdir()
    with pytest.raises(UserError, match=f"{'data_files' if 'dataset_kwargs' in keys else 'dataset_path'}: found ../da"):
        task_rows("d", own(tasks, **keys))


def test_data_may_be_a_folder_beside_the_task(tasks):
    (tasks / "own" / "set").mkdir()
    for name in ("test.jsonl", "train.jsonl"):
        (tasks / "own" / name).rename(tasks / "own" / "set" / name)
    assert len(task_rows("d", own(tasks, dataset_path="set", dataset_kwargs={}))) == 4


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"doc_to_txt": "question"}, "unknown key of a task 'doc_to_txt', did you mean 'doc_to_text'"),
        ({"process_docs": "utils.docs"}, "process_docs: names code to run"),
        ({"metric_list": [{"metric": "exact_mach"}]}, "unknown metric 'exact_mach', did you mean 'exact_ma"),
        ({"metric_list": ["exact_match"]}, "metric_list: found 'exact_match', allowed {metric: NAME}"),
        ({"filter_list": [SUMS["filter_list"][0], SUMS["filter_list"][0]]}, "filter_list: strict: stands twice"),
        ({"filter_list": [{"filter": SUMS["filter_list"][0]["filter"]}]}, "filter_list: found {'filter': .*, allowed"),
        ({"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]}, "unknown metric 'exact_match'"),
        ({"generation_kwargs": {"max_gen_tok": 5}}, "unknown key 'max_gen_tok', did you mean 'max_gen_toks'"),
        (
            {"filter_list": [SUMS["filter_list"][0] | {"metric_list": []}]},
            "filter_list: metric_list: not read by lm-ev",
        ),
        ({"test_split": "tset"}, "test_split: found tset, allowed test, train, by its data_files"),
        ({"fewshot_split": "dev"}, "fewshot_split: found dev, allowed test, train"),
        ({"test_split": None}, "test_split: missing; say which split is asked, of test, train"),
        ({"dataset_kwargs": {"data_dir": "."}}, "data_dir: not read here; name the files in data_files"),
        ({"dataset_kwargs": {}}, "data_files: missing; name them"),
    ],
)
def test_what_lm_eval_would_pass_over_or_run_in_a_task_of_ones_own_is_refused(tasks, keys, expected):
    with pytest.raises(UserError, match=f"sums.yaml: .*{expected}"):
        task_keys(own(tasks, **keys))


def test_a_column_misspelled_in_a_task_of_ones_own_is_not_asked_as_it_stands(tasks):
    own(tasks, doc_to_text="queston", num_fewshot=0)
    config, items = prepared(catalog_of(tasks, {"lm_eval": "toy_sums"}), "lm-eval-toy-sums", tasks)
    with pytest.raises(UserError, match="doc_to_text: unknown column 'queston', did you mean 'question'"):
        try_task(config, items)


def test_files_of_unlike_columns_are_said(tasks):
    (tasks / "own" / "train.jsonl").write_text('{"ask": "5 + 1"}\n')
    with pytest.raises(UserError, match="lm-eval can't make its items: CastError: .* column names don't match"):
        task_rows("d", own(tasks))


@pytest.mark.parametrize("tag", ["!%66unction utils.text", "!<!function> utils.text"])
def test_no_spelling_of_a_tag_names_code(tasks, tag):
    (tasks / "own" / "sums.yaml").write_text(f"task: toy_sums\ndoc_to_text: {tag}\n")
    with pytest.raises(UserError, match="line 2: .*the tag !function is not read"):
        task_keys(LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own")))


@pytest.mark.parametrize("include", ["include:\n- ../x.yaml", "'include': /etc/x.yaml", "include: x.txt"])
def test_no_spelling_of_an_include_leaves_the_folder(tasks, include):
    (tasks / "own" / "sums.yaml").write_text(f"task: toy_sums\n{include}\n")
    with pytest.raises(UserError, match="include: found .*, allowed is a YAML file in"):
        task_keys(LmEvalTask(lm_eval="toy_sums", include_path=str(tasks / "own")))


def test_python_is_out_of_reach_of_a_template(tasks):
    reached = tasks / "reached"
    text = "{{ lipsum.__globals__['os'].mkdir('%s') }}" % reached  # noqa: UP031
    with pytest.raises(UserError, match="lm-eval can't make its items: SecurityError"):
        task_rows("d", own(tasks, doc_to_text=text))
    config = toy_runs.TEMPLATE | {"task": "t", "doc_to_text": text}
    with pytest.raises(UserError, match="lm-eval does not take it: SecurityError"):
        local_task(config, [{"prompt": "a", "answer": "b"}])
    assert not reached.exists()


SAMPLES = [{"question": "the cat", "solution": "dog"}, {"question": "a dog", "solution": "cat"}]
WORD = {"name": "word", "filter": [{"function": "regex", "regex_pattern": "(\\S+)"}, {"function": "take_first"}]}
MAJORITY = WORD | {"filter": [WORD["filter"][0], {"function": "majority_vote"}, {"function": "take_first"}]}
AS_LM_EVAL = {
    "as it stands": ("toy_sums", {}),
    "another filter": ("toy_sums", {"filter_list": [WORD, *SUMS["filter_list"]]}),
    "asked twice": ("toy_sums", {"repeats": 2, "filter_list": [MAJORITY]}),
    "stop words": ("toy_sums", {"generation_kwargs": {"until": ["cat", " red"], "max_gen_toks": 5}}),
    "its own solved examples": ("toy_sums", {"fewshot_config": {"sampler": "first_n", "samples": SAMPLES}}),
    "solved examples put otherwise": ("toy_sums", {"fewshot_config": {"doc_to_text": "is {{question}}"}}),
    "signs between": ("toy_sums", {"target_delimiter": " is ", "fewshot_delimiter": " . ", "description": "the "}),
    "several right": ("toy_sums", {"doc_to_target": "{{[solution, 'the']}}"}),
    "a file": ("toy_sums", {"dataset_kwargs": {"data_files": "test.jsonl"}, "test_split": "train"}),
    "choices": ("toy_choice", {}),
    "choices of Jinja": ("toy_choice", {"doc_to_choice": "{{[ 'the ' + question[4:7], 'blue' ]}}"}),
    "solved choices": ("toy_choice", {"num_fewshot": 2}),
}


@pytest.mark.parametrize("which", AS_LM_EVAL)
def test_a_task_of_ones_own_has_the_prompts_and_the_score_of_lm_eval(tasks, which, monkeypatch):
    """Its keys come from a file that it includes."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    name, keys = AS_LM_EVAL[which]
    folder, model, tokenizer = tasks / "own", toy_runs.model(), toy_runs.tokenizer()
    monkeypatch.chdir(folder)  # where lm-eval looks for data files
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # a second of pip and lscpu
    base = {"toy_sums": SUMS, "toy_choice": LETTERS}[name] | {"num_fewshot": 0} | keys
    if "fewshot_config" in keys or "fewshot_delimiter" in keys:
        base |= {"num_fewshot": 2}
    for old in ("sums.yaml", "choice.yaml"):
        (folder / old).unlink()
    (folder / "_base.yaml").write_text(yaml.safe_dump({key: base[key] for key in base if key != "task"}))
    (folder / "own.yaml").write_text(yaml.safe_dump({"task": name, "include": "_base.yaml"}))
    catalog = catalog_of(tasks, {"lm_eval": name})
    config, items = prepared(catalog, f"lm-eval-{name.replace('_', '-')}", tasks)
    score, rows = score_task(Scorer(model, tokenizer, 2, 250), config, items, True, {})
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=250),
        tasks=[name],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    filters = (base.get("filter_list") or [{"name": "none"}])[0]["name"]
    assert score.value == theirs["results"][name][f"{score.metric},{filters}"]
    samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
    samples = [sample for sample in samples if sample["filter"] == filters]
    assert [row["prompt"] for row in rows] == [sample["arguments"][0][0] for sample in samples]
    if name == "toy_sums":
        assert [row["response"] for row in rows] == [sample["resps"][0][0] for sample in samples]
        assert [row["extracted"] for row in rows] == [sample["filtered_resps"][0] for sample in samples]


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
