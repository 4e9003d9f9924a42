"""What differences are in, in words."""

import pytest

from sbora_bench.plan.metric import LOSS, SHARE
from sbora_bench.report.texts import difference_units


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
