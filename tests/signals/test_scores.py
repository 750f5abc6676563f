"""Values for every token equal those from whole logits, each with its own gradient, lazy and whole, and never hold them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy_toys import EXACT, KL, Problem, Spy, large, memory_of, relative, total_variation
from torch import Tensor

from limbeck import signals
from limbeck.errors import SignalError
from limbeck.functional.preference import dpo
from limbeck.functional.response import cross_entropy, forward_kl, jensen_shannon
from limbeck.functional.selection import entropy
from limbeck.signals import (
    Lazy,
    Post,
    TokenTerm,
    label_log_probabilities,
    sequence_log_probabilities,
    token_entropies,
    token_values,
)

WALKED = {"kl": KL, "ce": TokenTerm(cross_entropy), "js": TokenTerm(jensen_shannon), "a user's": total_variation,
          "entropy": TokenTerm(entropy)}  # fmt: skip


def expected(problem: Problem, term, mask: Tensor | None) -> Tensor:
    """From whole logits, by autograd."""
    student, teacher = problem.student.whole()[..., : problem.size], problem.teacher.whole()[..., : problem.size]
    term = term if isinstance(term, TokenTerm) else TokenTerm(term)
    values = term(student.flatten(0, 1), teacher.flatten(0, 1), problem.labels.flatten()).view(problem.labels.shape)
    return values if mask is None else values * mask


def upstream(seed: int = 2) -> Tensor:
    """A gradient of either sign for each token."""
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", WALKED)
@pytest.mark.parametrize("block", [1, 7, 500])
@pytest.mark.parametrize("sizes", [(30, 30), (30, 41), (41, 30)])
@pytest.mark.parametrize("whole", [False, True], ids=["lazy", "whole"])
def test_equals_whole_logits(name: str, block: int, sizes: tuple[int, int], whole: bool):
    problem, term, pull = Problem(*sizes, bias=True, post=Post(0.5, 4.0)), WALKED[name], upstream()
    student = problem.student.whole() if whole else problem.student
    values = token_values(
        student, problem.teacher, problem.labels, problem.mask, term, memory=memory_of(block, problem.size)
    )
    truth = expected(problem, term, problem.mask)
    if name == "entropy":  # one that has no teacher sees all of its own vocabulary
        student_alone = token_values(student, None, None, problem.mask, term, memory=memory_of(block, sizes[0], 1))
        own = entropy(problem.student.whole(), reduction="none") * problem.mask
        torch.testing.assert_close(student_alone, own, **EXACT)
    assert values.shape == (4, 9)
    torch.testing.assert_close(values, truth, **EXACT)
    for ours, theirs in zip(
        torch.autograd.grad(values, problem.leaves, pull), torch.autograd.grad(truth, problem.leaves, pull)
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("name", WALKED)
def test_gradcheck(name: str):
    problem = Problem(8, 8, bias=True, post=Post(0.5, 4.0))
    teacher, labels = Lazy(problem.teacher.hidden[:1, 3:], problem.teacher.weight), problem.labels[:1, 3:]
    hidden = problem.hidden[:1, 3:].detach().requires_grad_()

    def values(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        student = Lazy(hidden, weight, bias, problem.post)
        return token_values(student, teacher, labels, problem.mask[:1, 3:], WALKED[name], memory=memory_of(4, 8))

    assert torch.autograd.gradcheck(values, (hidden, problem.weight, problem.bias), atol=1e-6)


def test_a_loss_that_is_no_sum_over_tokens():
    """DPO of pairs of answers by ordinary autograd."""
    problem = Problem()
    found = sequence_log_probabilities(problem.student, problem.labels)
    whole = problem.student.whole().log_softmax(-1)
    known = problem.labels.clamp(min=0)[..., None]
    truth = (whole.gather(-1, known)[..., 0] * (problem.labels != -100)).sum(-1)
    reference = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    losses = [dpo(s[:2], s[2:], reference, reference.flip(0)) for s in (found, truth)]
    torch.testing.assert_close(*losses, **EXACT)
    for ours, theirs in zip(*(torch.autograd.grad(loss, problem.leaves) for loss in losses)):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_label_log_probabilities():
    problem = Problem()
    for logits in (problem.student, problem.student.whole()):
        values = label_log_probabilities(logits, problem.labels, problem.mask)
        for row, column in [(0, 0), (0, 5), (2, 3), (3, 8)]:
            logit = problem.student.whole()[row, column]
            label = int(problem.labels[row, column])
            counts = label != -100 and bool(problem.mask[row, column])
            truth = logit[label] - logit.exp().sum().log() if counts else torch.zeros((), dtype=torch.float64)
            torch.testing.assert_close(values[row, column], truth, **EXACT)
        averages = sequence_log_probabilities(logits, problem.labels, problem.mask, average=True)
        counted = (problem.mask & (problem.labels != -100)).sum(-1)
        torch.testing.assert_close(averages, values.sum(-1) / counted, **EXACT)


def test_entropies():
    problem = Problem()
    p = (problem.student.whole() / 2).softmax(-1)
    truth = -(p * p.log()).sum(-1) * problem.mask
    values = token_entropies(problem.student, problem.mask, temperature=2.0)
    torch.testing.assert_close(values, truth, **EXACT)
    pull = upstream()
    for ours, theirs in zip(*(torch.autograd.grad(v, problem.leaves, pull) for v in (values, truth))):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_nothing_counts():
    problem = Problem(bias=True)
    for values in (
        token_values(problem.student, problem.teacher, None, torch.zeros(4, 9), forward_kl),
        label_log_probabilities(problem.student, torch.full((4, 9), -100)),
        token_entropies(problem.student, torch.zeros(4, 9, dtype=torch.bool)),
    ):
        assert values.shape == (4, 9)
        assert not values.any()
        assert not any(gradient.any() for gradient in torch.autograd.grad(values.sum(), problem.leaves))


def test_a_mask_of_numbers_multiplies_and_masked_tokens_are_never_read():
    problem = Problem()
    mask = upstream(3).abs() * problem.mask
    truth = expected(problem, KL, mask)
    torch.testing.assert_close(
        token_values(problem.student, problem.teacher, None, mask, KL), truth.detach(), check_stride=False, **EXACT
    )
    with torch.no_grad():
        problem.hidden[~problem.mask] = torch.nan
    values = token_values(problem.student, problem.teacher, None, mask, KL)
    gradients = torch.autograd.grad(values.sum(), problem.leaves)
    assert all(g.isfinite().all() for g in (values, *gradients))


def test_what_a_term_trains():
    problem, pull = Problem(), upstream()
    sharpness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def sharp(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        return total_variation(sharpness * student, teacher, labels)

    term = TokenTerm(sharp, parameters=(sharpness,))
    values = token_values(problem.student, problem.teacher, None, problem.mask, term, memory=memory_of(5))
    ours = torch.autograd.grad(values, [sharpness, *problem.leaves], pull)
    theirs = torch.autograd.grad(expected(problem, term, problem.mask), [sharpness, *problem.leaves], pull)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, **EXACT)
    one, other = (TokenTerm(forward_kl, {"temperature": sharpness.exp()}) for _ in range(2))
    values = token_values(problem.student, problem.teacher, None, None, one)
    truth = expected(problem, other, None)
    torch.testing.assert_close(*(torch.autograd.grad(found, sharpness, pull)[0] for found in (values, truth)), **EXACT)
    with pytest.raises(SignalError, match="did not declare"):  # at once, and not at backward
        token_values(problem.student, problem.teacher, None, None, sharp)


def test_how_it_lives_with_autograd():
    problem = Problem()
    values = token_values(problem.student, problem.teacher, None, None, KL)
    first = torch.autograd.grad(values.sum(), problem.leaves, retain_graph=True)
    again = torch.autograd.grad(-3 * values.sum(), problem.leaves, retain_graph=True)
    for one, other in zip(first, again):
        torch.testing.assert_close(-3 * one, other, **EXACT)
    assert problem.weight.grad is None
    with pytest.raises(SignalError, match="create_graph"):
        torch.autograd.grad(values.sum(), problem.hidden, create_graph=True)
    with torch.no_grad():
        assert not token_values(problem.student, problem.teacher, None, None, KL).requires_grad
        problem.weight += 1  # an optimizer's step before backward
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(values.sum(), problem.hidden)
    with pytest.raises(SignalError, match=r"torch\.func"):
        torch.func.grad(lambda h: token_entropies(Lazy(h, problem.weight)).sum())(problem.hidden.detach())


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision(dtype: torch.dtype, close: float):
    hidden, weight, _, labels = large()
    leaves = [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    values = label_log_probabilities(Lazy(*leaves), labels)
    truth = F.log_softmax(exact[0] @ exact[1].T, -1).gather(1, labels[:, None])[:, 0]
    assert values.dtype == torch.float32
    assert relative(values.detach(), truth.detach()) < close
    small = 1e-2  # small parts of such a gradient at the logits are lost to a float16, which is why they have a unit
    for one, other in zip(*(torch.autograd.grad(v.sum() * small, x) for v, x in ((values, leaves), (truth, exact)))):
        assert one.dtype == dtype
        assert relative(one, other) < close


def test_autocast():
    hidden, weight, teacher, _ = large()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        values = token_values(Lazy(*leaves), teacher, None, None, KL)
        gradients = torch.autograd.grad(values.sum(), leaves)
    truth = token_values(Lazy(*leaves), teacher, None, None, KL)
    assert values.dtype == torch.float32
    assert 0 < relative(values.detach(), truth.detach()) < 1e-2
    for one, other in zip(gradients, torch.autograd.grad(truth.sum(), leaves)):
        assert one.dtype == torch.float32
        assert 0 < relative(one, other) < 1e-2


def test_no_tensor_of_tokens_by_vocabulary():
    hidden, weight, teacher, labels = large(tokens=300, width=8, vocabulary=700)
    student = Lazy(hidden.requires_grad_(), weight.requires_grad_())
    with Spy() as spy:
        for term in (KL, total_variation, TokenTerm(entropy)):
            token_values(
                student, teacher, labels, None, term, memory=memory_of(32, 700, 2, 4)
            ).square().sum().backward()
    assert spy.largest == 32 * 700


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_weighed_sums_are_the_walk(seed: int, block: int):
    """sum_i w_i value_i is what walk() gives for a mask of w, for w that are not negative."""
    problem, weights = Problem(seed=seed % 100), upstream(seed).abs()
    total, _ = signals.walk(
        problem.student,
        problem.teacher,
        None,
        weights,
        [KL],
        torch.ones(1, dtype=torch.float64),
        memory=memory_of(block),
    )
    values = (token_values(problem.student, problem.teacher, None, None, KL, memory=memory_of(block)) * weights).sum()
    torch.testing.assert_close(values, total, **EXACT)
    for ours, theirs in zip(torch.autograd.grad(values, problem.leaves), torch.autograd.grad(total, problem.leaves)):
        torch.testing.assert_close(ours, theirs, **EXACT)
