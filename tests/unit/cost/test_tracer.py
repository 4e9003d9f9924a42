"""Operators that are called once for all operands of the same shapes, and those that are called each time."""

import pytest
import torch

from sbora_bench.cost.tracer import ShapeResults, _placed

aten = torch.ops.aten


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


class Counted:
    """An operator that counts how often it is called."""

    def __init__(self, func):
        self.func, self._schema, self.calls = func, func._schema, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.func(*args, **kwargs)


def called(results, func, *args):
    result = results(func, args, {})
    return result if isinstance(result, list | tuple) else (result,)


MADE = {
    "one": (aten.add.Tensor, (meta(4, 3), meta(3))),
    "of another dtype": (aten.eq.Tensor, (meta(4, 3), meta(4, 3))),
    "two": (aten.native_dropout.default, (meta(4, 3), 0.1, True)),
    "strided": (aten.add.Tensor, (meta(4, 3).t(), meta(3, 4).t().t())),
}


@pytest.mark.parametrize("case", MADE)
def test_results_made_anew_are_made_like_the_first(case):
    func, args = MADE[case]
    operator, results = Counted(func), ShapeResults()
    first, second = called(results, operator, *args), called(results, operator, *args)
    assert operator.calls == 1
    assert [_placed(t)[:-1] for t in first] == [_placed(t)[:-1] for t in second]
    storages = {t.untyped_storage()._cdata for t in (*first, *second)}
    assert len(storages) == 2 * len(first), "a result of its own each time"


def test_what_writes_to_its_first_operand_gives_that_back():
    operator, results = Counted(aten.addmm_.default), ShapeResults()
    for _ in range(2):
        operands = meta(4, 5), meta(4, 3), meta(3, 5)
        assert called(results, operator, *operands)[0] is operands[0]
    assert operator.calls == 1
    with pytest.raises(RuntimeError):
        results(operator, (meta(4, 5), meta(4, 3), meta(2, 5)), {})


ALWAYS = {
    "a view": (aten.view.default, lambda: (meta(4, 3), [12])),
    "its operand's shape changes": (aten.t_.default, lambda: (meta(4, 3),)),
    "parts of an operand": (aten.split.Tensor, lambda: (meta(4, 3), 2)),
    "several are written": (aten._foreach_add_.Scalar, lambda: ([meta(3), meta(3)], 1.0)),
    "a result that isn't wanted": (
        aten.native_layer_norm_backward.default,
        lambda: (meta(4, 3), meta(4, 3), [3], meta(4, 1), meta(4, 1), meta(3), None, [True, True, False]),
    ),
    "on a CPU": (aten.mul_.Scalar, lambda: (torch.ones(3), 2.0)),
}


@pytest.mark.parametrize("case", ALWAYS)
def test_others_are_called_each_time(case):
    func, operands = ALWAYS[case]
    operator, results = Counted(func), ShapeResults()
    for _ in range(2):
        results(operator, operands(), {})
    assert operator.calls == 2


def test_values_are_written_after_the_same_on_meta():
    results, ones = ShapeResults(), torch.ones(3)
    results(aten.mul_.Scalar, (meta(3), 2.0), {})
    results(aten.mul_.Scalar, (ones, 2.0), {})
    assert ones.tolist() == [2.0] * 3
