"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.report import numbers
from limbeck.report.words import main_measure, measure


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.size(512), "512 B"), (numbers.size(421_300), "421 kB"), (numbers.size(44_700_000), "44.7 MB"),
        (numbers.size(999_999), "1.00 MB"), (numbers.size(None), "–"), (numbers.count(9_876), "9,876"),
        (numbers.count(294_000), "294 k"), (numbers.count(11_200_000), "11.2 M"), (numbers.plain(0.0312), "0.0312"),
        (numbers.plain(1234.5), "1,234"), (numbers.plain(2.9e-6), "2.9×10⁻⁶"), (numbers.plain(-0.25), "−0.250"),
        (numbers.plain(0.0), "0"), (numbers.plain(math.inf), "∞"), (numbers.plain(None), "–"), (numbers.share(0.951), "95.1 %"),
        (numbers.milliseconds(1.92), "1.92 ms"), (numbers.rate(521.2), "521/s"), (numbers.rate(21_000), "21.0 k/s"),
        (numbers.duration(41.3), "41.3 s"), (numbers.duration(725), "12 min 5 s"), (numbers.duration(7500), "2 h 5 min"),
        (numbers.duration(3600), "1 h"), (numbers.duration(200_000), "2 d 7 h"), (numbers.fraction(38.2), "1/38"),
        (numbers.fraction(2.3), "43 %"), (numbers.fraction(0.8), "1.2 times"), (numbers.times(3.02), "3"),
        (numbers.times(2.44), "2.4"), (numbers.times(12.4), "12"), (numbers.tick(1e6, numbers.size), "1 MB"),
        (numbers.tick(0.1, numbers.plain), "0.1"), (numbers.tick(1500, numbers.size), "1.5 kB"),
        (numbers.tick(100.0, numbers.milliseconds), "100 ms"),
    ],
)  # fmt: skip
def test_written(written, expected):
    assert written == expected


def test_a_stat_from_what_json_holds():
    assert numbers.stat(0.5) == numbers.Stat(0.5, None, (0.5,))
    assert numbers.stat({"mean": 0.5, "std": 0.0, "values": [0.5]}).std is None
    assert numbers.stat([1.0, 3.0]).std == pytest.approx(math.sqrt(2))
    assert numbers.stat({"values": [1.0, None, 3.0]}).mean == 2.0
    assert numbers.stat({"mean": 0.5, "std": 0.1}).std == 0.1
    for nothing in (None, math.nan, {}, [], {"mean": None}, "much", True):
        assert numbers.stat(nothing) is None


@given(st.floats(1, 1e17))
def test_sizes_keep_three_digits(value):
    text, unit = numbers.size(value).split(" ")
    scale = 1000 ** ("B", "kB", "MB", "GB", "TB", "PB").index(unit)
    assert float(text.replace(",", "")) * scale == pytest.approx(value, rel=0.0051, abs=0.5)


def test_rows_are_written_with_the_same_decimals():
    assert numbers.decimals([0.951, 0.889], share=True) == 1
    assert numbers.decimals([0.9512, 0.9534], share=True) == 2
    assert numbers.decimals([0.1617, 0.366, math.inf]) == 3
    assert measure("accuracy").spread(numbers.stat([0.95, 0.953])) == "95.2 ± 0.2 %"
    assert measure("accuracy").step(-0.012, 0.004) == "−1.2 ± 0.4 points"
    assert measure("nll").step(0.2, None, 2) == "+0.20"


def test_measures_by_name():
    assert measure("accuracy").name == "accuracy"
    assert measure("brier").name == "Brier score"
    assert measure("r2").name == "R²"
    assert measure("probability_loyalty").meaning
    where = measure("label_agreement_teacher_wrong")
    assert (where.label, where.meaning, where.share) == (
        "Label agreement, teacher wrong",
        "The same, where the teacher is wrong.",
        True,
    )
    unknown = measure("top_five")
    assert (unknown.label, unknown.better) == ("Top five", "")


def test_the_main_score():
    assert main_measure({}) is None
    assert main_measure({"models": [{"role": "student", "scores": {"ece": 0.1, "accuracy": 0.9}}]}).key == "accuracy"
    assert main_measure({"models": [{"role": "student", "scores": {"own": 1.0}}]}).key == "own"
    assert main_measure({"best": ["own", "min"]}).better == "less"
