"""A part of the vocabulary: loops in NumPy, the limit of the soft set, and the gradient that thresholds learn by."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.signals.lazy import Lazy, walk

torch.manual_seed(0)
S, T = 2 * torch.randn(6, 8, dtype=torch.float64), 2 * torch.randn(6, 8, dtype=torch.float64)
Y = torch.tensor([0, 3, -100, 7, 2, -100])
KEEP = torch.rand(6, 8) > 0.5
KEEP[:, 0] = True


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_kept_classes_by_hand():
    found = f.kept_classes(T, Y, lower=0.05, upper=0.4)
    for row in range(6):
        p = softmax(T[row].numpy())
        expected = {i for i in range(8) if 0.05 <= p[i] <= 0.4} | {int(p.argmax())} | ({int(Y[row])} - {-100})
        assert set(found[row].nonzero()[:, 0].tolist()) == expected
    each = f.kept_classes(T, lower=torch.full((6,), 0.05), upper=torch.full((6,), 0.4))
    assert (each <= found).all()
    assert (f.kept_classes(T) == True).all()  # noqa: E712
    assert f.kept_classes(T, lower=1.0).sum() == 6  # the first choice alone


def test_subset_kl_by_hand_and_no_gradient_outside():
    s = S.clone().requires_grad_()
    values = f.subset_kl(s, T, KEEP, reduction="none")
    for row in range(6):
        ids = KEEP[row].nonzero()[:, 0].tolist()
        p, q = softmax(T[row, ids].numpy()), softmax(S[row, ids].numpy())
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert float(values[row].detach()) == pytest.approx(expected)
    values.sum().backward()
    assert s.grad[~KEEP].abs().max() == 0
    torch.testing.assert_close(f.subset_kl(S, T, torch.ones_like(KEEP)), f.forward_kl(S, T))
    assert torch.autograd.gradcheck(lambda z: f.subset_kl(z, T, KEEP), S.clone().requires_grad_())


def test_rows_that_keep_nothing_and_cut_vocabularies():
    s, t, keep = S.clone(), T.clone(), KEEP.clone()
    s[:, 5:] = t[:, 5:] = -torch.inf
    keep[0] = False
    keep[1] = torch.arange(8) >= 5  # only what has no mass
    s.requires_grad_()
    values = f.subset_kl(s, t, keep, reduction="none")
    values.sum().backward()
    assert values[:2].tolist() == [0, 0]
    assert s.grad.isfinite().all()
    torch.testing.assert_close(values[2:], f.subset_kl(S[2:, :5], T[2:, :5], keep[2:, :5], reduction="none"))
    assert f.subset_kl(S.bfloat16(), T.bfloat16(), KEEP).dtype == torch.float32
    assert f.subset_kl(S, T, KEEP, mask=torch.zeros(6)) == 0


def test_clipped_forward_kl_is_the_subset_kl_of_its_classes():
    keep = f.kept_classes(T, Y, lower=0.02, upper=0.5)
    torch.testing.assert_close(f.clipped_forward_kl(S, T, Y, lower=0.02, upper=0.5), f.subset_kl(S, T, keep))
    torch.testing.assert_close(f.clipped_forward_kl(S, T, Y, lower=0.0), f.forward_kl(S, T))


@given(st.integers(0, 2**31), st.floats(0, 0.3), st.floats(0.3, 1))
def test_subset_divergence_is_positive_zero_at_equality_and_blind_to_shifts(seed, lower, upper):
    generator = torch.Generator().manual_seed(seed)
    s, t = (3 * torch.randn(5, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    keep = f.kept_classes(t, lower=lower, upper=upper)
    values = f.subset_kl(s, t, keep, reduction="none")
    assert (values > -1e-12).all()
    assert f.subset_kl(t, t, keep).abs() < 1e-12
    torch.testing.assert_close(f.subset_kl(s + 4, t - 2, keep, reduction="none"), values)


def test_the_soft_set_tends_to_the_hard_one_and_trains_its_thresholds():
    lower, upper = torch.full((6,), 0.05, dtype=torch.float64), torch.full((6,), 0.4, dtype=torch.float64)
    hard = f.subset_kl(S, T, f.kept_classes(T, Y, lower=0.05, upper=0.4), reduction="none")
    gaps = [float((f.soft_subset_kl(S, T, Y, lower, upper, width=w, reduction="none") - hard).abs().max())
            for w in (1e-2, 1e-3, 1e-5)]  # fmt: skip
    assert gaps[2] < 1e-6 < gaps[1] < gaps[0]
    inputs = (S.clone().requires_grad_(), lower.requires_grad_(), upper.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, a, b: f.soft_subset_kl(s, T, Y, a, b, width=0.05), inputs)
    with pytest.raises(ArgumentError, match="width=0"):
        f.soft_subset_kl(S, T, Y, lower, upper, width=0)


def test_thresholds_can_be_learned_through_quantile_levels():
    """A level's gradient, through the quantile and the soft set, against finite differences; and descent lowers the loss."""
    p = T.softmax(-1)
    level = torch.full((6,), 0.41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: f.probability_quantile(p, x), level)

    def loss(x):
        return f.soft_subset_kl(S, T, Y, f.probability_quantile(p, x), torch.ones(6), width=0.02)

    assert torch.autograd.gradcheck(loss, level)
    start = loss(level)
    (slope,) = torch.autograd.grad(start, level)
    assert loss(level - 0.01 * slope / slope.norm()) < start


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_probability_quantile_is_numpy_s(seed, level):
    p = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = f.probability_quantile(p, torch.full((3,), level, dtype=torch.float64))
    np.testing.assert_allclose(found, np.quantile(p.numpy(), level, axis=1), rtol=1e-10)


BATCH = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)


def test_span_correlation_by_hand():
    spans = torch.tensor([[0, 1, 4], [1, 0, 2], [1, 4, 5]])  # the last is one token: no neighbours
    p, q = (each.softmax(-1).numpy() for each in (BATCH[1], BATCH[0]))
    pairs = [(0, 1), (0, 2), (1, 0)]
    expected = np.mean([np.sqrt(((p[b, i] * p[b, i + 1] - q[b, i] * q[b, i + 1]) ** 2).sum()) for b, i in pairs])
    assert float(f.span_correlation(*BATCH, spans)) == pytest.approx(expected)
    assert float(f.span_correlation(*BATCH, spans, top_k=8)) == pytest.approx(expected)
    assert f.span_correlation(*BATCH, spans, top_k=2) < expected
    assert torch.autograd.gradcheck(lambda s: f.span_correlation(s, BATCH[1], spans), BATCH[0].clone().requires_grad_())


def test_spans_at_equality_without_neighbours_and_in_half_precision():
    spans = torch.tensor([[0, 0, 3]])
    s = BATCH[0].clone().requires_grad_()
    for some in (spans, torch.zeros(0, 3, dtype=torch.long)):
        loss = f.span_correlation(s, BATCH[0], some)
        loss.backward()
        assert loss == 0
        assert s.grad.isfinite().all()
    assert f.span_correlation(BATCH[0].bfloat16(), BATCH[1].bfloat16(), spans).dtype == torch.float32


def test_lazy_equals_whole():
    torch.manual_seed(1)
    heads = [nn.Linear(6, 11, bias=False).double() for _ in range(2)]
    hidden = [torch.randn(3, 9, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    labels = torch.randint(0, 11, (3, 9))
    whole = f.clipped_forward_kl(heads[0](hidden[0]), heads[1](hidden[1]), labels)
    expected = torch.autograd.grad(whole, [hidden[0], heads[0].weight])
    lazy = [Lazy(h, head.weight) for h, head in zip(hidden, heads, strict=True)]
    total, _ = walk(
        *lazy,
        labels,
        None,
        [f.clipped_forward_kl],
        torch.tensor([1 / 27], dtype=torch.float64),
        memory=64 * lazy[0].vocabulary,
    )
    for ours, theirs in zip(torch.autograd.grad(total, [hidden[0], heads[0].weight]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def load(name):
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    arrays = np.load(folder / json.loads((folder / "index.json").read_text())["language-models"][name]["file"])
    return {key: torch.tensor(arrays[key]) for key in arrays.files}


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "formula"), [
    ("subset-kl", lambda s, c: f.subset_kl(s, c["in_teacher_logits"], c["in_keep"], mask=c["in_mask"])),
    ("span-correlation", lambda s, c: f.span_correlation(s, c["in_teacher_logits"], c["in_spans"])),
])  # fmt: skip
def test_golden(name, formula):
    case = load(name)
    student = case["in_student_logits"].requires_grad_()
    value = formula(student, case)
    value.backward()
    torch.testing.assert_close(value, case["out_loss"])
    torch.testing.assert_close(student.grad, case["grad_student_logits"])
