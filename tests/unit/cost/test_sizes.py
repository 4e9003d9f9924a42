"""A grid at one size: the rank that comes closest, chosen once and kept beside the experiment."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbora_bench.cost.sizes import LARGEST, nearest
from sbora_bench.plan.load import load_plan
from tests.factories import toy_runs
from tests.factories.workplace import workplace  # noqa: F401

GRIDS = ("tables", "sums", "grids")


@given(
    slope=st.integers(1, 40),
    start=st.integers(0, 200),
    step=st.integers(1, 6),
    wanted=st.integers(1, 4000),
    most=st.integers(2, 300),
)
def test_no_rank_is_nearer_than_the_chosen_one(slope, start, step, wanted, most):
    """Counts that grow, ranks that must divide, a largest one: as a search of all of them says."""

    def count(rank):
        return start + slope * rank if rank <= most and (rank % step == 0 or rank == 1) else None

    every = {rank: size for rank in range(1, most + 1) if (size := count(rank)) is not None}
    best = min(abs(size - wanted) for size in every.values())
    assert abs(every[nearest(count, wanted)] - wanted) == best


def test_counts_may_shrink_and_a_method_may_have_none():
    assert nearest(lambda rank: 1024 // rank if 64 % rank == 0 else None, 120) == 8
    assert nearest(lambda rank: None, 10) is None
    assert nearest(lambda rank: 7, 10**9) == 1 < LARGEST


def test_counts_that_fall_from_some_rank_on():
    """LoKr's: the largest stands between two powers of two."""
    lokr = [832, 1024, 1216, 1408, 1504, 1600, 1696, *[1536] * 8]
    for wanted in (500, 1000, 1400, 1650, 9216):
        chosen = nearest(lambda rank: lokr[min(rank, len(lokr)) - 1], wanted)
        assert abs(lokr[chosen - 1] - wanted) == min(abs(size - wanted) for size in lokr)


def test_ranks_are_chosen_once_and_anew_where_an_entry_changes(workplace):  # noqa: F811
    grid = {"models": ["ladder-xs"], "methods": ["lora", "sbora-fa", "ia3"], "at": {"parameters": 2500}}
    file = workplace.experiment((GRIDS, [grid, grid | {"at": {"parameters": 2400}}]))
    assert "run: sbora-bench sizes experiments/small.yaml" in workplace.refused("plan", file)
    status, out, _ = workplace.run("sizes", file)
    assert status == 0 and "6 ranks" in out and " of 2,500 parameters (" in out, out
    rows = json.loads((workplace.folder / "experiments" / "sizes" / "small.json").read_text())
    chosen = {row["method"]: (row["rank"], row["trainable_parameters"]) for row in rows[:3]}
    assert chosen["ia3"][0] == 1 and chosen["sbora-fa"][1] == 2 * chosen["lora"][1] / chosen["lora"][0] * (
        chosen["sbora-fa"][0] / 4
    )
    status, out, _ = workplace.run("plan", file, "--only", "method=ia3,lora")
    assert status == 0 and out.count("-ia3-r1") == 1, "one cell, though two sizes are requested"
    assert workplace.run("validate", file)[0] == 0
    workplace.experiment((GRIDS, [grid]), (("tables", "sums", "overrides"), {"target_modules": ["q_proj"]}))
    assert "with these entries; run: sbora-bench sizes" in workplace.refused("plan", file)


def test_a_rank_is_chosen_anew_where_the_folder_of_a_model_holds_another_config(workplace):  # noqa: F811
    config = workplace.folder / "mine" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_type": "llama", **toy_runs.ARCHITECTURE, "vocab_size": 64}))
    workplace.catalog(models={"mine": {"title": "Mine", "source": {"kind": "folder", "path": "mine"}}})
    file = workplace.experiment((GRIDS, [{"models": ["mine"], "methods": ["lora"], "at": {"parameters": 2500}}]))
    sizes = workplace.folder / "experiments" / "sizes" / "small.json"
    assert workplace.run("sizes", file)[0] == 0
    before = json.loads(sizes.read_text())
    load_plan(file)
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))
    assert "with these entries; run: sbora-bench sizes" in workplace.refused("plan", file)
    assert workplace.run("sizes", file)[0] == 0 and json.loads(sizes.read_text())[0]["rank"] < before[0]["rank"]
    config.unlink()
    load_plan(file)  # a report is made where the model is gone


@pytest.mark.parametrize("at", [{}, {"parameters": 5, "bytes": 5}, {"parameters": 0}])
def test_a_size_is_one_number(workplace, at):  # noqa: F811
    file = workplace.experiment((GRIDS, [{"models": ["ladder-xs"], "methods": ["lora"], "at": at}]))
    assert "tables.sums.grids.0.at" in workplace.refused("plan", file)


def test_virtual_tokens_leave_room_for_the_rows(workplace):  # noqa: F811
    file = workplace.experiment((GRIDS, [{"models": ["ladder-xs"], "methods": ["prompt-tuning"], "ranks": [200]}]))
    assert "allowed 128: the model has 256 positions" in workplace.refused("validate", file)


def test_a_method_of_which_no_rank_works_is_said_and_costs_the_others_nothing(workplace):  # noqa: F811
    grid = {"models": ["ladder-xs"], "methods": ["prompt-tuning", "ia3"], "at": {"parameters": 2500}}
    file = workplace.experiment((GRIDS, [grid]), (("tables", "sums", "overrides"), {"max_length": 256}))
    status, out, err = workplace.run("sizes", file)
    assert (status, out) == (2, "")
    assert "found 1 virtual tokens beside rows of max_length 256, allowed 0" in err
    assert "take prompt-tuning out of that grid" in err
    rows = json.loads((workplace.folder / "experiments" / "sizes" / "small.json").read_text())
    assert [row["method"] for row in rows] == ["ia3"]


def test_an_experiment_that_says_no_size_gets_no_file(workplace):  # noqa: F811
    status, out, _ = workplace.run("sizes", workplace.experiment())
    assert status == 0 and "no grid says a size (at): none is chosen" in out
    assert not (workplace.folder / "experiments" / "sizes").exists()
