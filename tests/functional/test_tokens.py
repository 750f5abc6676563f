"""Token divergences against loops in NumPy, their limits, their bounds, and the same over lazy logits."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import DataError
from limbeck.signals.lazy import Lazy, walk

FORMULAS = [f.total_variation, f.skew_forward_kl, f.skew_reverse_kl, f.adaptive_kl, f.interpolated_forward_kl]
torch.manual_seed(0)
S, T = 2 * torch.randn(5, 7, dtype=torch.float64), 2 * torch.randn(5, 7, dtype=torch.float64)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def total_variation(z_s, z_t):
    return 0.5 * sum(abs(a - b) for a, b in zip(softmax(z_s), softmax(z_t), strict=True))


def skew_forward(z_s, z_t, skew=0.1):
    p, q = softmax(z_t), softmax(z_s)
    return kl(p, skew * p + (1 - skew) * q)


def skew_reverse(z_s, z_t, skew=0.1):
    p, q = softmax(z_t), softmax(z_s)
    return kl(q, skew * q + (1 - skew) * p)


def adaptive(z_s, z_t, head=0.5):
    p, q = softmax(z_t), softmax(z_s)
    mass, inside = 0.0, set()
    for index in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= head:
            break
        inside.add(index)
        mass += p[index]
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    w = sum(g for i, g in enumerate(gaps) if i in inside) / sum(gaps)
    return w * kl(p, q) + (1 - w) * kl(q, p)


def interpolated(z_s, z_t, share=0.4):
    return kl(softmax((1 - share) * z_s + share * z_t), softmax(z_s))


BY_HAND = [total_variation, skew_forward, skew_reverse, adaptive, interpolated]


@pytest.mark.parametrize(("formula", "by_hand"), zip(FORMULAS, BY_HAND, strict=True))
def test_equals_a_loop(formula, by_hand):
    expected = [by_hand(s, t) for s, t in zip(S.numpy(), T.numpy(), strict=True)]
    torch.testing.assert_close(formula(S, T, reduction="none"), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("formula", FORMULAS)
def test_gradient(formula):
    # TAID's target holds a detached copy of the student, which finite differences would move: its gradient has a test below
    if formula is f.interpolated_forward_kl or formula is f.adaptive_kl:
        return_gradient = torch.func.grad(lambda s: formula(s, T))(S)
        assert return_gradient.sum(-1).abs().max() < 1e-12  # blind to a shift of the student's logits
    else:
        assert torch.autograd.gradcheck(lambda s: formula(s, T), S.clone().requires_grad_())


def test_the_gradient_of_an_interpolated_target_is_that_of_its_cross_entropy():
    s = S.clone().requires_grad_()
    f.interpolated_forward_kl(s, T, share=0.3).backward()
    target = (0.7 * S + 0.3 * T).softmax(-1)
    other = S.clone().requires_grad_()
    (-(target * other.log_softmax(-1)).sum(-1)).mean().backward()
    torch.testing.assert_close(s.grad, other.grad)


@pytest.mark.parametrize("formula", FORMULAS)
def test_zero_at_equality_and_no_gradient_to_the_teacher(formula):
    assert formula(S, S).abs() < 1e-12
    teacher = T.clone().requires_grad_()
    formula(S.clone().requires_grad_(), teacher).backward()
    assert teacher.grad is None


@given(st.integers(0, 2**31), st.floats(0.01, 0.9))
def test_bounds(seed, skew):
    generator = torch.Generator().manual_seed(seed)
    s, t = (20 * torch.randn(4, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    assert 0 <= f.total_variation(s, t) <= 1
    for formula in (f.skew_forward_kl, f.skew_reverse_kl):
        values = formula(s, t, skew=skew, reduction="none")
        assert (values > -1e-12).all()
        assert (values <= -np.log(skew) + 1e-9).all()
    assert (f.adaptive_kl(s, t, reduction="none") > -1e-12).all()


def test_a_cross_entropy_is_the_kl_and_the_entropy_of_its_target():
    target = (0.7 * S + 0.3 * T).softmax(-1)
    entropy = -(target * target.log()).sum(-1)
    torch.testing.assert_close(f.interpolated_cross_entropy(S, T, share=0.3, reduction="none"),
                               f.interpolated_forward_kl(S, T, share=0.3, reduction="none") + entropy)  # fmt: skip


def test_limits():
    torch.testing.assert_close(f.skew_forward_kl(S, T, skew=0.0), f.forward_kl(S, T))
    torch.testing.assert_close(f.skew_reverse_kl(S, T, skew=0.0), f.reverse_kl(S, T))
    torch.testing.assert_close(f.interpolated_forward_kl(S, T, share=1.0), f.forward_kl(S, T))
    torch.testing.assert_close(f.adaptive_kl(S, T, head=1.0), f.forward_kl(S, T))
    torch.testing.assert_close(f.total_variation(S, T), f.total_variation(T, S))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_cut_vocabulary_and_large_logits_stay_finite(formula):
    s, t = S.clone(), T.clone()
    s[:, -1] = t[:, -1] = -torch.inf
    torch.testing.assert_close(formula(s, t), formula(S[:, :-1], T[:, :-1]))
    assert formula(1e4 * S, -1e4 * T).isfinite()
    assert formula(S.bfloat16(), T.bfloat16()).dtype == torch.float32


ALL = [*FORMULAS, f.forward_kl, f.reverse_kl, f.jensen_shannon, f.symmetric_kl, f.soft_cross_entropy]


@pytest.mark.parametrize("formula", ALL)
def test_the_gradient_at_a_cut_vocabulary_is_that_of_the_cut(formula):
    def gradient(s, t):
        s = s.clone().requires_grad_()
        formula(s, t).backward()
        return s.grad

    s, t = S.clone(), T.clone()
    s[:, -1] = t[:, -1] = -torch.inf
    found = gradient(s, t)
    torch.testing.assert_close(found[:, :-1], gradient(S[:, :-1], T[:, :-1]))
    assert (found[:, -1] == 0).all()


@pytest.mark.parametrize("formula", FORMULAS)
def test_lazy_equals_whole(formula):
    torch.manual_seed(1)
    heads = [nn.Linear(6, 11, bias=False).double() for _ in range(2)]
    hidden = [torch.randn(3, 9, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    mask = torch.rand(3, 9) > 0.3
    whole = formula(heads[0](hidden[0]), heads[1](hidden[1]), mask=mask)
    expected = torch.autograd.grad(whole, [hidden[0], heads[0].weight])
    lazy = [Lazy(h, head.weight) for h, head in zip(hidden, heads, strict=True)]
    count = torch.tensor([1 / float(mask.sum())], dtype=torch.float64)
    total, _ = walk(lazy[0], lazy[1], None, mask, [formula], count, memory=64 * lazy[0].vocabulary)
    torch.testing.assert_close(total, whole, rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad(total, [hidden[0], heads[0].weight])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wrong", [{"skew": -0.1}, {"skew": 1.5}])
def test_wrong_shares_are_named(wrong):
    with pytest.raises(ValueError, match="skew"):
        f.skew_forward_kl(S, T, **wrong)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "formula", "options"), [
    ("tvd", f.total_variation, {}), ("skew-fkl", f.skew_forward_kl, {"skew": 0.1}),
    ("skew-rkl", f.skew_reverse_kl, {"skew": 0.1}), ("fkl", f.forward_kl, {}), ("rkl", f.reverse_kl, {}),
    ("taid-loss", f.interpolated_forward_kl, {"share": 0.4}), ("taid-loss", f.interpolated_cross_entropy, {"share": 0.4}),
])  # fmt: skip
def test_golden_gradients(name, formula, options):
    """The released code leaves out entropies, so that values differ by a constant; the gradient at the logits does not."""
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    case = json.loads((folder / "index.json").read_text())["language-models"][name]
    arrays = np.load(folder / case["file"])
    keys = {key.removeprefix("in_"): torch.tensor(arrays[key]) for key in arrays.files if key.startswith("in_")}
    student, teacher = (keys[next(k for k in keys if k.startswith(role))].double() for role in ("student", "teacher"))
    labels = next((value for key, value in keys.items() if "label" in key), None)
    mask = keys.get("mask") if labels is None else labels != -100
    student.requires_grad_()
    formula(student, teacher, mask=mask, **options).backward()
    gradient = next(arrays[key] for key in arrays.files if key.startswith("grad_"))
    torch.testing.assert_close(student.grad, torch.tensor(gradient).double(), rtol=1e-5, atol=1e-7)
