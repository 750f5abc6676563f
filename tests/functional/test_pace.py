"""TAID's pace and DistiLLM's threshold: by their definitions, and the same when resumed."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.functional import GenerationThreshold, InterpolationPace

LOSSES = st.lists(st.floats(0.01, 20), min_size=2, max_size=40)


def run(pace, losses, total, first=0):
    shares = []
    for step, loss in enumerate(losses, first):
        pace = pace.after(loss, step / total)
        shares.append(pace.share)
    return shares, pace


def by_definition(losses, total, start=0.4, end=1.0, alpha=5e-4, beta=0.99):
    share, momentum, previous, found = start, 0.0, None, []
    for step, loss in enumerate(losses):
        if previous is not None:
            momentum = beta * momentum + (1 - beta) * (previous - loss) / (previous + 1e-15)
            step_ahead = alpha / (1 + math.exp(-momentum)) * (1 - share)
            share = min(end, max(start + (end - start) * step / total, share + step_ahead))
        previous = loss
        found.append(share)
    return found


@given(LOSSES, st.sampled_from([5e-4, 0.1, 5.0]))
def test_pace_by_definition(losses, alpha):
    found, _ = run(InterpolationPace(alpha=alpha), losses, len(losses))
    np.testing.assert_allclose(found, by_definition(losses, len(losses), alpha=alpha))


@given(LOSSES)
def test_the_share_never_falls_nor_leaves_its_range_nor_lags_behind_the_line(losses):
    found, _ = run(InterpolationPace(start=0.2, end=0.9, alpha=0.05), losses, len(losses))
    assert all(0.2 <= a <= b <= 0.9 for a, b in itertools.pairwise(found))
    line, _ = run(InterpolationPace(start=0.2, end=0.9, adaptive=False), losses, len(losses))
    assert all(a >= b for a, b in zip(found, line, strict=True))
    np.testing.assert_allclose(line[1:], [0.2 + 0.7 * k / len(losses) for k in range(1, len(losses))])


def test_falling_losses_run_ahead_of_rising_ones():
    down, _ = run(InterpolationPace(alpha=0.02, beta=0.5), np.geomspace(8, 0.1, 50), 1000)
    up, _ = run(InterpolationPace(alpha=0.02, beta=0.5), np.geomspace(0.1, 8, 50), 1000)
    assert down[-1] > up[-1] > 0.4


@given(LOSSES, st.integers(0, 40))
def test_a_resumed_pace_goes_on_as_the_uninterrupted_one(losses, cut):
    whole, end = run(InterpolationPace(alpha=0.01), losses, 40)
    first, middle = run(InterpolationPace(alpha=0.01), losses[:cut], 40)
    again = InterpolationPace.from_dict(json.loads(json.dumps(middle.to_dict())))
    rest, resumed = run(again, losses[cut:], 40, first=cut)
    assert first + rest == whole
    assert resumed == end


def test_threshold_rises_only_where_validation_gets_worse():
    threshold, seen = GenerationThreshold(), []
    for loss in (2.0, 2.05, 2.2, 2.25, 2.1, 2.31):
        threshold = threshold.after(loss)
        seen.append((round(threshold.threshold, 10), threshold.previous))
    # 2.0 is remembered; 2.05 is within the tolerance; 2.2 raises; 2.25 and 2.1 do not, and are forgotten; 2.31 raises
    assert seen == [(0, 2.0), (0, 2.0), (0.1, 2.2), (0.1, 2.2), (0.1, 2.2), (0.2, 2.31)]
    for _ in range(20):
        threshold = threshold.after(threshold.previous + 1)
    assert threshold.threshold == 1
    assert GenerationThreshold.from_dict(threshold.to_dict()) == threshold


@pytest.mark.parametrize(("trend", "expected"), [("decreasing", 0.45), ("constant", 0.3), ("increasing", 0.15)])
def test_where_a_batch_comes_from(trend, expected):
    """a = 0.6 at a quarter of the training: below s fresh answers, from s to a the buffer, above a the data."""
    threshold = GenerationThreshold(trend=trend, threshold=0.6)
    assert threshold.generation_probability(0.25) == pytest.approx(expected)
    sources = [threshold.choose(draw, 0.25, buffered=1000) for draw in np.arange(0.005, 1, 0.01)]
    counts = [sources.count(each) / 100 for each in ("generate", "replay", "data")]
    np.testing.assert_allclose(counts, [expected, 0.6 - expected, 0.4], atol=0.011)
    assert threshold.choose(0.59, 0.25, buffered=999) == "generate"  # the buffer is filled first
    assert threshold.choose(0.6, 0.25, buffered=0) == "data"
    assert GenerationThreshold().choose(0.0, 0.0, 0) == "data"  # at threshold 0 never


@pytest.mark.parametrize(("call", "match"), [
    (lambda: InterpolationPace(beta=1.0), "beta"), (lambda: InterpolationPace(start=0.9, end=0.5), "start"),
    (lambda: InterpolationPace().after(float("nan"), 0.5), "nan"),
    (lambda: InterpolationPace.from_dict({"momentun": 0}), "Did you mean 'momentum'"),
    (lambda: GenerationThreshold(trend="decresing"), "Did you mean 'decreasing'"),
    (lambda: GenerationThreshold(threshold=1.5), "threshold"),
])  # fmt: skip
def test_errors_name_what_was_given(call, match):
    with pytest.raises(ArgumentError, match=match):
        call()


@pytest.mark.shared_data
def test_golden_pace():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    case = json.loads((folder / "index.json").read_text())["language-models"]["taid-schedule"]
    arrays, params = np.load(folder / case["file"]), case["params"]
    pace = InterpolationPace(params["t_start"], params["t_end"], params["alpha"], params["beta"])
    shares, momenta = [], []
    for step, loss in enumerate(arrays["in_losses"].tolist()):
        pace = pace.after(loss, step / params["num_train_steps"])
        shares.append(pace.share)
        momenta.append(pace.momentum)
    np.testing.assert_allclose(shares, arrays["out_t"], rtol=1e-5)
    np.testing.assert_allclose(momenta, arrays["out_momentum"], rtol=1e-4, atol=1e-7)
