"""Seeds in looks and picked rates: which runs are asked for, and that stopping on the way changes no verdict."""

from pathlib import Path

import pytest

from sbora_bench.analysis.collect import collect, score_rows
from sbora_bench.analysis.look import look
from sbora_bench.analysis.pick import pick
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.load import load_plan
from sbora_bench.plan.settings import run_settings, training_hash
from sbora_bench.report.outputs import published_files
from sbora_bench.report.publish import publish
from sbora_bench.report.views.rate_table import rate_table
from sbora_bench.results.failures import failed_runs
from sbora_bench.results.folders import look_file, rates_file, run_folder
from sbora_bench.results.read import Results
from sbora_bench.results.records import ScoresRecord, read_record
from sbora_bench.results.stages import look_at, picked_rates, settled, so_far, with_rates
from tests.factories import made_results

TABLE = "arithmetic"
ITEMS = 40
RIGHT = {"lora": 10, "dora": 10, "sbora-fa": 30}  # of 40; DoRA differs from LoRA by chance alone
PLANNED = [
    {"a": "sbora-fa-r32", "b": "lora-r32", "equal": "rank", "margin": 0.001},
    {"a": "dora-r32", "b": "lora-r32", "equal": "rank", "margin": 0.001},
]
PICKED = {"pick": [0.001, 0.002, 0.004], "seeds": [100, 101]}


@pytest.fixture
def written(monkeypatch):
    monkeypatch.setattr(made_results, "samples", made_results.own_items(RIGHT, [-3, -1, 0, 1, 3]))
    made = made_results.experiment()
    grids = [{"models": ["llama-7b"], "methods": ["lora", "dora", "sbora-fa"], "ranks": [32]}]
    table = made["tables"][TABLE] | {"grids": grids, "seeds": {"looks": [4, 6, 8], "from": 0}, "comparisons": PLANNED}
    return made | {"tables": {TABLE: table}}


def run_what_is_asked(plan: Plan, results: Path, failed: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> None:
    known = so_far(plan, results)
    for run in known.runs:
        if not (run_folder(results, run) / "scores.json").is_file():
            reason = "out of memory" if run.name in failed else ""
            made_results.make_run(known, results, run, failed=reason, missing=missing)


def until(plan: Plan, results: Path, looks: int, **how) -> list[dict[str, int]]:
    """Take so many looks; how many seeds of each method were run at each."""
    seeds: list[dict[str, int]] = []
    for number in range(1, looks + 1):
        run_what_is_asked(plan, results, **how)
        runs = [run for run in so_far(plan, results).runs if not run.is_base]
        seeds.append({method: sum(run.method == method for run in runs) for method in RIGHT})
        look(plan, TABLE, number, results)
    return seeds


def test_cells_that_no_undecided_comparison_needs_stop(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    assert until(plan, results, 3) == [
        {"lora": 4, "dora": 4, "sbora-fa": 4},
        {"lora": 6, "dora": 6, "sbora-fa": 4},
        {"lora": 8, "dora": 8, "sbora-fa": 4},
    ]
    first, last = (look_at(plan, results, TABLE, number) for number in (1, 3))
    cell = "arithmetic-llama-7b-"
    assert first.more == [f"{cell}dora-r32", f"{cell}lora-r32"] and last.more == []
    assert first.alpha == 0.025 and [one.verdict for one in last.comparisons] == ["better", "undecided"]
    shown, other = last.comparisons
    assert (shown.seeds, other.seeds) == (4, 8) and shown == first.comparisons[0]
    assert 0 < shown.low < shown.difference < shown.high and other.low < 0 < other.high
    assert {run.seed for run in so_far(plan, results).runs if run.method == "sbora-fa"} == {0, 1, 2, 3}


def test_stopped_and_gone_on_the_looks_are_the_same(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    until(plan, results, 3)
    whole = [look_file(results, TABLE, number).read_bytes() for number in (1, 2, 3)]
    for lost in (3, 2, 1):
        look_file(results, TABLE, lost).unlink()
        for number in range(lost, 4):
            look(plan, TABLE, number, results)
        assert [look_file(results, TABLE, number).read_bytes() for number in (1, 2, 3)] == whole
    look(load_plan(plan.path), TABLE, 1, results)  # once more, with later looks there
    assert [look_file(results, TABLE, number).read_bytes() for number in (1, 2, 3)] == whole


def test_a_look_before_its_time_leaves_nothing(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    with pytest.raises(UserError, match="no scores of MultiArith; score it first"):
        look(plan, TABLE, 1, results)
    run_what_is_asked(plan, results)
    with pytest.raises(
        UserError, match=r"arithmetic-1\.json: no such look of this plan; make it with: sbora-bench look"
    ):
        look(plan, TABLE, 2, results)
    with pytest.raises(UserError, match="found look 4, allowed 1 to 3"):
        look(plan, TABLE, 4, results)
    assert not (results / "looks").exists()


def test_seeds_that_failed_are_counted(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    until(plan, results, 2, failed=("arithmetic-llama-7b-sbora-fa-r32-s1", "arithmetic-llama-7b-lora-r32-s2"))
    shown, _ = look_at(plan, results, TABLE, 1).comparisons
    assert (shown.seeds, shown.failed, shown.verdict) == (2, 2, "undecided")  # two seeds decide nothing
    shown, _ = look_at(plan, results, TABLE, 2).comparisons
    assert (shown.seeds, shown.failed, shown.verdict) == (4, 2, "better")


def test_looks_of_other_comparisons_are_not_those_of_this_plan(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path / "one", written), tmp_path / "results"
    until(plan, results, 1)
    written["tables"][TABLE]["comparisons"] = PLANNED[:1]
    other = made_results.make_plan(tmp_path / "two", written)
    assert look_at(plan, results, TABLE, 1) and look_at(other, results, TABLE, 1) is None
    assert dict.fromkeys(RIGHT, 4) == {
        method: sum(run.method == method for run in so_far(other, results).runs) for method in RIGHT
    }


def test_a_rate_is_picked_before_the_seeds_are_run(tmp_path, written):
    written["tables"][TABLE]["learning_rates"] = PICKED
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    picking = plan.picking_runs(TABLE)
    assert len(picking) == 3 * 3 * 2 and {run.seed for run in picking} == {100, 101}
    assert plan.run("arithmetic-llama-7b-dora-r32-lr4e-3-s101") in picking
    assert [run for run in so_far(plan, results).runs if not run.is_base] == []
    with pytest.raises(UserError, match="lora-r32-lr1e-3-s100: no scores of held-out rows"):
        pick(plan, TABLE, results)
    assert not rates_file(results, TABLE).exists()
    best = {"lora": 0.001, "dora": 0.002, "sbora-fa": 0.004}
    for run in picking:
        right = 12 if run.learning_rate == best[run.method] else 8
        made_results.make_held_out(plan, results, run, -1 if run.name.endswith("dora-r32-lr4e-3-s101") else right)
    pick(plan, TABLE, results)
    cells = picked_rates(plan, results, TABLE).cells
    assert {name.split("-", 3)[3].rsplit("-", 1)[0]: rate.learning_rate for name, rate in cells.items()} == best
    assert [(rate.edge, rate.failed) for rate in cells.values()] == [("", 1), ("lowest", 0), ("highest", 0)]
    assert cells["arithmetic-llama-7b-dora-r32"].means == {"1e-3": 0.4, "2e-3": 0.6, "4e-3": 0.2}
    tuned = [run for run in so_far(plan, results).runs if not run.is_base]
    known = so_far(plan, results)
    assert {(run.method, known.rate_of(run), run.seed) for run in tuned} == {
        (method, rate, seed) for method, rate in best.items() for seed in range(4)
    }
    of_name = next(run for run in tuned if run.name == "arithmetic-llama-7b-dora-r32-s0")  # whatever its rate
    assert (
        run_settings(known, of_name)["protocol"]["learning_rate"] == 0.002 == known.protocol_of(of_name).learning_rate
    )
    with pytest.raises(
        UserError, match=r"dora-r32-s0: its learning rate isn't picked yet; pick it with: sbora-bench pick"
    ):
        training_hash(plan, of_name)
    other = known.decided({of_name.cell: 0.004})
    assert other.run(of_name.name) == of_name, "the same name and files"
    assert training_hash(other, of_name) != training_hash(known, of_name), "and not the same training"
    assert set(settled(plan)) == {plan.runs[0], *picking} and set(settled(with_rates(plan, results))) == set(
        plan.all_runs
    )
    assert list(failed_runs(so_far(plan, results), results)) == ["arithmetic-llama-7b-dora-r32-lr4e-3-s101"]
    until(plan, results, 1)
    assert look_at(plan, results, TABLE, 1).comparisons[0].verdict == "better"
    rows = score_rows(Results(so_far(plan, results), results))
    assert {(row["method"], row["learning_rate"]) for row in rows} == {("base", None), *best.items()}
    shown = rate_table(Results(so_far(plan, results), results), TABLE)
    assert shown.header[-1] == "Picked" and [row[-1].below for row in shown.groups[0]] == [
        ("the lowest tried",),
        (),
        ("the highest tried",),
    ]


def test_what_is_published_says_what_was_decided(tmp_path, written, monkeypatch):
    monkeypatch.setattr("sbora_bench.report.publish.page", lambda *_, **__: "drawn")
    written["tables"][TABLE]["learning_rates"] = PICKED
    plan, results, published = made_results.make_plan(tmp_path, written), tmp_path / "results", tmp_path / "published"
    for name in published_files(plan):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("drawn")
    with pytest.raises(UserError, match=r"rates/arithmetic\.json: no such file; run the experiment to its end"):
        publish(plan, results, published)
    for run in plan.picking_runs(TABLE):
        made_results.make_held_out(plan, results, run, 8)
    pick(plan, TABLE, results)
    until(plan, results, 2)
    (published / "looks").mkdir(parents=True)
    (published / "looks" / "arithmetic-3.json").write_text("of an earlier run, which took more looks")
    run_what_is_asked(plan, results)
    made_results.make_run(plan, results, plan.runs[0])
    collect(so_far(plan, results), results)
    publish(plan, results, published)
    assert sorted(path.name for path in (published / "looks").iterdir()) == ["arithmetic-1.json", "arithmetic-2.json"]
    here, there = so_far(plan, results), so_far(plan, published)
    assert there.runs == here.runs and there.rates == here.rates and len(set(here.numbers.values())) == 2


def test_seeds_that_pick_are_not_shown(tmp_path, written):
    written["tables"][TABLE]["learning_rates"] = PICKED | {"seeds": [3]}
    with pytest.raises(UserError, match=r"learning_rates\.seeds: found 3, which the table's own runs have"):
        made_results.make_plan(tmp_path, written)


def test_a_record_that_was_edited_is_refused(tmp_path, written):
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    until(plan, results, 1)
    path = look_file(results, TABLE, 1)
    path.write_text(path.read_text().replace('"undecided"', '"equivalent"'))
    with pytest.raises(UserError, match="record_sha256: differs from the contents"):
        so_far(plan, results)
    assert read_record(run_folder(results, plan.runs[1]) / "scores.json", ScoresRecord)


@pytest.mark.parametrize("failed", [(), ("arithmetic-llama-7b-lora-r32-s2",)])
def test_a_task_whose_file_is_not_at_hand_is_left_out(tmp_path, written, failed):
    written["tables"][TABLE]["missing"] = "skip"
    plan, results = made_results.make_plan(tmp_path, written), tmp_path / "results"
    until(plan, results, 1, missing=("gsm8k",), failed=failed)
    first = look_at(plan, results, TABLE, 1)
    assert [one.seeds for one in first.comparisons] == [4 - len(failed)] * 2
    assert all(one.failed == len(failed) and one.difference is not None for one in first.comparisons)
