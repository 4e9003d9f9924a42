"""Averages of a printed row."""

from types import SimpleNamespace

import pytest

from sbora_bench.analysis.entries import BY_SIZE, _average
from sbora_bench.plan.metric import SHARE


def line(task, seed, value, n):
    return SimpleNamespace(task=task, seed=seed, value=value, clean_value=None, n=n)


def test_of_lm_evals_tasks_the_mean_over_items_stands_beside_that_over_tasks():
    """As lm-eval's own aggregate of a group, both ways; a seed that lacks a task is in neither."""
    from lm_eval.api.metrics import aggregate_subtask_metrics

    values, sizes = [0.5, 0.9], [30, 10]
    scored = [line(task, 0, value, n) for task, value, n in zip("ab", values, sizes, strict=True)]
    entry = _average([*scored, line("a", 1, 0.1, 30)], None, False, SHARE, of_lm_eval=True)
    for summary, by_size in ((entry.summary, False), (entry.beside[BY_SIZE], True)):
        assert summary.n == 1
        assert summary.mean == pytest.approx(100 * aggregate_subtask_metrics(values, sizes, by_size))


@pytest.mark.parametrize(("of_lm_eval", "sizes"), [(False, (30, 10)), (True, (10, 10))])
def test_it_stands_there_only_where_it_says_something_else(of_lm_eval, sizes):
    scored = [line("a", 0, 0.5, sizes[0]), line("b", 0, 0.9, sizes[1])]
    assert _average(scored, None, False, SHARE, of_lm_eval).beside == {}
