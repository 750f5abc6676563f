import math

import pytest

from limbeck.evaluation.record import spread


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(math.sqrt(7)), "values": [1.0, 2.0, 6.0]}
    assert spread([0.5]) == {"mean": 0.5, "std": 0.0, "values": [0.5]}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_value_that_is_not_finite_does_not_stop_the_report(value):
    found = spread([value, 1.0])
    assert math.isnan(found["std"])
    assert found["values"] == [pytest.approx(value, nan_ok=True), 1.0]
