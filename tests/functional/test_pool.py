"""Scores of a pool and choices that cover it, against loops, a linear program and official outputs."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from goldens import load
from limbeck.functional import pool as f

rng = np.random.default_rng(2)
P = rng.dirichlet(np.ones(4), 12)
p = torch.tensor(P)


def test_scores_by_hand():
    np.testing.assert_allclose(f.prediction_entropy(p), [-sum(v * np.log(v) for v in row) for row in P])
    gains = [1 - (sorted(row)[-1] - sorted(row)[-2]) for row in P]
    np.testing.assert_allclose(f.margin_gain(p), gains)
    labels = torch.arange(12) % 4
    expected = [np.sqrt(sum((v - (c == y)) ** 2 for c, v in enumerate(row))) for row, y in zip(P, labels.tolist())]
    np.testing.assert_allclose(f.error_norm(p, labels), expected)
    assert f.prediction_entropy(torch.eye(3)).tolist() == [0, 0, 0]
    assert float(f.margin_gain(torch.tensor([[1.0, 0.0]]))) == pytest.approx(1e-6)


def value(q, gains, wrong, penalty):
    return min(
        sum(q * gains) - (1 + penalty) * sum(q[i] * gains[i] for i in lost)
        for lost in itertools.combinations(range(len(gains)), wrong)
    )


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_robust_distribution_is_the_best_of_a_linear_program(wrong, penalty):
    gains = rng.uniform(0.05, 1, 8)
    sets = list(itertools.combinations(range(8), wrong))
    # variables q and the value v: make v large under v <= each set's sum
    rows = [[*(-gains * [1 - (1 + penalty) * (i in lost) for i in range(8)]), 1.0] for lost in sets]
    best = linprog([0.0] * 8 + [-1.0], A_ub=rows, b_ub=np.zeros(len(sets)), A_eq=[[1.0] * 8 + [0.0]], b_eq=[1.0],
                   bounds=[(0, None)] * 8 + [(None, None)])  # fmt: skip
    found = f.robust_distribution(torch.tensor(gains), wrong, penalty).numpy()
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert value(found, gains, wrong, penalty) == pytest.approx(-best.fun, rel=1e-6)
    if not wrong:
        assert found.max() == pytest.approx(1)  # all on the largest gain


@given(st.integers(0, 2**31), st.integers(0, 6), st.sampled_from(["euclidean", "cosine"]))
def test_farthest_first_by_loops(seed, count, distance):
    draw = np.random.default_rng(seed)
    points, covered = draw.normal(size=(7, 3)), draw.normal(size=(2, 3))

    def far(a, b):
        return np.linalg.norm(a - b) if distance == "euclidean" else 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    chosen, centres = [], list(covered)
    for _ in range(count):
        left = [i for i in range(7) if i not in chosen]
        chosen.append(max(left, key=lambda i: (min(far(points[i], c) for c in centres), -i)))
        centres.append(points[chosen[-1]])
    found = f.farthest_first(torch.tensor(points), count, torch.tensor(covered), distance)
    assert found.tolist() == chosen


def test_farthest_first_ends():
    with pytest.raises(ValueError, match="there are 12 points"):
        f.farthest_first(p, 13)
    assert f.farthest_first(p, 0).tolist() == []
    same = torch.ones(4, 2)
    assert f.farthest_first(same, 3, first=2).tolist() == [2, 0, 1]  # equals: the lowest place


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["pcoreset", "coreset", "uncertainty", "badge"])
def test_against_the_official_choices(name):
    case = load("classifiers", f"select_{name}")

    def mixed(side):
        return sum(case[f"in_{side}_{head}"].double().softmax(-1) for head in ("ce", "kd")) / 2

    pool, known, features = mixed("pool"), mixed("labelled"), case["in_pool_features"].double()
    wanted = case["out_selected"].long().tolist()
    if name == "pcoreset":
        found = f.farthest_first(pool, 10, known)
    elif name == "coreset":
        found = f.farthest_first(features, 10, case["in_labelled_features"].double(), "cosine")
    elif name == "uncertainty":
        found = f.prediction_entropy(pool).argsort(descending=True, stable=True)[:10]
    else:  # all lengths are 1, so that rounding decides the first there: it is given
        found = f.farthest_first(f.gradient_embedding(pool, features), 10, None, "cosine", wanted[0])
    assert found.tolist() == wanted


@pytest.mark.shared_data
def test_the_official_distribution():
    case = load("classifiers", "rad_distribution")
    gains = f.margin_gain(case["in_student_probs"].double())
    np.testing.assert_allclose(gains, case["out_gains"].numpy(), rtol=1e-6)
    found = f.robust_distribution(gains, float(case["in_m"]), penalty=0.0)
    np.testing.assert_allclose(found, case["out_probabilities"].numpy(), rtol=1e-6, atol=1e-12)
