"""The experiment file: the runs it stands for; each mistake in it is named in one line before anything runs."""

import pytest

from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.layer_widths import layer_widths, narrowest
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.protocol import SCORING, Protocol
from sbora_bench.plan.settings import data_settings, run_settings, settings_hash, training_hash
from tests.factories.workplace import COMPARISON, EXPERIMENT, GRID, REMOVED, TABLE, compare, edited, plan_of, workplace  # noqa: F401


def test_runs_are_bases_first_then_cells_by_seed():
    names = [run.name for run in plan_of().runs]
    assert names == [
        "sums-ladder-xs-base",
        "sums-ladder-xs-lora-r4-s0",
        "sums-ladder-xs-lora-r4-s1",
        "sums-ladder-xs-sbora-fa-r4-s0",
        "sums-ladder-xs-sbora-fa-r4-s1",
    ]


def test_a_union_of_grids_has_one_base_a_model():
    more = {"models": ["ladder-xs"], "methods": ["dora"], "ranks": [2, 8]}
    plan = plan_of(((*TABLE, "grids"), [EXPERIMENT["tables"]["sums"]["grids"][0], more]))
    assert [cell.name for cell in plan.tuned_cells("sums")] == [
        "sums-ladder-xs-lora-r4",
        "sums-ladder-xs-sbora-fa-r4",
        "sums-ladder-xs-dora-r2",
        "sums-ladder-xs-dora-r8",
    ]
    assert [run.name for run in plan.runs if run.is_base] == ["sums-ladder-xs-base"]
    assert plan.run("sums-ladder-xs-dora-r8-s1").rank == 8
    with pytest.raises(UserError, match=r"unknown run 'sums-ladder-xs-dora-r9-s1', did you mean"):
        plan.run("sums-ladder-xs-dora-r9-s1")


@pytest.mark.parametrize(
    ("folder", "task"), [("me/set", {}), ("openai/gsm8k", {"suite": "own"}), ("Rowan/hellaswag", {"suite": "own"})]
)
def test_a_copy_of_a_hub_s_set_below_the_data_root_is_noticed_where_there_is_one(workplace, folder, task):  # noqa: F811
    tasks = [{"lm_eval": "gsm8k"}, {"lm_eval": "hellaswag"}]
    workplace.catalog(
        data={"set": {"kind": "hub", "id": "me/set", "revision": "main"}},
        suites={"own": {"title": "Own", "tasks": tasks}},
    )
    name = workplace.experiment(((*TABLE, "train"), "set"), *(((*TABLE, key), value) for key, value in task.items()))
    load_catalog.cache_clear()
    plan = load_plan(name)
    without = data_settings(plan, "sums")
    workplace.monkeypatch.setenv("SBORA_DATA_ROOT", str(workplace.folder / "root"))
    assert data_settings(plan, "sums") == without and "own_data" not in without
    path = workplace.folder / "root" / folder / "train.jsonl"
    path.parent.mkdir(parents=True)
    seen = []
    for text in ("a", "b", "a"):
        path.write_text(text)
        seen.append(data_settings(plan, "sums"))
    assert seen[0] == seen[2] != seen[1] and len(seen[0]["own_data"]) == 1


def test_settings_follow_what_the_run_was_asked_for():
    first, again = plan_of(), plan_of()
    slower = plan_of(((*TABLE, "overrides"), {"learning_rate": 1e-4}))
    hashes = [settings_hash(plan, plan.runs[1]) for plan in (first, again, slower)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert settings_hash(first, first.runs[1]) != settings_hash(first, first.runs[2])
    settings = run_settings(slower, slower.runs[1])
    assert (
        settings["protocol"]["learning_rate"] == 1e-4 and settings["seed"] == 0 and settings["train"] == "ladder-math"
    )
    assert run_settings(first, first.runs[0])["method_entry"] is None


def test_another_way_of_scoring_does_not_train_anew():
    first = plan_of()
    for change, trains in (({"num_beams": 2, "merge": True}, False), ({"learning_rate": 1e-4}, True)):
        other = plan_of(((*TABLE, "overrides"), change))
        run = other.runs[1]
        assert settings_hash(other, run) != settings_hash(first, run)
        assert (training_hash(other, run) != training_hash(first, run)) == trains
    assert Protocol.model_fields.keys() >= SCORING


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}, 64),
        ({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1}, 16),
        ({"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4}, 32),
        ({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}, 16),
        ({}, 0),
    ],
)
def test_the_narrowest_layer(architecture, width):
    assert narrowest(architecture, list(layer_widths(architecture)))[1] == width


def test_a_rank_is_held_against_the_layers_that_are_tuned():
    architecture = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 128}
    assert narrowest(architecture, ["q_proj", "up_proj"]) == ("q_proj", 64)
    assert narrowest(architecture, ["q_proj", "self_attn.v_proj"]) == ("v_proj", 16)
    assert narrowest(architecture, ["c_attn"]) == narrowest(architecture, "all-linear") == ("", 0)


def look_at(looks: list[int]) -> tuple:
    return (*TABLE, "seeds"), {"looks": looks, "from": 0}


def pick(rates: list[float], seeds: tuple = (100,), **more) -> tuple:
    return (*TABLE, "learning_rates"), {"pick": rates, "seeds": list(seeds)} | more


# (path of keys, value) and what the line must name: key, what was found, what is allowed
SPOILED = {
    "a comparison with a key too many": (compare(ranks=4), ["tables.sums.comparisons.0.ranks", "unknown key 'ranks'"]),
    "a comparison of a cell that isn't there": (
        compare(a="sbora-fa-r8"),
        ["tables.sums.comparisons.0.a", "unknown cell of this table 'sbora-fa-r8'", "did you mean 'sbora-fa-r4'"],
    ),
    "a comparison without a rank": (compare(b="lora"), ["tables.sums.comparisons.0.b", "pattern", "found 'lora'"]),
    "a comparison of a cell with itself": (compare(a="lora-r4"), ["comparisons.0", "both lora-r4"]),
    "a comparison at nothing equal": (compare(equal=REMOVED), ["tables.sums.comparisons.0.equal", "required"]),
    "a comparison at another thing equal": (compare(equal="size"), ["comparisons.0.equal", "'rank'", "found 'size'"]),
    "a comparison without a margin": (compare(margin=REMOVED), ["tables.sums.comparisons.0.margin", "required"]),
    "a margin of nothing": (compare(margin=0), ["tables.sums.comparisons.0.margin", "greater than 0", "found 0"]),
    "a margin below nothing": (compare(margin=-0.1), ["comparisons.0.margin", "greater than 0", "found -0.1"]),
    "a margin as wide as the metric": (compare(margin=2), ["comparisons.0.margin: found 2, allowed below 1", "0.02"]),
    "an unknown metric": (compare(metric="gold_los"), ["comparisons.0.metric", "did you mean 'gold_loss'"]),
    "a comparison on a model that isn't there": (compare(models=["ladder-s"]), ["comparisons.0.models", "ladder-xs"]),
    "looks before four seeds": (look_at([3, 6]), ["tables.sums.seeds", "looks.0", "or equal to 4, found 3"]),
    "looks that do not ascend": (look_at([6, 4]), ["tables.sums.seeds", "looks", "ascending", "found [6, 4]"]),
    "a look twice": (look_at([4, 4]), ["tables.sums.seeds", "looks", "ascending"]),
    "looks beyond the last seed": (
        ((*TABLE, "seeds"), {"looks": [4], "from": 2**31 - 3}),
        ["tables.sums.seeds", "the last seed would be 2147483648"],
    ),
    "no looks": (look_at([]), ["tables.sums.seeds", "looks", "at least 1"]),
    "looks with an unknown key": (
        ((*TABLE, "seeds"), {"looks": [4], "form": 1}),
        ["tables.sums.seeds", "unknown key 'form', did you mean 'from'"],
    ),
    "looks without comparisons": (look_at([4, 6]), ["tables.sums.seeds", "plan comparisons"]),
    "a rate to pick alone": (pick([1e-3]), ["tables.sums.learning_rates", "pick", "at least 2"]),
    "a rate to pick twice": (pick([1e-3, 1e-3]), ["tables.sums.learning_rates", "stands twice"]),
    "no seeds to pick with": (pick([1e-3, 1e-2], []), ["tables.sums.learning_rates", "seeds", "at least 1"]),
    "a grid extended by less than nothing": (
        pick([1e-3, 1e-2], extend=-1),
        ["tables.sums.learning_rates", "extend", "or equal to 0, found -1"],
    ),
    "a grid extended by a half": (pick([1e-3, 1e-2], extend=1.5), ["learning_rates", "extend", "integer", "found 1.5"]),
    "a single rate extended": (pick([1e-3], extend=1), ["tables.sums.learning_rates", "pick", "at least 2"]),
    "a grid extended without seeds to pick with": (
        ((*TABLE, "learning_rates"), {"pick": [1e-3, 1e-2], "extend": 1}),
        ["tables.sums.learning_rates", "seeds", "required"],
    ),
    "a grid extended that has no ratio": (
        pick([1e-3, 1.0001e-3, 1e-2], extend=1),
        ["tables.sums.learning_rates", "extend", "the two lowest rates are so near"],
    ),
    "a seed that picks and is shown": (pick([1e-3, 1e-2], [1]), ["learning_rates.seeds", "found 1"]),
    "a comparison twice": (
        ((*TABLE, "comparisons"), [COMPARISON, COMPARISON | {"a": "lora-r4", "b": "sbora-fa-r4"}]),
        ["tables.sums.comparisons.1", "lora-r4 and sbora-fa-r4 are compared twice"],
    ),
    "unknown key at the top": ((("titel",), "x"), ["titel", "did you mean 'title'"]),
    "unknown key of a table": (((*TABLE, "seed"), [0]), ["tables.sums.seed", "did you mean 'seeds'"]),
    "unknown key of a grid": (((*GRID, "rank"), [4]), ["tables.sums.grids.0.rank", "did you mean 'ranks'"]),
    "missing title": ((("title",), REMOVED), ["title", "required"]),
    "missing suite": (((*TABLE, "suite"), REMOVED), ["tables.sums.suite", "required"]),
    "no tables": ((("tables",), {}), ["tables", "at least 1"]),
    "tables as a list": ((("tables",), ["sums"]), ["tables", "dictionary"]),
    "no grids": (((*TABLE, "grids"), []), ["tables.sums.grids", "at least 1"]),
    "empty models": (((*GRID, "models"), []), ["tables.sums.grids.0.models", "at least 1"]),
    "empty methods": (((*GRID, "methods"), []), ["tables.sums.grids.0.methods", "at least 1"]),
    "empty ranks": (((*GRID, "ranks"), []), ["tables.sums.grids.0.ranks", "at least 1"]),
    "empty seeds": (((*TABLE, "seeds"), []), ["tables.sums.seeds", "at least 1"]),
    "a method as a number": (((*GRID, "methods"), [7]), ["tables.sums.grids.0.methods.0", "found 7"]),
    "a method alone": (((*GRID, "methods"), "lora"), ["tables.sums.grids.0.methods", "list", "found 'lora'"]),
    "unknown model": (((*GRID, "models"), ["lama-7b"]), ["tables.sums.grids.0.models", "did you mean 'llama-7b'"]),
    "unknown method": (((*GRID, "methods"), ["lroa"]), ["tables.sums.grids.0.methods", "did you mean 'lora'"]),
    "base as a method": (((*GRID, "methods"), ["base"]), ["tables.sums.grids.0.methods", "unknown method 'base'"]),
    "unknown suite": (((*TABLE, "suite"), "arithmetics"), ["tables.sums.suite", "did you mean 'arithmetic'"]),
    "unknown training set": (((*TABLE, "train"), "maths"), ["tables.sums.train", "'maths'", "ladder-math"]),
    "unknown protocol": (((*TABLE, "protocol"), "tinny"), ["tables.sums.protocol", "did you mean 'tiny'"]),
    "unknown items": ((("items",), "ladders"), ["tables.sums.items", "did you mean 'ladder'"]),
    "unknown task": (((*TABLE, "limit"), {"svamp": 3}), ["tables.sums.limit", "unknown task 'svamp'", "SVAMP"]),
    "limit 0": (((*TABLE, "limit"), {"SVAMP": 0}), ["tables.sums.limit.SVAMP", "greater than or equal to 1"]),
    "unknown override": (((*TABLE, "overrides"), {"lr": 1}), ["tables.sums.protocol", "unknown key 'lr'"]),
    "wrong override": (
        ((*TABLE, "overrides"), {"learning_rate": -1}),
        ["tables.sums.protocol", "learning_rate", "greater than 0", "found -1"],
    ),
    "infinite override": (((*TABLE, "overrides"), {"learning_rate": float("inf")}), ["learning_rate", "finite"]),
    "NaN override": (((*TABLE, "overrides"), {"dropout": float("nan")}), ["dropout", "nan"]),
    "indivisible batch": (((*TABLE, "overrides"), {"batch_size": 9}), ["micro_batch 4 does not divide batch_size 9"]),
    "unknown prompt": (((*TABLE, "overrides"), {"train_prompt": "alpacas"}), ["train_prompt", "did you mean 'alpaca'"]),
    "rank 0": (((*GRID, "ranks"), [0]), ["tables.sums.grids.0.ranks.0", "found 0", "greater than or equal to 1"]),
    "rank -4": (((*GRID, "ranks"), [-4]), ["tables.sums.grids.0.ranks.0", "found -4"]),
    "rank above the width": (((*GRID, "ranks"), [65]), ["tables.sums.grids.0.ranks", "found rank 65", "1 to 64"]),
    "rank as text": (((*GRID, "ranks"), ["four"]), ["tables.sums.grids.0.ranks.0", "found 'four'"]),
    "rank as a fraction": (((*GRID, "ranks"), [4.5]), ["tables.sums.grids.0.ranks.0", "found 4.5"]),
    "rank as a truth value": (((*GRID, "ranks"), [True]), ["tables.sums.grids.0: ranks: found [True]", "numbers"]),
    "a limit as a truth value": (
        ((*TABLE, "limit"), {"SVAMP": True}),
        ["tables.sums: limit: found", "allowed numbers"],
    ),
    "a rate as a truth value": (((*TABLE, "learning_rates"), [True, 0.5]), ["learning_rates: found [True, 0.5]"]),
    "a rate to pick as a truth value": (pick([True, 0.5]), ["tables.sums.learning_rates: pick: found [True, 0.5]"]),
    "an override as a truth value": (
        ((*TABLE, "overrides"), {"steps": True}),
        ["tables.sums.protocol", "steps: found True, allowed numbers; YAML reads yes"],
    ),
    "a seed twice": (((*TABLE, "seeds"), [0, 0]), ["tables.sums.seeds", "a seed stands twice"]),
    "a negative seed": (((*TABLE, "seeds"), [-1]), ["tables.sums.seeds.0", "found -1"]),
    "a seed too large": (((*TABLE, "seeds"), [2**31]), ["tables.sums.seeds.0", "less than"]),
    "a run twice in a grid": (((*GRID, "ranks"), [4, 4]), ["tables.sums.grids", "sums-ladder-xs-lora-r4-s0", "twice"]),
    "a run in two grids": (
        ((*TABLE, "grids"), [EXPERIMENT["tables"]["sums"]["grids"][0], {**EXPERIMENT["tables"]["sums"]["grids"][0]}]),
        ["tables.sums.grids", "sums-ladder-xs-lora-r4-s0 stands twice"],
    ),
    "text for a number": ((("runs_per_job",), "many"), ["runs_per_job", "found 'many'"]),
    "a key that is a number": (((7,), "x"), ["7"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_mistake_is_one_line_that_names_file_and_key(workplace, case):  # noqa: F811
    edit, parts = SPOILED[case]
    path = workplace.experiment(edit)
    message = workplace.refused("plan", "small")
    assert path in message
    for part in parts:
        assert part in message, message


def test_the_unspoiled_experiment_is_good(workplace):  # noqa: F811
    workplace.experiment()
    status, out, err = workplace.run("plan", "small")
    assert (status, err) == (0, "") and "sums-ladder-xs-lora-r4-s{0,1}" in out
    assert out.endswith("5 runs in 1 table; results/small/\n")


NAMES = [
    "..",
    ".",
    "../up",
    "/absolute",
    "a/b",
    "a\nb",
    "--x",
    "-x",
    "a b",
    "$(id)",
    "a;b",
    "`id`",
    "A",
    "",
    "a'b",
    "é",
]


@pytest.mark.parametrize("name", [*NAMES, "a.b", "x" * 49])
def test_a_table_cannot_have_a_name_that_leaves_its_place(workplace, name):  # noqa: F811
    workplace.experiment((("tables",), {name: EXPERIMENT["tables"]["sums"]}))
    message = workplace.refused("plan", "small")
    assert "experiments/small.yaml: tables" in message and "pattern" in message


@pytest.mark.parametrize("name", [*NAMES, "x" * 300])
def test_an_experiment_cannot_have_such_a_name(workplace, name):  # noqa: F811
    assert "experiment" in workplace.refused("plan", "--", name)
    message = workplace.refused("finetune", "--experiment", name, "run")
    assert "experiment" in message


@pytest.mark.parametrize("stem", ["--x", "a b", "$(id)", "a;b", "A", "published", "x" * 60])
def test_nor_a_file_such_a_stem(workplace, stem):  # noqa: F811
    path = workplace.experiment(name=stem)
    assert path in workplace.refused("plan", path)


def test_two_tables_with_the_runs_of_one_name(workplace):  # noqa: F811
    table = EXPERIMENT["tables"]["sums"]
    workplace.catalog(
        models={
            "c": {"title": "C", "source": {"kind": "folder", "path": "c"}},
            "b-c": {"title": "BC", "source": {"kind": "folder", "path": "bc"}},
        }
    )
    first = {**table, "grids": [{"models": ["b-c"], "methods": ["lora"], "ranks": [4]}]}
    second = {**table, "grids": [{"models": ["c"], "methods": ["lora"], "ranks": [4]}]}
    workplace.experiment((("tables",), {"a": first, "a-b": second}))
    assert "tables.a-b.grids: run a-b-c-base stands twice" in workplace.refused("plan", "small")


def test_a_table_named_like_a_results_file(workplace):  # noqa: F811
    workplace.experiment((("tables",), {"separation": EXPERIMENT["tables"]["sums"]}))
    assert "tables.separation" in workplace.refused("plan", "small")


def test_an_unknown_experiment_names_those_there_are(workplace):  # noqa: F811
    workplace.experiment()
    assert "did you mean 'small'" in workplace.refused("plan", "smal")


def test_a_folder_in_the_place_of_the_file(workplace):  # noqa: F811
    (workplace.folder / "experiments" / "x.yaml").mkdir()
    assert "experiments/x.yaml" in workplace.refused("plan", "x")
    assert "experiments/x.yaml: can't be read" in workplace.refused("validate", "experiments/x.yaml")


def test_a_misspelt_key_of_seeds_is_named_before_the_one_that_is_missing(workplace):  # noqa: F811
    file = workplace.experiment((("tables", "sums", "seeds"), {"look": [4]}))
    assert "tables.sums.seeds: look: unknown key 'look', did you mean 'looks'" in workplace.refused("plan", file)


@pytest.mark.parametrize("command", ["collect", "tables", "figures", "cards", "report"])
def test_what_reads_results_says_where_there_are_none(workplace, command):  # noqa: F811
    workplace.experiment()
    line = workplace.refused(command, "-e", "small")
    assert "results/small: no run of small has results yet; make them with: snakemake --cores all --config" in line


def test_every_command_refuses_the_same_way(workplace):  # noqa: F811
    workplace.experiment(((*GRID, "ranks"), [0]))
    for command in (
        ["prepare", "-e", "small", "--table", "sums", "--output", "out"],
        ["finetune", "-e", "small", "run"],
        ["evaluate", "-e", "small", "run"],
        ["collect", "-e", "small"],
        ["tables", "-e", "small"],
        ["validate", "experiments/small.yaml"],
    ):
        assert "experiments/small.yaml: tables.sums.grids.0.ranks.0" in workplace.refused(*command)


def test_load_plan_takes_the_catalog_beside_the_file(tmp_path):
    (tmp_path / "lone.yaml").write_text("title: x\nitems: ladder\ntables: {}\n")
    with pytest.raises(UserError, match="tables: .*at least 1"):
        load_plan(str(tmp_path / "lone.yaml"))
