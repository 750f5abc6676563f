"""Every registered closed form equals autograd, and new ones can be registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.functional.core import objective, reduce
from limbeck.functional.response import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from limbeck.functional.tokens import skew_forward_kl, skew_reverse_kl, total_variation
from limbeck.functional.topk import topk_forward_kl
from limbeck.signals.blocks import _FORMS, Block, TokenTerm, closed_form
from limbeck.signals.lazy import Lazy, walk

OPTIONS = {
    forward_kl: [{}, {"temperature": 1.0}, {"temperature": 3.0}],
    reverse_kl: [{}, {"temperature": 1.0}, {"temperature": 0.5}],
    cross_entropy: [{}, {"label_smoothing": 0.0}],
    jensen_shannon: [{}, {"beta": 0.1, "temperature": 2.0}, {"beta": 1e-3}, {"beta": 1 - 1e-3}],
    skew_forward_kl: [{}, {"skew": 0.5, "temperature": 2.0}, {"skew": 1e-3}],
    skew_reverse_kl: [{}, {"skew": 0.5, "temperature": 2.0}, {"skew": 1 - 1e-3}],
    total_variation: [{}, {"temperature": 2.0}],
    topk_forward_kl: [{}, {"k": 1}, {"k": 3, "temperature": 2.0}, {"k": 10}],
}
CASES = [(function, options) for function, several in OPTIONS.items() for options in several]


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]


def test_every_form_is_in_this_table():
    assert TokenTerm(forward_kl).closed() is not None  # they are registered when first asked for
    assert set(_FORMS) == set(OPTIONS)


@pytest.mark.parametrize(("function", "options"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
@pytest.mark.parametrize("excluded", [False, True], ids=["finite", "teacher excludes tokens"])
def test_closed_equals_autograd(function, options, excluded):
    student, teacher, coefficient = tensors((6, 11), (6, 11), (6,))
    if excluded and function is not reverse_kl:  # there the formula is infinite
        teacher[2:, 4:7] = -torch.inf
    labels = torch.tensor([0, 10, 3, -100, 5, 5])
    term = TokenTerm(function, options)
    block = Block(6, 11, torch.float64, torch.device("cpu"))
    block.start(student, teacher, labels)
    form = term.closed()
    assert form is not None
    values = form(block, coefficient)
    gradient = block.finish()
    leaf = student.clone().requires_grad_()
    expected = term(leaf, teacher, labels)
    slope = torch.autograd.grad(expected, leaf, coefficient)[0]
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


# a sum of the rest is rounded
EQUAL = [(function, options) for function, options in CASES if function not in (cross_entropy, topk_forward_kl)]


@pytest.mark.parametrize(("function", "options"), EQUAL, ids=lambda case: getattr(case, "__name__", str(case)))
def test_a_student_equal_to_its_teacher_scores_exactly_zero(function, options):
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) * 5
    term = TokenTerm(function, options)
    block = Block(6, 40, torch.float32, torch.device("cpu"))
    block.start(logits, logits.clone(), None)
    values = term.closed()(block, torch.ones(6))
    assert (values == 0).all()
    assert (term(logits, logits, None) == 0).all()
    assert block.finish().abs().max() < 1e-6


def test_forms_share_one_softmax_a_temperature(monkeypatch):
    hidden, weight, other = tensors((5, 4), (12, 4), (12, 4))
    calls: list[int] = []
    softmax = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda *args, **kwargs: calls.append(1) or softmax(*args, **kwargs))
    terms = [TokenTerm(forward_kl, {"temperature": 2.0}), TokenTerm(reverse_kl, {"temperature": 2.0})]
    walk(Lazy(hidden.requires_grad_(), weight), Lazy(hidden, other), None, None, terms, torch.ones(2))
    assert len(calls) == 2  # one for the student, one for the teacher


def test_a_tensor_as_option_has_no_closed_form():
    assert TokenTerm(forward_kl, {"temperature": torch.tensor(2.0)}).closed() is None
    assert TokenTerm(lambda student, teacher, labels: student[:, 0]).closed() is None


def test_options_without_a_closed_form_go_by_autograd():
    smooth = TokenTerm(cross_entropy, {"label_smoothing": 0.1})
    assert smooth.closed() is None
    hidden, weight = tensors((5, 4), (12, 4))
    labels, one = torch.arange(5), torch.ones(1, dtype=torch.float64)
    total, _ = walk(Lazy(hidden.requires_grad_(), weight), None, labels, None, [smooth], one)
    expected = cross_entropy(hidden @ weight.T, labels, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="temperature=0"):
        walk(Lazy(hidden, weight), Lazy(hidden, weight), None, None, [TokenTerm(forward_kl, {"temperature": 0})], one)


def test_a_new_form_is_used_where_it_accepts_the_options():
    @objective(per="item")
    def likelihood(student: Tensor, labels: Tensor, *, power: float = 1.0, mask=None, reduction="mean") -> Tensor:
        chances = student.log_softmax(-1).gather(1, labels[:, None])[:, 0]
        return reduce(-chances * power, mask, reduction)

    used: list[float] = []

    @closed_form(likelihood, accepts=lambda power: power == 2)
    def _(block: Block, coefficient: Tensor, power: float) -> Tensor:
        used.append(power)
        assert block.labels is not None
        block.add_at(1.0, block.labels[:, None], -power * coefficient[:, None])
        return -power * block.log_student().gather(1, block.labels[:, None])[:, 0]

    try:
        hidden, weight = tensors((5, 4), (12, 4))
        labels = torch.arange(5)
        for power in (1.0, 2.0):
            leaf = hidden.clone().requires_grad_()
            terms, weights = [TokenTerm(likelihood, {"power": power})], torch.ones(1, dtype=torch.float64)
            total, _ = walk(Lazy(leaf, weight), None, labels, None, terms, weights, memory=3 * 12 * 8)
            expected = likelihood(leaf @ weight.T, labels, power=power, reduction="sum")
            torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
            ours, theirs = (torch.autograd.grad(one, leaf)[0] for one in (total, expected))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert used == [2.0, 2.0]  # two blocks of the second walk
    finally:
        del _FORMS[likelihood]
