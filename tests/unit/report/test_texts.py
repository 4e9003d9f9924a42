"""What differences are in, in words."""

import pytest

from sbora_bench.plan.metric import LOSS, SHARE
from sbora_bench.report.texts import difference_units, signed


@pytest.mark.parametrize(
    ("metrics", "units"),
    [
        ([SHARE, SHARE], "Points"),
        ([LOSS], "Nats a token"),
        ([SHARE, LOSS, SHARE], "Points or nats a token"),
        ([], "Points"),
    ],
)
def test_a_difference_of_losses_is_not_in_points(metrics, units):
    assert difference_units(metrics) == units


@pytest.mark.parametrize(("number", "text"), [(-0.0, "+0.0"), (-0.04, "+0.0"), (-0.06, "−0.1"), (0.04, "+0.0")])
def test_nothing_is_not_below_nothing(number, text):
    assert signed(number) == text
