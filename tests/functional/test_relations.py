"""Relations between samples against loops in NumPy, and what they are blind to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import functional as f
from limbeck.errors import ArgumentError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner

rng = np.random.default_rng(3)
S, T = rng.normal(size=(6, 4)), rng.normal(size=(6, 7))
s, t = torch.tensor(S), torch.tensor(T)


def rotation(seed, width):
    found, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return torch.tensor(found)


def test_neighbour_kl_by_hand():
    def neighbours(v):
        found = np.zeros((6, 6))
        for i, a in enumerate(v):
            for j, b in enumerate(v):
                found[i, j] = (a @ b / ((np.sqrt(a @ a) + 1e-7) * (np.sqrt(b @ b) + 1e-7)) + 1) / 2
        return np.array([row / row.sum() for row in found])

    p, q = neighbours(T), neighbours(S)
    expected = sum(p[i, j] * np.log((p[i, j] + 1e-7) / (q[i, j] + 1e-7)) for i in range(6) for j in range(6)) / 36
    assert float(f.neighbour_kl(s, t)) == pytest.approx(expected, rel=1e-9)


def test_neighbour_kl_of_two_samples_in_closed_form():
    """Two samples at cosine c: a row is (2, 1 + c) / (3 + c)."""
    one = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    two = torch.tensor([[1.0, 0], [1, 0]], dtype=torch.float64)
    p, q = np.array([2, 1]) / 3, np.array([0.5, 0.5])
    assert float(f.neighbour_kl(two, one)) == pytest.approx((p * np.log(p / q)).sum() / 2, abs=1e-6)


@given(st.integers(0, 2**31), st.floats(1, 50))
def test_neighbour_kl_is_blind_to_rotation_and_length(seed, scale):
    features = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    lengths = scale * torch.rand(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1
    value = f.neighbour_kl(features, t)
    assert float(value) > -1e-6
    assert float(f.neighbour_kl(features, features)) == 0
    torch.testing.assert_close(
        f.neighbour_kl(lengths * features @ rotation(seed, 4), t), value, rtol=1e-3, atol=1e-5
    )  # but for eps


def test_neighbour_kl_stays_finite_for_opposites_zeros_and_one_sample():
    for rows in ([[3.0, 0.1], [-3.0, -0.1]], [[0.0, 0.0], [1.0, 2.0]], [[1.0, 2.0]]):
        features = torch.tensor(rows, requires_grad=True)
        value = f.neighbour_kl(features, torch.randn(len(rows), 5))
        value.backward()
        assert value.isfinite()
        assert features.grad.isfinite().all()
        assert len(rows) > 1 or float(value.detach()) == 0


def test_consecutive_error_product_by_hand():
    errors = np.abs(S - T[:, :4])
    expected = np.mean([sum(errors[i, k] * errors[i + 1, k] for k in range(4)) for i in range(5)])
    assert float(f.consecutive_error_product(s, t[:, :4])) == pytest.approx(expected)


@given(st.integers(0, 2**31))
def test_consecutive_error_product_is_a_quadratic_form_of_the_error(seed):
    error = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    teacher = t[:, :4]
    value = f.consecutive_error_product(teacher + error, teacher)
    assert float(value) >= 0
    assert float(f.consecutive_error_product(teacher, teacher)) == 0
    torch.testing.assert_close(f.consecutive_error_product(teacher - 3 * error, teacher), 9 * value)
    torch.testing.assert_close(f.consecutive_error_product((teacher + error).flip(0), teacher.flip(0)), value)
    assert float(value) <= 6 / 5 * float(error.square().sum(1).mean())  # ab <= (a^2 + b^2) / 2


def test_one_error_alone_costs_nothing():
    """Where only one of two neighbours errs, the product is 0: what the form of the benchmarks does not see."""
    student = t.clone()
    student[::2] += 5
    assert float(f.consecutive_error_product(student, t)) == 0
    assert float(f.consecutive_error_product(s[:1], t[:1, :4])) == 0


def test_unequal_shapes_are_told_which_projector_helps():
    with pytest.raises(ValueError, match=r"\[6, 4\].*\[6, 7\].*projected\('linear'\)"):
        f.consecutive_error_product(s, t)


@pytest.mark.parametrize("name", ["pkt", "correlation_congruence"])
def test_gradients(name):
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: FORMULAS[name](x, teacher), student)


FORMULAS = {"pkt": f.neighbour_kl, "correlation_congruence": f.consecutive_error_product}


@pytest.mark.parametrize("name", [*FORMULAS, "rkd", "similarity_preserving", "dist"])
@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"accumulate": 2}])
def test_what_leaves_nothing_to_compare_is_refused_before_training(name, settings):
    (key, value), recipe = *settings.items(), find(name)
    with pytest.raises(ArgumentError, match=f"{key}={value}"):
        Runner(cpu=True).run(recipe(toy_job(recipe, **settings)))
