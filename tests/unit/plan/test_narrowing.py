"""A part of an experiment: what is left of it, under which name, and what is refused."""

import pytest

from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.narrowing import narrowed, words
from sbora_bench.plan.settings import data_settings, settings_hash
from sbora_bench.plan.table import Experiment
from tests.factories.shipped import ROOT
from tests.factories.workplace import EXPERIMENT, edited, workplace  # noqa: F401

GRIDS = [
    {"models": ["ladder-xs"], "methods": ["lora", "sbora-fa"], "ranks": [4, 8]},
    {"models": ["ladder-s"], "methods": ["dora"], "ranks": [4]},
]


@pytest.fixture
def plan(monkeypatch) -> Plan:
    monkeypatch.chdir(ROOT)
    sums = EXPERIMENT["tables"]["sums"] | {"grids": GRIDS, "limit": {"SVAMP": 3}}
    more = sums | {"suite": "mmlu", "train": "ladder-instruct", "seeds": [1], "limit": {}, "grids": GRIDS[1:]}
    tables = {"sums": sums, "letters": more}
    return Plan("small", Experiment.model_validate(EXPERIMENT | {"tables": tables}), load_catalog(), "small.yaml")


def names(plan: Plan) -> list[str]:
    return [run.name for run in plan.runs]


def test_nothing_asked_is_the_whole(plan):
    assert narrowed(plan) is plan


def test_several_keys_leave_what_has_all_of_them_and_the_bases(plan):
    part = narrowed(plan, "table=sums,method=sbora-fa,dora,rank=4", seeds="1")
    assert names(part) == [
        "sums-ladder-xs-base",
        "sums-ladder-s-base",
        "sums-ladder-xs-sbora-fa-r4-s1",
        "sums-ladder-s-dora-r4-s1",
    ]
    assert part.name == "small_table-sums_method-sbora-fa+dora_rank-4_seed-1"
    assert set(names(part)) < set(names(plan)) and "only table=sums" in part.experiment.title


def test_a_key_leaves_out_the_tables_that_have_none_of_it(plan):
    assert list(narrowed(plan, "seed=0").experiment.tables) == ["sums"]
    assert list(narrowed(plan, "method=dora").experiment.tables) == ["sums", "letters"]
    assert "sums-ladder-xs-base" not in names(narrowed(plan, "model=ladder-s"))


def test_the_order_of_values_does_not_matter(plan):
    one, other = narrowed(plan, "method=dora,lora,seed=1,0"), narrowed(plan, "seed=0", seeds="1,0,1")
    again = narrowed(plan, "seed=0,1,method=lora,method=dora")
    assert (one.name, names(one)) == (again.name, names(again)) and other.name == "small_seed-0+1"


def test_the_words_of_a_part_ask_for_the_same_part(plan):
    assert words(plan) == []
    options = words(plan, "method=dora,lora", "1,0", "05")
    assert options == ["--only", "method=lora,dora,seed=0,1", "--limit", "5"]
    again = narrowed(plan, only=options[1], limit=options[3])
    assert again.name == narrowed(plan, "method=dora,lora", "1,0", "05").name


def test_a_limit_holds_for_every_task_and_never_adds_items(plan):
    part = narrowed(plan, limit="5")
    assert part.experiment.tables["sums"].limit == {
        "MultiArith": 5,
        "gsm8k": 5,
        "AddSub": 5,
        "AQuA": 5,
        "SingleEq": 5,
        "SVAMP": 3,
    }
    assert part.name == "small_limit-5" and names(part) == names(plan)
    assert data_settings(part, "sums") != data_settings(plan, "sums")


def test_no_record_of_a_part_passes_for_one_of_the_whole(plan):
    run = plan.runs[1]
    assert settings_hash(narrowed(plan, limit="5"), run) != settings_hash(plan, run)


def test_a_long_name_is_cut_to_a_hash(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = load_plan("paper")
    every = narrowed(
        plan, "method=lora,dora,sbora-fa,sbora-fb,qlora,qdora,qsbora-fa,model=llama-7b,llama3-8b,llama-13b"
    )
    assert len(every.name) < 40 and every.name.startswith("paper_")


WRONG = {
    "an unknown key": (("methd=lora",), ["unknown key 'methd'", "did you mean 'method'"]),
    "a value alone": (("lora",), ["unknown key ''", "table=arithmetic,method=lora,dora"]),
    "an unknown value": (("method=lroa",), ["unknown method 'lroa'", "did you mean 'lora'"]),
    "a method that this experiment has not": (("method=qlora",), ["unknown method 'qlora'", "small.yaml"]),
    "an empty value": (("table=",), ["unknown table ''"]),
    "an unknown rank": (("rank=16",), ["unknown rank '16'", "4, 8"]),
    "an unknown seed": (("", "7"), ["unknown seed '7'", "0, 1"]),
    "a limit of nothing": (("", "", "0"), ["limit", "found '0'", "at least 1"]),
    "a limit that is no number": (("", "", "8.5"), ["limit", "found '8.5'"]),
    "nothing left": (("table=letters,method=lora",), ["no run is left", "table=letters, method=lora"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(plan, case):
    arguments, parts = WRONG[case]
    with pytest.raises(UserError) as error:
        narrowed(plan, *arguments)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    "command", ["prepare", "run", "finetune", "evaluate", "footprint", "collect", "tables", "figures"]
)
def test_every_command_takes_the_part(workplace, command):  # noqa: F811
    workplace.experiment()
    more = {"prepare": ["--table", "sums", "--output", "o"], "footprint": ["--table", "sums"]}
    runs = dict.fromkeys(("run", "finetune", "evaluate"), ["sums-ladder-xs-lora-r4-s0"])
    words = [*more.get(command, []), *runs.get(command, [])]
    assert "unknown method" in workplace.refused(command, "-e", "small", "--only", "method=dora", *words)
    if command in runs:
        assert "unknown run" in workplace.refused(command, "-e", "small", "--seeds", "1", *words)


def test_plan_prints_the_part(workplace):  # noqa: F811
    workplace.experiment()
    status, out, _ = workplace.run("plan", "small", "--only", "method=lora", "--seeds", "1")
    assert status == 0 and "lora-r4-s{1}" in out and "sbora-fa" not in out
    assert out.endswith("2 runs in 1 table; results/small_method-lora_seed-1/\n")
