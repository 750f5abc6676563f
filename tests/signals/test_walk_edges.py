"""Every divergence at the ends of its options, walked: as the formula on whole logits in float64, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from lazy_toys import memory_of, relative
from torch import Tensor

from limbeck.functional.response import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from limbeck.functional.selection import entropy
from limbeck.functional.tokens import skew_forward_kl, skew_reverse_kl, total_variation
from limbeck.functional.topk import topk_forward_kl
from limbeck.signals import Lazy, Post, TokenTerm, token_values, walk

SHARES = (0.0, 1e-3, 0.5, 1 - 1e-3, 1.0)
TERMS = [
    *(TokenTerm(form, {"temperature": t}) for form in (forward_kl, reverse_kl, total_variation) for t in (0.5, 1.0, 3.0)),
    *(TokenTerm(jensen_shannon, {"beta": beta, "temperature": t}) for beta in SHARES for t in (1.0, 2.0)),
    *(TokenTerm(form, {"skew": skew}) for form in (skew_forward_kl, skew_reverse_kl) for skew in SHARES),
    *(TokenTerm(topk_forward_kl, {"k": k, "temperature": t}) for k in (1, 2, 50) for t in (1.0, 2.0)),
    TokenTerm(entropy), TokenTerm(cross_entropy), TokenTerm(cross_entropy, {"label_smoothing": 0.1}),
]  # fmt: skip
ONE = torch.ones(1)


def name_of(term: TokenTerm) -> str:
    return f"{term.name} {' '.join(map(str, term.options.values()))}"


def sides(size: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[list[Tensor], Lazy, Tensor]:
    """A student's leaves, a teacher, labels [13]."""
    draw = torch.Generator().manual_seed(size)
    hidden, weight = torch.randn(13, 6, generator=draw), torch.randn(size, 6, generator=draw) * scale
    teacher = Lazy(torch.randn(13, 4, generator=draw).to(dtype), torch.randn(size, 4, generator=draw).to(dtype) * scale)
    labels = torch.randint(size, (13,), generator=draw)
    return [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()], teacher, labels


def reference(term: TokenTerm, leaves: list[Tensor], teacher: Lazy, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    theirs = Lazy(
        teacher.hidden.double(), teacher.weight.double(), None if teacher.bias is None else teacher.bias.double()
    )
    student = exact[0] @ exact[1].T
    total = (
        term(student, theirs.whole(), labels).sum() + 0 * student.sum()
    )  # at an end a formula may not see the student
    return total, list(torch.autograd.grad(total, exact))


@pytest.mark.parametrize("term", TERMS, ids=name_of)
@pytest.mark.parametrize("size", [2, 30])
def test_the_ends_of_its_options(term: TokenTerm, size: int):
    leaves, teacher, labels = sides(size)
    total, _ = walk(Lazy(*leaves), teacher, labels, None, [term], ONE.double(), memory=memory_of(5, size))
    value, gradients = reference(term, leaves, teacher, labels)
    torch.testing.assert_close(total, value, rtol=0, atol=1e-11)
    for ours, theirs in zip(torch.autograd.grad(total, leaves), gradients):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("term", TERMS, ids=name_of)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-4), (torch.bfloat16, 0.1)])
def test_in_lower_precision(term: TokenTerm, dtype: torch.dtype, close: float):
    leaves, teacher, labels = sides(30, dtype, scale=0.3)
    total, _ = walk(Lazy(*leaves), teacher, labels, None, [term], ONE, memory=memory_of(5, 30, 2, 4))
    value, gradients = reference(term, leaves, teacher, labels)
    if value.abs() < 1e-3:  # 1e-3 from an end where it is 0: nothing but rounding is left of it
        assert abs(total.item() - value.item()) < close
        return
    assert relative(total.detach(), value.detach()) < close
    for ours, theirs in zip(torch.autograd.grad(total, leaves), gradients):
        assert relative(ours, theirs) < close


DIVERGENCES = [term for term in TERMS if term.function not in (entropy, cross_entropy, topk_forward_kl)]


@pytest.mark.parametrize("term", DIVERGENCES, ids=name_of)
@pytest.mark.parametrize(("mine", "theirs"), [(50, 50), (50, 64), (64, 50)])
def test_a_student_that_is_its_teacher_scores_exactly_zero(term: TokenTerm, mine: int, theirs: int):
    """Vocabularies that were padded differently meet on the shared part, to the last bit."""
    draw = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(40, 16, generator=draw), torch.randn(64, 16, generator=draw)
    student, teacher = (Lazy(hidden, weight[:size].clone(), post=Post(0.5, 9.0)) for size in (mine, theirs))
    values = token_values(student, teacher, None, None, term)
    total, _ = walk(Lazy(hidden.requires_grad_(), student.weight, post=student.post), teacher, None, None, [term], ONE)
    assert not values.any()
    assert total == 0


# where the student has mass that the teacher excludes, KL(student || teacher) is infinite, as the formula is
INFINITE = [(jensen_shannon, 1.0), (skew_reverse_kl, 0.0)]
FINITE = [
    term for term in TERMS
    if term.function not in (reverse_kl, cross_entropy)
    and (term.function, next(iter(term.options.values()), None)) not in INFINITE
]  # fmt: skip


@pytest.mark.parametrize("term", FINITE, ids=name_of)
def test_a_teacher_that_excludes_tokens(term: TokenTerm):
    leaves, teacher, labels = sides(30)
    bias = torch.zeros(30, dtype=torch.float64)
    bias[3:9] = -torch.inf
    teacher = Lazy(teacher.hidden, teacher.weight, bias)
    value, gradients = reference(term, leaves, teacher, labels)
    total, _ = walk(Lazy(*leaves), teacher, labels, None, [term], ONE.double())
    torch.testing.assert_close(total, value, rtol=0, atol=1e-11)
    for ours, theirs in zip(torch.autograd.grad(total, leaves), gradients):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("term", TERMS, ids=name_of)
def test_an_empty_mask(term: TokenTerm):
    leaves, teacher, labels = sides(30)
    total, values = walk(Lazy(*leaves), teacher, labels, torch.zeros(13), [term], ONE.double())
    assert total == 0
    assert not values.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(total, leaves))
