"""DDK's mixture: its rule by definition, its limits, and counts that add up."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.functional import DomainMixture, apportion, discrepancies

LOSSES = st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=6)


@given(LOSSES)
def test_discrepancies_by_definition(losses):
    student, teacher = zip(*losses)
    ratios = [np.exp(s) / np.exp(t) for s, t in losses]
    assert discrepancies(student, teacher) == pytest.approx([ratio / sum(ratios) for ratio in ratios])


@given(LOSSES, st.floats(0, 1), st.floats(0, 0.99))
def test_the_mixture_is_a_running_mean_and_an_even_share(losses, uniform, smoothing):
    student, teacher = zip(*losses)
    mixture = DomainMixture(uniform, smoothing).after(student, teacher)
    first = np.array(discrepancies(student, teacher))
    assert mixture.weights == pytest.approx((1 - uniform) * first + uniform / len(first))
    second = np.array(discrepancies(teacher, student))
    later = mixture.after(teacher, student)
    expected = smoothing * first + (1 - smoothing) * second
    assert later.weights == pytest.approx((1 - uniform) * expected + uniform / len(first))
    assert sum(later.weights) == pytest.approx(1)
    assert min(later.weights) >= uniform / len(first) - 1e-12
    assert DomainMixture.from_dict(json.loads(json.dumps(later.to_dict()))) == later


def test_a_domain_that_the_teacher_cannot_do_either_gets_no_more_than_its_share():
    assert DomainMixture(0.0).after([5.0, 1.5], [5.0, 1.0]).weights[0] < 0.5
    assert DomainMixture(1.0).after([9.0, 1.0], [1.0, 1.0]).weights == pytest.approx([0.5, 0.5])


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(any), st.integers(1, 50), st.floats(0, 1, exclude_max=True)
)
def test_counts_add_up_and_are_within_one_of_their_share(weights, size, offset):
    shares = np.array(weights) / sum(weights)
    counts = apportion(shares, size, offset)
    assert sum(counts) == size
    assert all(abs(count - share * size) < 1 + 1e-6 for count, share in zip(counts, shares))


def test_counts_are_the_shares_in_the_mean():
    shares = [0.07, 0.5, 0.13, 0.3]
    counts = np.mean([apportion(shares, 6, (k + 0.5) / 1000) for k in range(1000)], 0)
    assert counts == pytest.approx(np.array(shares) * 6, abs=2e-3)


def test_what_is_no_mixture_is_named():
    with pytest.raises(ArgumentError, match="finite"):
        discrepancies([float("inf")], [1.0])
    with pytest.raises(ArgumentError, match="2 cross-entropies of the student and 1"):
        discrepancies([1.0, 2.0], [1.0])
    with pytest.raises(ArgumentError, match="there were 2"):
        DomainMixture().after([1.0, 2.0], [1.0, 1.0]).after([1.0], [1.0])
    for wrong in ({"uniform": 1.5}, {"smoothing": 1.0}):
        with pytest.raises(ArgumentError, match="from 0 to 1"):
            DomainMixture(**wrong)
    with pytest.raises(ArgumentError, match="offset=1"):
        apportion([1.0], 4, 1.0)


@pytest.mark.shared_data
def test_the_case_computed_independently():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    entry = json.loads((folder / "index.json").read_text())["language-models"]["ddk-mixture"]
    case = np.load(folder / entry["file"])
    student, teacher = case["in_student_ce"].tolist(), case["in_teacher_ce"].tolist()
    assert discrepancies(student, teacher) == pytest.approx(case["out_discrepancy"])
    assert DomainMixture(entry["params"]["uniform_share"]).after(student, teacher).weights == pytest.approx(
        case["out_sampling"]
    )
