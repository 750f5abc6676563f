"""DAC-KL's learned bounds and span correlation: against the pure formulas, lazy and whole, gradients and micro-batches."""

import pytest
import torch

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Step

LABELS = torch.tensor([[3, 1, 4, 1, -100, -100], [-100, 2, 6, 5, 3, 5]])
BATCH = Batch(None, torch.arange(2), LABELS, extra={"mask": LABELS != -100})


def lazy(seed, vocabulary=9):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    return Lazy(hidden, torch.randn(vocabulary, 5, generator=draw, dtype=torch.float64))


def step_of(whole=False, teacher=9):
    student = lazy(1)
    student.hidden.requires_grad_()
    step = Step(BATCH)
    for role, signal in {"self": student, "teacher": lazy(2, teacher)}.items():
        step.put(role, {"logits": signal.whole() if whole else signal})
    return step, student


@pytest.mark.parametrize("make", [o.learned_subset_kl, o.span_correlation])
def test_lazy_equals_whole_in_value_and_gradient(make):
    found = []
    for whole in (False, True):
        objective = make().double()
        step, student = step_of(whole)
        loss, _ = objective.evaluate(step)
        loss.backward()
        found.append([loss.detach(), student.hidden.grad, *(p.grad for p in objective.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert float(found[0][0]) > 0


def test_thresholds_are_learned_by_the_same_loss():
    objective = o.learned_subset_kl(width=0.2).double()
    with torch.no_grad():  # levels between two classes: at a class the quantile has a kink
        objective.function.levels.bias.copy_(torch.tensor([0.3, 2.0]))
    step, _ = step_of()
    loss, _ = objective.evaluate(step)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    bias = objective.function.levels.bias
    slope, at = bias.grad.clone(), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            bias[0] += sign * at
        values.append(float(objective.evaluate(step_of()[0])[0].detach()))
        with torch.no_grad():
            bias[0] -= sign * at
    assert float(slope[0]) == pytest.approx((values[0] - values[1]) / (2 * at), rel=1e-4)


def test_a_set_without_bounds_is_the_forward_kl():
    objective = o.learned_subset_kl(width=1e-3).double()
    with torch.no_grad():
        objective.function.levels.bias.copy_(torch.tensor([-60.0, 60.0]))
    step, _ = step_of()
    whole, _ = o.forward_kl().evaluate(step_of()[0])
    found, _ = objective.evaluate(step)
    # at the very bounds a soft set has half its weight: the least and the likeliest class, of which one is always kept
    assert float(found.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_spans_are_those_of_the_formula():
    step, student = step_of()
    found = o.span_correlation(size=3, top_k=None).values(step)
    teacher = step.signals[("teacher", "logits")].whole()
    for row, spans in enumerate([[(0, 0, 3)], [(1, 1, 4), (1, 4, 6)]]):
        expected = f.span_correlation(student.whole(), teacher, torch.tensor(spans))
        torch.testing.assert_close(found[row], expected)


def test_spans_of_a_chunker_and_padded_vocabularies():
    spans = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1]])
    batch = Batch(None, BATCH.ids, LABELS, extra={**BATCH.extra, "spans": spans})
    step, student = step_of(teacher=12)
    step.batch = batch
    found = o.span_correlation(top_k=None).values(step)
    teacher = step.signals[("teacher", "logits")].whole()[..., :9]
    expected = [
        f.span_correlation(student.whole(), teacher, torch.tensor(rows))
        for rows in ([(0, 0, 2), (0, 2, 4)], [(1, 1, 6)])
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_nothing_to_compare_is_zero_and_wrong_use_is_named():
    step, _ = step_of()
    step.batch = Batch(None, BATCH.ids, torch.full_like(LABELS, -100), extra={"mask": torch.zeros_like(LABELS)})
    assert o.span_correlation().values(step).tolist() == [0, 0]
    with pytest.raises(ArgumentError, match="2 tokens"):
        o.span_correlation(size=1)
    with pytest.raises(SignalError, match="mask"):
        o.span_correlation()(torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
