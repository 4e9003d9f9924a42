"""The rehearsal is the paper under one overlay, and a slice of it runs: each of the eight methods once."""

import shutil

import pytest

from sbora_bench.files import read_json
from sbora_bench.inputs import prepare
from sbora_bench.plan.layouts import layouts
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import run_settings
from sbora_bench.score import evaluate
from sbora_bench.train import finetune
from tests.factories.shipped import ROOT

MARK = "rehearsal-"
# All that the overlay may change. Names differ by MARK alone.
ENTRY = {"train", "protocol", "seeds", "grids"}
PROTOCOL = {
    "commonsense": {"autocast", "warmup_steps", "validation_rows", "validation_every", "max_new_tokens"},
    "arithmetic": {"autocast", "warmup_steps", "validation_rows", "validation_every", "max_new_tokens"},
    "mmlu": {"optimizer", "steps", "validation_rows", "validation_limit", "validation_every"},
}
SIZES = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
SIZES |= {"num_key_value_heads", "bos_token_id", "eos_token_id"}
DATA = {"path", "url", "blob", "rows", "columns", "licence", "stand_in", "id", "revision"}

SLICE = [
    "commonsense-rehearsal-llama-7b-lora-r32-s0",
    "commonsense-rehearsal-llama-7b-sbora-fb-r64-s0",
    "arithmetic-rehearsal-llama3-8b-dora-r32-s0",
    "arithmetic-rehearsal-llama3-8b-sbora-fa-r64-s0",
    "mmlu-alpaca-rehearsal-llama-13b-qlora-r64-s0",
    "mmlu-alpaca-rehearsal-llama-13b-qdora-r64-s0",
    "mmlu-flanv2-rehearsal-llama3-8b-qsbora-fa-r64-s0",
    "mmlu-flanv2-rehearsal-llama3-8b-qsbora-fb-r64-s0",
]


@pytest.fixture
def plans(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_plan("paper"), load_plan("rehearsal")


def unlike(one: dict, two: dict) -> set[str]:
    return {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}


def plain(name: str) -> str:
    return name.replace(MARK, "")


def test_the_rehearsal_has_the_papers_runs_of_one_seed(plans):
    paper, rehearsal = plans
    assert [plain(run.name) for run in rehearsal.runs] == [run.name for run in paper.runs if run.seed in (None, 0)]


def test_tables_and_protocols_differ_by_the_overlay_alone(plans):
    paper, rehearsal = plans
    assert rehearsal.catalog.protocols["rehearsal"].extends == "official"
    for name, entry in paper.experiment.tables.items():
        one, two = entry.model_dump(), rehearsal.experiment.tables[name].model_dump()
        assert unlike(one, two) <= ENTRY and plain(two["train"]) == one["train"]
        one, two = paper.protocol(name).model_dump(), rehearsal.protocol(name).model_dump()
        assert unlike(one, two) == PROTOCOL[entry.suite] | {"title"}


def test_models_are_the_papers_but_for_their_size(plans):
    paper, rehearsal = plans
    for name in dict.fromkeys(run.model for run in rehearsal.runs):
        tiny, real = rehearsal.catalog.models[name], paper.catalog.models[plain(name)]
        assert unlike(real.architecture, tiny.architecture) <= SIZES and tiny.title == f"{real.title} (tiny, random)"
        heads = [
            (of.architecture["num_attention_heads"], of.architecture["num_key_value_heads"]) for of in (tiny, real)
        ]
        assert len({queries > keys for queries, keys in heads}) == 1  # grouped queries where the real one has them
        widths = [tiny.architecture[key] % 64 for key in ("hidden_size", "intermediate_size")]
        assert widths == [0, 0]  # what 4-bit kernels of a CPU take


def test_data_are_stand_ins_of_the_papers_and_methods_and_tasks_the_same(plans):
    paper, rehearsal = plans
    for table in paper.experiment.tables:
        names = {paper.experiment.tables[table].train: rehearsal.experiment.tables[table].train}
        names |= dict(zip(paper.items(table).values(), rehearsal.items(table).values(), strict=True))
        for real, made in names.items():
            assert made == MARK + real and rehearsal.catalog.data[made].stand_in
            one, two = paper.catalog.data[real].model_dump(), rehearsal.catalog.data[made].model_dump()
            assert unlike(one, two) <= DATA and paper.catalog.data[real].stand_in is None
    for run in rehearsal.runs:
        one, two = run_settings(paper, paper.run(plain(run.name))), run_settings(rehearsal, run)
        assert all(one[key] == two[key] for key in ("method_entry", "tasks", "suite", "rank", "seed"))


def test_the_tables_are_the_papers_and_say_that_they_mean_nothing(plans):
    paper, rehearsal = map(layouts, plans)
    assert [layout.name for layout in rehearsal] == ["commonsense", "arithmetic", "mmlu"]
    for one, two in zip(paper, rehearsal, strict=True):
        assert two.title == f"{one.title} (rehearsal on random weights, the numbers mean nothing)"
        assert (one.columns, one.name) == (two.columns, two.name)
        assert [(plain(row.model), row.method, row.rank) for row in two.rows] == [
            (row.model, row.method, row.rank) for row in one.rows
        ]


@pytest.mark.slow
def test_a_slice_runs_each_method_once(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = load_plan("rehearsal")
    runs = [plan.run(name) for name in SLICE]
    assert sorted(run.method for run in runs) == sorted({run.method for run in plan.runs} - {"base"})
    resources, results = tmp_path / "resources", tmp_path / "results" / "rehearsal"
    for table in plan.experiment.tables:
        prepare.prepare_table(plan, table, results / "data" / table)
    for model in dict.fromkeys(run.model for run in runs):
        prepare.prepare_model(plan.catalog, model, resources / "models" / model)
    finetune.finetune(plan, runs, resources, results)
    evaluate.evaluate(plan, runs, resources, results)
    updates = {"commonsense": 4, "arithmetic": 12, "mmlu-alpaca": 2, "mmlu-flanv2": 2}
    for run in runs:
        folder = results / "runs" / run.name
        trained, scored = read_json(folder / "train.json"), read_json(folder / "scores.json")
        assert trained["happened"]["steps"] == updates[run.table] and trained["happened"]["trainable_parameters"] > 0
        assert scored["status"] == "ok" and set(scored["tasks"]) == set(plan.tasks(run.table))
        assert all(0 <= task["value"] <= 1 and task["n"] >= 6 for task in scored["tasks"].values())
        names = [path.name for path in (folder / "adapter").iterdir()]
        assert sorted(names) == ["adapter_config.json", "adapter_model.safetensors", "logits.safetensors"]


def test_the_rehearsal_of_pefts_comparison_has_its_protocol_and_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole, plan = load_plan("peft-metamath"), load_plan("peft-metamath-rehearsal")
    fields = [of.protocol("metamath").model_dump(exclude={"title"}) for of in (whole, plan)]
    assert unlike(*fields) == {"length_buckets", "warmup_steps", "steps", "max_new_tokens"}
    (table,) = plan.experiment.tables
    run = plan.run("metamath-rehearsal-llama3-8b-sbora-fb-r32-s0")
    resources, results = tmp_path / "resources", tmp_path / "results" / plan.name
    prepare.prepare_table(plan, table, results / "data" / table)
    prepare.prepare_model(plan.catalog, run.model, resources / "models" / run.model)
    finetune.finetune(plan, [run], resources, results)
    evaluate.evaluate(plan, [run], resources, results)
    trained, scored = (read_json(results / "runs" / run.name / name) for name in ("train.json", "scores.json"))
    assert (trained["happened"]["steps"], trained["happened"]["examples"]) == (8, 32)
    assert scored["status"] == "ok" and scored["tasks"]["gsm8k-stated"]["n"] == 6
