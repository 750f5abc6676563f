"""The peak of scores over teacher sizes, and the law of capacity gap: against enumeration, closed forms and planted truths."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import ArgumentError
from limbeck.evaluation.capacity import capacity_law, peak

SIZES = [1e4, 3e4, 1e5, 3e5, 1e6]


def single_peaked(seeds, noise, seed=0, where=2):
    draw = np.random.default_rng(seed)
    return [[1 - 0.1 * (place - where) ** 2 + draw.normal(0, noise) for _ in range(seeds)] for place in range(5)]


def test_a_clear_peak_is_seen_with_its_interval():
    found = peak(SIZES, single_peaked(5, 0.01))
    assert (found.best, found.size, found.low, found.high, found.seen) == (2, 1e5, 1e5, 1e5, True)
    assert found.shares == (0, 0, 1, 0, 0)
    less = peak(SIZES, [[-value for value in row] for row in single_peaked(5, 0.01)], better="less")
    assert less == found


def test_the_largest_or_the_smallest_is_no_peak():
    for where in (0, 4):
        found = peak(SIZES, single_peaked(5, 0.01, where=where))
        assert (found.best, found.seen) == (where, False)
        assert found.low == found.high == SIZES[where]


def test_noise_widens_the_interval_until_no_peak_is_seen():
    found = peak(SIZES, single_peaked(3, 0.4, seed=2))
    assert not found.seen
    assert found.low < found.high


def test_a_peak_is_hardly_ever_seen_where_there_is_none_and_mostly_where_there_is_one():
    draw = np.random.default_rng(0)
    flat = sum(peak(SIZES, draw.normal(size=(5, 5)), draws=200).seen for _ in range(200))
    there = sum(peak(SIZES, single_peaked(5, 0.1, seed), draws=200).seen for seed in range(50))
    assert flat <= 6
    assert there >= 45


def test_the_bootstrap_is_over_seeds_paired_and_near_the_whole_enumeration():
    scores = np.random.default_rng(3).normal(size=(4, 3))
    draws = list(itertools.product(range(3), repeat=3))
    winners = [int(scores[:, list(chosen)].mean(1).argmax()) for chosen in draws]
    exact = np.bincount(winners, minlength=4) / len(draws)
    found = peak([1, 2, 3, 4], scores, draws=20_000)
    assert found.shares == pytest.approx(tuple(exact), abs=0.02)
    assert sum(found.shares) == pytest.approx(1)
    # what all sizes share of a seed says nothing of the peak
    shifted = peak([1, 2, 3, 4], scores + np.array([5.0, -7.0, 100.0]), draws=20_000)
    assert shifted.shares == pytest.approx(found.shares, abs=1e-9)


def test_one_seed_knows_no_spread():
    found = peak([1, 2, 3], [[0.1], [0.9], [0.2]])
    assert (found.best, found.low, found.high, found.seen) == (1, 1, 3, False)


def test_what_cannot_be_compared():
    for sizes, scores, message in (
        ([1], [[1.0]], "2 sizes or more"), ([1, 2], [[1.0]], "2 sizes or more"), ([2, 1], [[1.0], [2.0]], "rise"),
        ([0, 1], [[1.0], [2.0]], "positive"), ([1, 2], [[1.0], [math.nan]], "not finite"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            peak(sizes, scores)
    with pytest.raises(ArgumentError, match="'more' or 'less'"):
        peak([1, 2], [[1.0], [2.0]], better="max")


@settings(max_examples=40, deadline=None)
@given(st.floats(1.1, 20), st.lists(st.floats(100, 1e9), min_size=3, max_size=6, unique=True))
def test_a_planted_law_is_found(ratio, students):
    law = capacity_law(students, [ratio * size for size in students])
    assert law.ratio == pytest.approx(ratio)
    assert (law.low, law.high) == (pytest.approx(ratio), pytest.approx(ratio))
    if max(students) / min(students) > 1.01:
        assert law.slope == pytest.approx(1, abs=1e-6)
        assert law.constant


def test_a_multiple_that_grows_is_not_constant():
    students = [1e3, 1e4, 1e5, 1e6]
    law = capacity_law(students, [size**1.5 for size in students])
    assert law.slope == pytest.approx(1.5)
    assert law.constant is False


def test_the_law_is_least_squares():
    students, teachers = [1.0, 2.0, 8.0, 9.0], [2.5, 6.0, 15.0, 30.0]
    law = capacity_law(students, teachers)
    c = np.mean(np.log(teachers) - np.log(students))
    assert law.ratio == pytest.approx(math.exp(c))
    error = np.std(np.log(teachers) - np.log(students), ddof=1) / 2
    assert (law.low, law.high) == (pytest.approx(math.exp(c - 2 * error)), pytest.approx(math.exp(c + 2 * error)))
    (slope, _), covariance = np.polyfit(np.log(students), np.log(teachers), 1, cov=True)
    assert (law.slope, law.slope_error) == (pytest.approx(slope), pytest.approx(math.sqrt(covariance[0, 0])))
    two = capacity_law([1, 2], [3, 9])
    assert (two.slope, two.constant) == (None, None)
    for broken in (([1], [2]), ([1, 2], [1]), ([1, 0], [1, 2])):
        with pytest.raises(ArgumentError):
            capacity_law(*broken)
