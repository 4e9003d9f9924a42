"""Grids of learning rates that are extended: who tries which rate next, up to where, and that stopping on the way
changes nothing.
"""

import math
import os
from pathlib import Path

import pytest

from sbora_bench.analysis.extend import extend, next_rate
from sbora_bench.analysis.pick import pick
from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.narrowing import narrowed
from sbora_bench.plan.runs import Run, rate_text
from sbora_bench.plan.settings import data_settings, settings_hash
from sbora_bench.plan.stages import rates_beyond
from sbora_bench.report.publish import stage_files
from sbora_bench.report.verify import stages_again
from sbora_bench.report.views.rate_table import rate_table
from sbora_bench.results.folders import rates_file, round_file, run_folder
from sbora_bench.results.read import Results
from sbora_bench.results.stages import looks_hash, picked_rates, rates_hash, round_at, rounds_made, so_far, with_grids
from tests.factories import made_results

TABLE = "arithmetic"
CELL = "arithmetic-llama-7b-{}-r32"
PICKED = {"pick": [0.001, 0.002, 0.004], "seeds": [100]}
BEST = {"lora": 0.0001, "dora": 0.002, "sbora-fa": 0.008}  # the nearer a rate, the better; LoRA's lies out of reach


def planned(folder: Path, **extending: int) -> Plan:
    made = made_results.experiment(seeds=(0, 1))
    grids = [{"models": ["llama-7b"], "methods": list(BEST), "ranks": [32]}]
    table = made["tables"][TABLE] | {"grids": grids, "learning_rates": PICKED | extending}
    return made_results.make_plan(folder, made | {"tables": {TABLE: table}})


@pytest.fixture
def plan(tmp_path) -> Plan:
    return planned(tmp_path, extend=2)


def right(run: Run) -> int:
    return round(15 - 3 * abs(math.log2(run.learning_rate / BEST[run.method])))


def try_what_is_asked(plan: Plan, results: Path, score=right) -> list[str]:
    """Score the runs that are asked for by now; the names of those that were not there."""
    runs = with_grids(plan, results).picking_runs(TABLE)
    new = [run for run in runs if not run_folder(results, run).exists()]
    for run in new:
        made_results.make_held_out(plan, results, run, score(run))
    return [run.name for run in new]


def to_the_end(plan: Plan, results: Path, score=right) -> list[dict[str, float]]:
    """What was asked for in each round; then the rates are picked."""
    try_what_is_asked(plan, results, score)
    for number in range(1, plan.experiment.tables[TABLE].rounds + 1):
        extend(plan, TABLE, number, results)
        if not round_at(plan, results, TABLE, number).more:
            break
        try_what_is_asked(plan, results, score)
    pick(plan, TABLE, results)
    return [record.more for record in rounds_made(plan, results, TABLE)]


@pytest.mark.parametrize(
    ("grid", "lowest", "highest"),
    [
        ([0.001, 0.002, 0.004], ["5e-4", "2.5e-4"], ["8e-3", "1.6e-2"]),
        ([0.004, 0.001, 0.002], ["5e-4", "2.5e-4"], ["8e-3", "1.6e-2"]),  # in whatever order they are written
        ([0.0001, 0.0003, 0.001], ["3.33e-5", "1.11e-5"], ["3.33e-3", "1.11e-2"]),
        ([0.1, 0.4], ["2.5e-2", "6.25e-3"], []),  # 1.6 is above 1
        ([0.1, 0.3], ["3.33e-2", "1.11e-2"], ["9e-1"]),
    ],
)
def test_rates_beyond_a_grid_go_on_by_the_ratio_at_that_end(grid, lowest, highest):
    further = {end: [*map(rate_text, rates)] for end, rates in rates_beyond(grid, 2).items()}
    assert further == {"lowest": lowest, "highest": highest}


BEYOND = {"lowest": (0.5, 0.25), "highest": (8.0,)}
LOST = -math.inf


@pytest.mark.parametrize(
    ("scores", "rate"),
    [
        ({1.0: [0.1], 2.0: [0.3], 4.0: [0.2]}, None),
        ({1.0: [0.1], 2.0: [0.2], 4.0: [0.3]}, 8.0),
        ({1.0: [0.3], 2.0: [0.2], 4.0: [0.3]}, 0.5),  # of equals the lowest
        ({1.0: [0.1], 2.0: [0.2], 4.0: [0.3], 8.0: [0.2]}, None),
        ({1.0: [0.1], 2.0: [0.2], 4.0: [0.3], 8.0: [0.4]}, None),  # so many and no more
        ({1.0: [0.3], 2.0: [0.2], 4.0: [0.1], 0.5: [0.4]}, 0.25),
        ({1.0: [0.3, 0.3], 2.0: [0.2, 0.2], 4.0: [0.9, LOST]}, 0.5),  # a rate at which a run failed is not the best
        ({1.0: [LOST], 2.0: [-0.2], 4.0: [LOST]}, None),
        ({1.0: [LOST], 2.0: [LOST], 4.0: [LOST]}, None),  # nothing says in which direction
    ],
)
def test_a_best_rate_at_an_end_asks_for_the_next_beyond_it(scores, rate):
    assert next_rate(scores, BEYOND) == rate


def test_only_cells_that_need_it_pay_and_n_rounds_bound_it(plan, tmp_path):
    results = tmp_path / "results"
    asked = to_the_end(plan, results)
    lora, dora, sbora = (CELL.format(method) for method in BEST)
    assert asked == [{lora: 0.0005, sbora: 0.008}, {lora: 0.00025, sbora: 0.016}]
    cells = picked_rates(plan, results, TABLE).cells
    assert {name: (rate.learning_rate, rate.edge) for name, rate in cells.items()} == {
        lora: (0.00025, "lowest"),  # which ends even the extended grid
        dora: (0.002, ""),
        sbora: (0.008, ""),
    }
    assert {*cells[sbora].means} == {"1e-3", "2e-3", "4e-3", "8e-3", "1.6e-2"}
    known = so_far(plan, results)
    assert len(known.picking_runs(TABLE)) == 5 + 3 + 5 and known.rates == {
        cell: cells[cell.name].learning_rate for cell in plan.tuned_cells(TABLE)
    }
    assert {run.name for run in known.picking_runs(TABLE)} == {path.name for path in (results / "runs").iterdir()}
    assert f"{sbora}-lr1.6e-2-s100" in {run.name for run in known.picking_runs(TABLE)}
    assert stage_files(plan, results)[1:] == ["rounds/arithmetic-1.json", "rounds/arithmetic-2.json"]


def test_a_best_rate_within_the_grid_ends_it_after_one_round(plan, tmp_path):
    results = tmp_path / "results"
    assert to_the_end(plan, results, lambda run: 9 if run.learning_rate == 0.002 else 4) == [{}]
    assert len(so_far(plan, results).picking_runs(TABLE)) == 9
    assert {rate.edge for rate in picked_rates(plan, results, TABLE).cells.values()} == {""}


def test_a_cell_whose_runs_all_failed_asks_for_nothing(plan, tmp_path):
    results = tmp_path / "results"
    asked = to_the_end(plan, results, lambda run: -1 if run.method == "lora" else 5)
    assert [sorted(more) for more in asked] == [[CELL.format("dora"), CELL.format("sbora-fa")]] * 2


def test_stopped_and_gone_on_the_rounds_and_picks_are_the_same(plan, tmp_path):
    results = tmp_path / "results"
    to_the_end(plan, results)
    files = [round_file(results, TABLE, 1), round_file(results, TABLE, 2), rates_file(results, TABLE)]
    whole = [path.read_bytes() for path in files]
    for first_lost in (2, 1, 0):
        for path in files[first_lost:]:
            path.unlink()
        to_the_end(plan, results)
        assert [path.read_bytes() for path in files] == whole
    extend(plan, TABLE, 1, results)  # once more, with a later round there
    assert files[0].read_bytes() == whole[0]
    again = tmp_path / "again"
    again.mkdir()
    os.symlink(results / "runs", again / "runs")
    assert stages_again(so_far(plan, results), results, again) == [str(path.relative_to(results)) for path in files]
    assert [(again / path.relative_to(results)).read_bytes() for path in files] == whole


def test_a_stage_before_its_time_leaves_nothing(plan, tmp_path):
    results = tmp_path / "results"
    with pytest.raises(UserError, match="lora-r32-lr1e-3-s100: no scores of held-out rows; score it first"):
        extend(plan, TABLE, 1, results)
    try_what_is_asked(plan, results)
    with pytest.raises(
        UserError, match=r"arithmetic-1\.json: no such round of this plan; make it with: sbora-bench ext"
    ):
        extend(plan, TABLE, 2, results)
    with pytest.raises(UserError, match="make it with: sbora-bench extend .*--table arithmetic --round 1"):
        pick(plan, TABLE, results)
    with pytest.raises(UserError, match="found round 3, allowed 1 to 2"):
        extend(plan, TABLE, 3, results)
    assert {path.name for path in results.iterdir()} == {"runs"}
    extend(plan, TABLE, 1, results)
    with pytest.raises(UserError, match=r"lr5e-4-s100: no scores of held-out rows"):
        extend(plan, TABLE, 2, results)
    assert [run for run in so_far(plan, results).runs if not run.is_base] == []


def test_rounds_of_another_plan_are_not_those_of_this(plan, tmp_path):
    results = tmp_path / "results"
    to_the_end(plan, results)
    longer = planned(tmp_path / "longer", extend=3)
    assert rounds_made(longer, results, TABLE) == [] and picked_rates(longer, results, TABLE) is None
    assert len(with_grids(longer, results).picking_runs(TABLE)) == 9
    part = narrowed(plan, "method=lora")
    assert part.experiment.tables[TABLE].rounds == 2 and rates_hash(part, TABLE) != rates_hash(plan, TABLE)
    assert len(part.picking_runs(TABLE)) == 3 + 2 + 2


def test_where_runs_say_the_same_by_score_and_by_loss_the_picked_rates_do_not(tmp_path):
    def table(metric: str) -> Plan:
        made, grids = made_results.experiment(), [{"models": ["llama-7b"], "methods": ["lora", "dora"], "ranks": [32]}]
        by_loss = {"a": "lora-r32", "b": "dora-r32", "equal": "rank", "margin": 0.1, "metric": "gold_loss"}
        changes = {"grids": grids, "learning_rates": PICKED, "comparisons": [by_loss], "metric": metric}
        changes |= {"seeds": {"looks": [4, 6]}}
        one = {TABLE: made["tables"][TABLE] | changes}
        return made_results.make_plan(tmp_path / metric, made | {"tables": one})

    score, loss = table("score"), table("gold_loss")
    runs = score.picking_runs(TABLE)
    assert [settings_hash(score, run) for run in runs] == [settings_hash(loss, run) for run in runs]
    assert rates_hash(score, TABLE) != rates_hash(loss, TABLE)
    assert looks_hash(score, TABLE) != looks_hash(loss, TABLE)


def test_without_extend_nothing_is_another(plan, tmp_path):
    """Names and hashes are those of before; with it too, but for the stage that picks and the runs beyond the grid."""
    plain, zero = planned(tmp_path / "plain"), planned(tmp_path / "zero", extend=0)
    assert not plain.experiment.tables[TABLE].staged and not zero.experiment.tables[TABLE].staged
    assert [run.name for run in plain.all_runs] == [run.name for run in zero.all_runs]
    assert rates_hash(plain, TABLE) == rates_hash(zero, TABLE) != rates_hash(plan, TABLE)
    cells = [CELL.format(method) for method in BEST]
    assert rates_hash(plain, TABLE) == hash_of([PICKED["pick"], PICKED["seeds"], cells]), "as kept records have it"
    settled = [run for run in plain.all_runs if run.is_base or run.learning_rate]
    assert [settings_hash(plain, run) for run in settled] == [settings_hash(plan, run) for run in settled]
    assert data_settings(plain, TABLE) == data_settings(plan, TABLE)
    assert so_far(plain, tmp_path / "results").picking_runs(TABLE) == plain.picking_runs(TABLE)
    with pytest.raises(UserError, match="found round 1, allowed none"):
        extend(plain, TABLE, 1, tmp_path / "results")


def test_the_rate_table_is_empty_where_a_cell_did_not_try(plan, tmp_path):
    results = tmp_path / "results"
    to_the_end(plan, results)
    view = rate_table(Results(so_far(plan, results), results), TABLE)
    assert view.header[2:] == ["2.5e-4", "5e-4", "1e-3", "2e-3", "4e-3", "8e-3", "1.6e-2", "Picked"]
    shown = {line[1].text.split()[0]: [bool(text.text) for text in line[2:9]] for line in view.groups[0]}
    assert [sum(tried) for tried in shown.values()] == [5, 3, 5]
    lora, dora, sbora = view.groups[0]
    assert lora[-1].below == ("the lowest tried",) and dora[-1].below == sbora[-1].below == ()
    assert any("Empty: tried by those alone" in note for note in view.notes)
