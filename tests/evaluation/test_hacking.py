"""The detector of teacher hacking: on curves whose truth is known, and on the power law that it fits."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import ArgumentError
from limbeck.evaluation.hacking import hacking, power_law

STEPS = [round(10 * 1.25**k) for k in range(22)]


def law(scale=3.0, power=0.7):
    return [scale * step**-power for step in STEPS]


def u_shape(turn, floor=0.5, depth=1.0, rise=0.15):
    """A golden curve in the logarithm of the steps: falls by a law until `turn`, then rises."""
    return [floor + depth * step**-0.5 + (rise * math.log(step / turn) if step > turn else 0) for step in STEPS]


def test_hacking_is_seen_with_the_step_at_which_golden_turned():
    found = hacking(STEPS, law(), u_shape(STEPS[9]))
    assert (found.verdict, found.turned, found.alarm) == ("hacking", STEPS[9], True)
    assert found.departed is None  # the proxy still follows its law
    assert found.rise == pytest.approx(u_shape(STEPS[9])[-1] / u_shape(STEPS[9])[9] - 1)
    said = found.sentence("the oracle")
    assert said.startswith(f"Teacher hacking: after step {STEPS[9]} of {STEPS[-1]:,} the student came still nearer")
    assert "away from the oracle" in said


def test_overfitting_is_told_from_hacking():
    proxy = [max(value, law()[9]) * (1.0 if step <= STEPS[9] else 1.2) for step, value in zip(STEPS, law())]
    found = hacking(STEPS, proxy, u_shape(STEPS[9]))
    assert (found.verdict, found.turned) == ("overfitting", STEPS[9])
    assert found.departed == STEPS[11]  # the first of those fitted is below the half of the logarithms
    assert "no nearer to its teacher either" in found.sentence()


def test_a_student_that_learns_to_the_end_is_sound():
    found = hacking(STEPS, law(), [0.4 + value for value in law()])
    assert (found.verdict, found.turned, found.alarm, found.departed) == ("sound", None, False, None)
    assert found.sentence().startswith("No teacher hacking")


def test_a_golden_distance_at_its_floor_is_no_alarm():
    golden = [max(0.5, 3 * step**-0.6) for step in STEPS]
    found = hacking(STEPS, law(), golden)
    assert (found.verdict, found.alarm) == ("stalled", False)
    assert golden[STEPS.index(found.stalled)] == 0.5
    assert golden[STEPS.index(found.stalled) - 1] > 0.5
    assert "did not move away" in found.sentence()


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.1])
def test_noise_alone_hardly_ever_raises_an_alarm(noise):
    draw, alarms = random.Random(0), 0
    for _ in range(300):
        flat = [0.5 * math.exp(draw.gauss(0, noise)) + 2 / step for step in STEPS]
        alarms += hacking(STEPS, [value * math.exp(draw.gauss(0, noise)) for value in law()], flat).alarm
    assert alarms <= 3


def test_a_turn_within_the_last_four_evaluations_is_not_yet_one():
    assert not hacking(STEPS, law(), u_shape(STEPS[-4], rise=1.0)).alarm
    assert hacking(STEPS, law(), u_shape(STEPS[-6], rise=1.0)).alarm


def test_a_proxy_that_leaves_its_law():
    bent = [value if step < 200 else value + 0.05 for step, value in zip(STEPS, law())]
    found = hacking(STEPS, bent, [0.4 + value for value in bent])
    assert found.departed == next(step for step in STEPS if step >= 200)
    assert found.verdict in ("sound", "stalled")  # by itself it is no sign of hacking
    assert (found.scale, found.power) == (pytest.approx(3.0), pytest.approx(0.7))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.floats(-1, 2), st.integers(0, 10**6))
def test_the_power_law_is_the_least_squares_line_of_the_logarithms(scale, power, seed):
    draw = random.Random(seed)
    values = [scale * step**-power * math.exp(draw.gauss(0, 0.1)) for step in STEPS]
    slope, height = np.polyfit(np.log(STEPS), np.log(values), 1)
    assert power_law(STEPS, values) == (pytest.approx(math.exp(height), rel=1e-9), pytest.approx(-slope, abs=1e-9))


def test_a_rising_learning_rate_is_left_out_of_the_law():
    slow = [value if step > 20 else law()[3] for step, value in zip(STEPS, law())]
    assert hacking(STEPS, slow, [value + 0.4 for value in slow]).power < 0.6
    found = hacking(STEPS, slow, [value + 0.4 for value in slow], start=20)
    assert (found.scale, found.power) == (pytest.approx(3.0), pytest.approx(0.7))


def test_short_and_broken_curves():
    assert hacking([1, 2], [1, 1], [1, 1]).verdict == "short"
    assert hacking([], [], []).sentence() == "Too few evaluations to tell teacher hacking: 0, and 8 are needed."
    golden = u_shape(STEPS[9])
    golden[3] = math.inf  # an infinite cross-entropy is left out
    assert hacking(STEPS, law(), golden).turned == STEPS[9]
    zeros = [0.0] * len(STEPS)  # a student that is its teacher
    assert hacking(STEPS, zeros, zeros).verdict == "sound"
    for steps, proxy, message in (([1, 1], [1, 1], "rise"), ([0, 1], [1, 1], "positive"), ([1, 2], [1], "as many"),
                                  ([1, 2], [1, -1], "negative")):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            hacking(steps, proxy, [1, 1])
    with pytest.raises(ArgumentError, match="two steps"):
        power_law([3, 3], [1, 2])
