"""Planned comparisons: the two cells of each model, the metric they are compared on, and what can't be compared."""

import pytest

from sbora_bench.errors import UserError
from sbora_bench.inputs import check_methods
from sbora_bench.inputs.check_methods import method_problems, one_layer_parameters
from sbora_bench.plan.comparison import equal_parameters
from sbora_bench.plan.metric import LOSS, SHARE
from tests.factories.workplace import COMPARISON, TABLE, compare, plan_of, workplace  # noqa: F401

GRIDS = (*TABLE, "grids")
BOTH = [{"models": ["ladder-xs", "ladder-s"], "methods": ["lora", "sbora-fa"], "ranks": [4, 8]}]
BY_PARAMETERS = compare(a="sbora-fa-r8", equal="parameters")


def test_a_comparison_is_of_two_cells_of_each_model_that_has_both():
    grids = [*BOTH, {"models": ["ladder-m"], "methods": ["lora"], "ranks": [4]}]
    first, second = plan_of((GRIDS, grids), compare()).comparisons("sums")
    assert [cell.name for cell in first.cells] == ["sums-ladder-xs-sbora-fa-r4", "sums-ladder-xs-lora-r4"]
    assert (first.metric, first.metric_name, first.margin, first.equal) == (SHARE, "", 0.02, "rank")
    assert second.model == "ladder-s" and second.name == "ladder-s: sbora-fa-r4 - lora-r4"
    (only,) = plan_of((GRIDS, grids), compare(models=["ladder-s"], metric="gold_loss")).comparisons("sums")
    assert only.cells == second.cells and only.metric == LOSS and only.metric_name == "gold_loss"


def test_ranks_that_differ_need_another_reason():
    for equal in ("parameters", "neither"):
        assert len(plan_of((GRIDS, BOTH), compare(a="sbora-fa-r8", equal=equal)).comparisons("sums")) == 2
    with pytest.raises(UserError, match=r"comparisons\.0\.equal: found rank, and sbora-fa-r8 and lora-r4 have two"):
        plan_of((GRIDS, BOTH), compare(a="sbora-fa-r8"))


def test_a_comparison_needs_two_seeds():
    with pytest.raises(UserError, match=r"tables\.sums\.seeds: found one, allowed at least 2 where comparisons"):
        plan_of(((*TABLE, "seeds"), [3]), compare())


def test_no_model_with_both_cells():
    grids = [
        {"models": [m], "methods": [method], "ranks": [4]}
        for m, method in (("ladder-xs", "lora"), ("ladder-s", "sbora-fa"))
    ]
    with pytest.raises(UserError, match="no model of this table has both sbora-fa-r4 and lora-r4"):
        plan_of((GRIDS, grids), compare())


def test_the_larger_number_of_parameters_is_at_most_15_per_cent_above():
    assert (
        equal_parameters(100, 115)
        and equal_parameters(115, 100)
        and not equal_parameters(100, 116)
        and not equal_parameters(116, 100)
    )


def test_equal_parameters_are_counted(tmp_path):
    equal = plan_of((GRIDS, BOTH), BY_PARAMETERS)
    assert method_problems(equal, tmp_path) == [] and len(list(tmp_path.glob("equal-*.json"))) == 2
    a, b = equal.comparisons("sums")[0].cells
    assert (one_layer_parameters(equal, a), one_layer_parameters(equal, b)) == (3072, 3072)
    problems = method_problems(plan_of((GRIDS, BOTH), compare(equal="parameters", models=["ladder-xs"])), tmp_path)
    assert len(problems) == 1 and "comparisons: ladder-xs: sbora-fa-r4 - lora-r4: equal: parameters" in problems[0]
    assert len(list(tmp_path.glob("equal-*.json"))) == 2


def test_a_cell_of_several_comparisons_is_counted_once(tmp_path, monkeypatch):
    """Each count builds a twin of the model."""
    counted = []
    monkeypatch.setattr(check_methods, "_problems", lambda *_: [])
    monkeypatch.setattr(check_methods, "one_layer_parameters", lambda _, cell: counted.append(cell.name))
    key, first = compare(a="sbora-fa-r8", equal="parameters")
    _, second = compare(a="lora-r8", equal="parameters")
    assert method_problems(plan_of((GRIDS, BOTH), (key, [*first, *second])), tmp_path) == []
    models = ("ladder-xs", "ladder-s")
    assert sorted(counted) == sorted(
        f"sums-{m}-{cell}" for m in models for cell in ("lora-r4", "lora-r8", "sbora-fa-r8")
    )


def test_validate_says_so(workplace):  # noqa: F811
    workplace.experiment(compare(equal="parameters"))
    assert "a layer of sbora-fa-r4 trains" in workplace.refused("validate", "experiments/small.yaml")
    assert COMPARISON["margin"] == 0.02
