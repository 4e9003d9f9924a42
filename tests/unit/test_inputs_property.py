"""Three properties: scoring leaves the model as it was, a stage refuses foreign inputs, and a change of any one input
makes again exactly what depends on it (by the keys of the rules, no workflow is started).
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import get_peft_model

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of, write_json
from sbora_bench.inputs.adapters import adapter_config
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import data_settings, own_data_hashes, settings_hash, training_hash, training_settings
from sbora_bench.results.folders import TRAINING
from sbora_bench.results.read import Results
from sbora_bench.results.records import ContaminationRecord, TrainRecord, write_record
from sbora_bench.results.table_data import table_data
from sbora_bench.score.lm_eval_model import Scorer
from sbora_bench.score.tasks import score_task
from sbora_bench.workflow.files import Files
from sbora_bench.workflow.jobs import tuned
from tests.factories import shipped, toy_runs

FAST = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CATALOG = shipped.catalog()
TUNED = ["lora", "dora", "sbora-fa", "sbora-fb", "rslora", "pissa", "ia3", "loha", "lokr", "vera", "oft", "miss"]


@FAST
@given(
    method=st.sampled_from([name for name in TUNED if name in CATALOG.methods]),
    rank=st.sampled_from([2, 4]),
    tied=st.booleans(),
    task=st.sampled_from(["choose", "count", "letters"]),
    batch=st.integers(1, 5),
    training=st.booleans(),
)
def test_scoring_leaves_the_model_as_it_was(method, rank, tied, task, batch, training):
    protocol = toy_runs.protocol()
    torch.manual_seed(0)
    made = adapter_config(CATALOG.methods[method], rank, 0, protocol)
    model = get_peft_model(toy_runs.llama(tie_word_embeddings=tied), made).train(training)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    kept = {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in model.state_dict().items()}
    learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    entry = Catalog.model_validate({"tasks": {task: toy_runs.TASKS[task] | {"items": {}}}}).tasks[task]
    scorer = Scorer(model, toy_runs.tokenizer(), batch, 128)
    score_task(scorer, task_config(task, entry, protocol), toy_runs.items(task, 3), True)
    state = model.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], tensor) and state[name].data_ptr() == at for name, (tensor, at) in kept.items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == learns


def workplace_of(folder: Path) -> dict:
    """An experiment of two tables, models and methods whose every input is a file or an entry of its own."""
    catalog = {
        "models": {
            name: {"title": name, "source": {"kind": "folder", "path": f"models/{name}"}} for name in ("one", "two")
        },
        "methods": {name: toy_runs.METHODS["lora"] | {"title": name} for name in ("lora", "other")},
        "data": {name: {"path": f"{name}.jsonl"} for name in ("train-a", "train-b", "items-a", "items-b")},
        "tasks": {
            name: {"title": name, "template": f"{name}.yaml", "answer": {}, "items": {"toy": f"items-{name[-1]}"}}
            for name in ("task-a", "task-b")
        },
        "suites": {name: {"title": name, "tasks": [f"task-{name[-1]}"]} for name in ("suite-a", "suite-b")},
        "prompts": {"own": {"jinja": "{{ instruction }}"}},
        "protocols": {
            name: toy_runs.PROTOCOL | {"train_prompt": "own", "score_prompt": "own"} for name in ("how-a", "how-b")
        },
    }
    table = {"seeds": [0, 1]}
    tables = {
        key: table
        | {"suite": f"suite-{key}", "train": f"train-{key}", "protocol": f"how-{key}"}
        | {"grids": [{"models": [model], "methods": ["lora", "other"], "ranks": [2]}]}
        for key, model in (("a", "one"), ("b", "two"))
    }
    for name in ("train-a", "train-b", "items-a", "items-b"):
        rows = [{"instruction": f"{name} {n}", "output": str(n)} for n in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = {"output_type": "generate_until", "doc_to_text": "prompt", "doc_to_target": "answer"}
    for name in ("task-a", "task-b"):
        write_json(folder / "experiments" / "catalog" / f"{name}.yaml", template)
    for name in ("one", "two"):
        write_json(folder / "models" / name / "config.json", {"model_type": "llama"} | toy_runs.ARCHITECTURE)
    write_json(folder / "experiments" / "catalog" / "own.yaml", catalog)
    experiment = {"title": "Toy", "items": "toy", "tables": tables}
    write_json(folder / "experiments" / "toy.yaml", experiment)
    return json.loads(json.dumps(catalog | {"experiment": experiment}))  # nothing shared


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SBORA_DATA_ROOT", raising=False)
    yield workplace_of(tmp_path)
    load_catalog.cache_clear()  # it is kept by a relative path, which is another test's too


def read_plan() -> Plan:
    load_catalog.cache_clear()
    return load_plan("toy")


def keys(plan: Plan) -> dict[str, str]:
    """What each rule depends on, as its parameters have it: prepared models and data, trainings, scores."""
    files = Files(plan)
    named = lambda **wildcards: type("Wildcards", (), wildcards)()  # noqa: E731
    made = {f"model {name}": files.model_settings(named(model=name)) for name in plan.catalog.models}
    made |= {f"data {name}": files.data_settings(named(table=name)) for name in plan.experiment.tables}
    made |= {f"train {run.name}": training_hash(plan, run) for run in tuned(plan.runs)}
    made |= {f"score {run.name}": settings_hash(plan, run) for run in plan.runs}
    return made


def row(file: str):
    return lambda house, n: Path(file).write_text(json.dumps({"instruction": f"new {n}", "output": "1"}) + "\n")


def entry(*place: str, values):
    def change(house: dict, n: int) -> None:
        target = house
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = values(n)
        experiment, catalog = house["experiment"], {key: value for key, value in house.items() if key != "experiment"}
        write_json(Path("experiments/catalog/own.yaml"), catalog)
        write_json(Path("experiments/toy.yaml"), experiment)

    return change


def template(name: str):
    path = Path("experiments/catalog") / f"{name}.yaml"
    return lambda house, n: write_json(path, yaml.safe_load(path.read_text()) | {"description": f"{n}. "})


def weights(name: str):
    return lambda house, n: write_json(Path("models") / name / "generation_config.json", {"n": n})


A, B, LORA = " a-", " b-", "-lora-"
# An input, how it is changed, and the keys that change: those with one of these beginnings, and with that in them.
CHANGES = {
    "training rows": (row("train-a.jsonl"), ["data a"], ""),
    "items": (row("items-b.jsonl"), ["data b"], ""),
    "a template": (template("task-a"), [f"score{A}"], ""),
    "a model's files": (weights("two"), ["model two"], ""),
    "how many are scored at once": (
        entry("protocols", "how-a", "score_batch", values=lambda n: n + 5),
        [f"score{A}"],
        "",
    ),
    "the rate": (
        entry("protocols", "how-b", "learning_rate", values=lambda n: 0.1 / (n + 1)),
        [f"train{B}", f"score{B}"],
        "",
    ),
    "a table's override": (
        entry("experiment", "tables", "a", "overrides", values=lambda n: {"weight_decay": 0.5 / (n + 1)}),
        [f"train{A}", f"score{A}"],
        "",
    ),
    "a method's argument": (
        entry("methods", "lora", "arguments", "lora_dropout", values=lambda n: 0.5 / (n + 1)),
        ["train", "score"],
        LORA,
    ),
    "a task's limit": (entry("experiment", "tables", "b", "limit", values=lambda n: {"task-b": n + 1}), ["data b"], ""),
    "the prompt": (entry("prompts", "own", "jinja", values=lambda n: f"{n} {{{{ instruction }}}}"), ["data"], ""),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@settings(FAST, max_examples=3)
@given(n=st.integers(0, 50))
def test_a_change_of_one_input_changes_the_keys_of_what_depends_on_it_and_no_others(house, tmp_path, change, n):
    house = workplace_of(tmp_path)
    before = keys(read_plan())
    make, stems, part = CHANGES[change]
    make(house, n)
    after = keys(read_plan())
    changed = {name for name in before if before[name] != after[name]}
    expected = {name for name in before if name.startswith(tuple(stems)) and part in name}
    assert changed == expected and expected and after.keys() == before.keys()
    assert hash_of(keys(read_plan())) == hash_of(after), "twice the same"


@FAST
@given(change=st.sampled_from(["training rows", "items", "a task's limit", "the prompt"]), n=st.integers(0, 50))
def test_prepared_data_of_other_inputs_are_refused_with_the_command_that_makes_them(house, tmp_path, change, n):
    house, results = workplace_of(tmp_path), tmp_path / "results"
    plan = read_plan()
    for table in plan.experiment.tables:
        record = ContaminationRecord(
            experiment=plan.name,
            table=table,
            train="t",
            train_rows=1,
            train_sha256="",
            policy="keep",
            settings_sha256=hash_of(data_settings(plan, table)),
            own_data=own_data_hashes(plan, table),
            tasks={},
        )
        write_record(results / "data" / table / "contamination.json", record)
        table_data(plan, results, table)
    make, stems, _ = CHANGES[change]
    make(house, n)
    for table in plan.experiment.tables:
        if f"data {table}".startswith(tuple(stems)):
            with pytest.raises(UserError, match=f"make it again with: sbora-bench prepare .*--table {table} "):
                table_data(read_plan(), results, table)
        else:
            table_data(read_plan(), results, table)


@FAST
@given(change=st.sampled_from(["the rate", "a table's override", "a method's argument"]), n=st.integers(0, 50))
def test_a_training_of_other_settings_is_refused_and_names_the_setting(house, tmp_path, change, n):
    house, results = workplace_of(tmp_path), tmp_path / "results"
    plan = read_plan()
    runs = tuned(plan.runs)
    for run in runs:
        names = {key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")}
        record = TrainRecord(
            **names, experiment="toy", run=run.name, asked=training_settings(plan, run), happened={}, on={}
        )
        write_record(results / "runs" / run.name / TRAINING, record)
    make, stems, part = CHANGES[change]
    make(house, n)
    now = Results(read_plan(), results)
    for run in runs:
        if f"train {run.name}".startswith(tuple(stems)) and part in run.name:
            with pytest.raises(UserError, match="train.json: .*trained with .*run it again"):
                now.training(run)
        else:
            assert now.training(run) is not None
