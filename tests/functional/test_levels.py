"""Multi-level alignment against loops in NumPy, written from the definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goldens import load
from limbeck import functional as f

rng = np.random.default_rng(3)
S, T = 2 * rng.normal(size=(7, 4)), 2 * rng.normal(size=(7, 4))
s, t = torch.tensor(S), torch.tensor(T)


def softmax(z, tau=1.0):
    e = np.exp((z - z.max(-1, keepdims=True)) / tau)
    return e / e.sum(-1, keepdims=True)


def below(values, share):
    return values <= np.percentile(values, 100 * share)


def instance(share, temperatures):
    kept = below(softmax(T).max(1), share)
    total = 0.0
    for tau in temperatures:
        p, q = softmax(T, tau), softmax(S, tau)
        for i in range(7):
            total += kept[i] * tau**2 * sum(p[i, c] * np.log(p[i, c] / q[i, c]) for c in range(4)) / 7
    return total


def between(share, temperatures, classes):
    kept = below(softmax(T).sum(0) if classes else softmax(T).max(1), share)
    total = 0.0
    for tau in temperatures:
        p, q = softmax(T, tau), softmax(S, tau)
        p, q = (p.T, q.T) if classes else (p, q)
        for i in range(len(p)):
            for j in range(len(p)):
                total += kept[i] * (p[i] @ p[j] - q[i] @ q[j]) ** 2 / len(p)
    return total


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("temperatures", [(4.0,), (4.0, 3.0, 5.0, 2.0, 6.0)])
def test_levels(share, temperatures):
    options = {"temperatures": temperatures, "share": share}
    assert float(f.instance_alignment(s, t, **options)) == pytest.approx(instance(share, temperatures))
    assert float(f.batch_alignment(s, t, **options)) == pytest.approx(between(share, temperatures, False))
    assert float(f.class_alignment(s, t, **options)) == pytest.approx(between(share, temperatures, True))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "formula"), [("mlkd_batch_corr", f.batch_alignment), ("mlkd_class_corr", f.class_alignment)]
)
def test_golden(name, formula):
    case = load("classifiers", name)
    student = case["in_student"].requires_grad_()
    value = formula(student, case["in_teacher"], temperatures=[4.0])
    value.backward()
    assert float(value.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"], rtol=1e-5, atol=1e-8)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 1.0))
def test_zero_at_equality_and_never_negative(seed, share):
    a, b = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for formula in (f.instance_alignment, f.batch_alignment, f.class_alignment):
        assert float(formula(a, a + 3, share=share)) == pytest.approx(0, abs=1e-12)  # blind to a shift of the logits
        assert 0 <= float(formula(a, b, share=share)) <= float(formula(a, b)) + 1e-12


def test_a_share_keeps_what_the_teacher_is_least_sure_of():
    """One sure sample, one unsure: with half of them only the unsure one gets a gradient."""
    teacher = torch.tensor([[9.0, 0, 0], [0.1, 0, 0]])
    student = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    f.instance_alignment(student, teacher, share=0.5).backward()
    assert student.grad[0].abs().sum() == 0
    assert student.grad[1].abs().sum() > 0
    with pytest.raises(ValueError, match="share=0"):
        f.instance_alignment(student, teacher, share=0)
