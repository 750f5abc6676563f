"""The walk equals the same formulas on whole logits, in value and every gradient, and never holds them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lazy_toys import EXACT, TERMS, Problem, Spy, large, memory_of, relative, total_variation, weights_for
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import objective
from limbeck.functional.response import cross_entropy, forward_kl
from limbeck.signals.blocks import Post, TokenTerm
from limbeck.signals.lazy import Lazy, walk


def assert_same(problem: Problem, terms, walked: tuple[Tensor, Tensor], naive: tuple[Tensor, Tensor], weights: Tensor):
    leaves = [*problem.leaves, *([weights] if weights.requires_grad else [])]
    torch.testing.assert_close(walked[0], naive[0], **EXACT)
    torch.testing.assert_close(walked[1], naive[1], **EXACT)
    assert not walked[1].requires_grad
    scale = 1 / 17  # what a caller divides by
    for ours, theirs in zip(
        torch.autograd.grad(walked[0] * scale, leaves), torch.autograd.grad(naive[0] * scale, leaves)
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


# equality with whole logits
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("block", [1, 7, 500])
def test_equals_whole_logits(name: str, block: int):
    problem, terms = Problem(), TERMS[name]
    weights = weights_for(terms)
    assert_same(problem, terms, problem.walk(terms, weights, block), problem.naive(terms, weights), weights)


@pytest.mark.parametrize(("student", "teacher"), [(30, 41), (41, 30)])
def test_padded_vocabularies_meet_on_the_shared_part(student: int, teacher: int):
    problem, terms = Problem(student, teacher), TERMS["all"]
    weights = weights_for(terms)
    walked = problem.walk(terms, weights)
    assert_same(problem, terms, walked, problem.naive(terms, weights), weights)
    gradient = torch.autograd.grad(problem.walk(terms, weights)[0], problem.weight)[0]
    assert gradient.shape == problem.weight.shape
    assert not gradient[30:].any()


@pytest.mark.parametrize("post", [Post(scale=0.25), Post(softcap=3.0), Post(scale=-2.0, softcap=1.5)])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_scale_and_cap(post: Post, bias: bool):
    problem, terms = Problem(bias=bias, post=post), TERMS["all"]
    weights = weights_for(terms)
    assert_same(problem, terms, problem.walk(terms, weights), problem.naive(terms, weights), weights)


def test_learned_weights_get_the_values_as_gradient():
    problem, terms = Problem(), TERMS["all"]
    weights = weights_for(terms, trained=True)
    walked = problem.walk(terms, weights)
    assert_same(problem, terms, walked, problem.naive(terms, weights), weights)
    total, values = problem.walk(terms, weights)
    torch.testing.assert_close(torch.autograd.grad(total, weights)[0], values, **EXACT)


def test_gradcheck():
    problem = Problem(8, 8, bias=True, post=Post(0.5, 4.0))
    terms = TERMS["all"]

    def total(hidden: Tensor, weight: Tensor, bias: Tensor, weights: Tensor) -> Tensor:
        student = Lazy(hidden, weight, bias, problem.post)
        return walk(student, problem.teacher, problem.labels[:1, 3:], None, terms, weights, memory=memory_of(4, 8))[0]

    problem.teacher = Lazy(problem.teacher.hidden[:1, 3:], problem.teacher.weight)
    hidden = problem.hidden[:1, 3:].detach().requires_grad_()
    inputs = (hidden, problem.weight, problem.bias, weights_for(terms, trained=True))
    assert torch.autograd.gradcheck(total, inputs, atol=1e-6)


def test_whole_teacher_logits_serve_as_well():
    problem, terms = Problem(30, 41), TERMS["all"]
    weights = weights_for(terms)
    whole = problem.walk(terms, weights, teacher=problem.teacher.whole())
    torch.testing.assert_close(whole[1], problem.walk(terms, weights)[1], **EXACT)


def test_no_teacher_is_needed_for_labels():
    problem, terms = Problem(), TERMS["ce"]
    weights = weights_for(terms)
    assert_same(problem, terms, problem.walk(terms, weights, teacher=None), problem.naive(terms, weights), weights)


def test_a_mask_of_numbers_weighs_tokens():
    problem, terms = Problem(), TERMS["all"]
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * problem.mask
    weights = weights_for(terms)
    assert_same(problem, terms, problem.walk(terms, weights, mask=mask), problem.naive(terms, weights, mask), weights)


def test_masked_tokens_are_never_read():
    problem, terms = Problem(), TERMS["all"]
    weights = weights_for(terms)
    with torch.no_grad():
        problem.hidden[~problem.mask] = torch.nan
        problem.teacher.hidden[~problem.mask] = torch.nan
    total, values = problem.walk(terms, weights)
    assert values.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(total, problem.leaves))


def test_no_valid_token_gives_zero_and_zero_gradients():
    problem, terms = Problem(bias=True), TERMS["all"]
    weights = weights_for(terms, trained=True)
    total, values = problem.walk(terms, weights, mask=torch.zeros(4, 9))
    assert total == 0
    assert not values.any()
    for gradient in torch.autograd.grad(total, [*problem.leaves, weights]):
        assert not gradient.any()


def test_zero_weights_are_not_divided_by():
    problem, terms = Problem(), TERMS["ce + kl"]
    total, values = problem.walk(terms, torch.zeros(2, dtype=torch.float64))
    assert total == 0
    assert values.all()
    assert not torch.autograd.grad(total, problem.hidden)[0].any()


# how it lives with autograd
def test_tied_embedding():
    problem, terms = Problem(bias=True), TERMS["all"]
    weights, ids = weights_for(terms), problem.labels.clamp(min=0)

    def gradients(way: str) -> list[Tensor]:
        problem.hidden = torch.tanh(F.embedding(ids, problem.weight))
        return list(torch.autograd.grad(getattr(problem, way)(terms, weights)[0], problem.leaves[1:]))

    for ours, theirs in zip(gradients("walk"), gradients("naive")):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_two_micro_batches_equal_one():
    problem, terms = Problem(), TERMS["all"]
    count = problem.mask.sum()
    weights = weights_for(terms)
    (problem.walk(terms, weights)[0] / count).backward()
    whole = [leaf.grad.clone() for leaf in problem.leaves]
    for leaf in problem.leaves:
        leaf.grad = None
    for part in (slice(0, 1), slice(1, 4)):
        student = Lazy(problem.hidden[part], problem.weight)
        teacher = Lazy(problem.teacher.hidden[part], problem.teacher.weight)
        (walk(student, teacher, problem.labels[part], problem.mask[part], terms, weights)[0] / count).backward()
    for leaf, expected in zip(problem.leaves, whole):
        torch.testing.assert_close(leaf.grad, expected, **EXACT)


def test_it_never_writes_grad_and_backward_may_run_twice():
    problem, terms = Problem(), TERMS["ce + kl"]
    total, _ = problem.walk(terms, weights_for(terms))
    assert problem.weight.grad is None
    first = torch.autograd.grad(total, problem.leaves, retain_graph=True)
    again = torch.autograd.grad(3 * total, problem.leaves)
    for one, other in zip(first, again):
        torch.testing.assert_close(3 * one, other, **EXACT)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, problem.leaves)


def test_frozen_parts_cost_nothing():
    problem, terms = Problem(), TERMS["all"]
    problem.weight.requires_grad_(False)
    total, _ = problem.walk(terms, weights_for(terms))
    expected = torch.autograd.grad(problem.naive(terms, weights_for(terms))[0], problem.hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(total, problem.hidden)[0], expected, **EXACT)
    with torch.no_grad():
        total, values = problem.walk(terms, weights_for(terms))
    assert not total.requires_grad
    torch.testing.assert_close(values, problem.naive(terms, weights_for(terms))[1], **EXACT)


def test_a_learned_option_is_trained_by_autograd():
    problem = Problem()
    scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    weights = weights_for([0, 0])

    def terms() -> list:
        return [TokenTerm(forward_kl, {"temperature": scale.exp()}), TokenTerm(cross_entropy)]

    assert terms()[0].closed() is None
    leaves = [*problem.leaves, scale]
    ours = torch.autograd.grad(problem.walk(terms(), weights)[0], leaves)
    theirs = torch.autograd.grad(problem.naive(terms(), weights)[0], leaves)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, **EXACT)


def test_what_a_function_closes_over_must_be_declared():
    problem = Problem()
    sharpness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def sharp(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return total_variation(sharpness * student, teacher, labels)

    weights = weights_for([0])
    with pytest.raises(SignalError, match="did not declare"):
        problem.walk([sharp], weights)
    term = TokenTerm(sharp, parameters=(sharpness,))
    ours = torch.autograd.grad(problem.walk([term], weights)[0], sharpness)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(problem.naive([term], weights)[0], sharpness)[0], **EXACT)


def test_torch_func_is_refused():
    problem, terms = Problem(), TERMS["kl"]
    weights = weights_for(terms)

    def total(hidden: Tensor) -> Tensor:
        return walk(Lazy(hidden, problem.weight), problem.teacher, None, None, terms, weights)[0]

    with pytest.raises(SignalError, match=r"torch\.func"):
        torch.func.grad(total)(problem.hidden.detach())


def test_differentiating_twice_is_refused():
    problem, terms = Problem(), TERMS["kl"]
    total, _ = problem.walk(terms, weights_for(terms))
    with pytest.raises(SignalError, match="create_graph"):
        torch.autograd.grad(total, problem.hidden, create_graph=True)


# precision
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("divide", ["outside", "by the weights"])
def test_half_precision(dtype: torch.dtype, close: float, divide: str):
    hidden, weight, teacher, labels = large()
    terms, weights, count = TERMS["ce + kl"], torch.tensor([0.5, 2.0]), 1e6  # so many that 1 / count is lost in float16
    leaves = [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    scaled = weights / count if divide == "by the weights" else weights
    total, values = walk(Lazy(*leaves), teacher, labels, None, terms, scaled)
    total = total if divide == "by the weights" else total / count
    ours = torch.autograd.grad(total * 65536, leaves)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    doubled = Lazy(teacher.hidden.double(), teacher.weight.double())
    reference = walk(Lazy(*exact), doubled, labels, None, terms, weights.double() / count)
    theirs = torch.autograd.grad(reference[0] * 65536, exact)
    assert relative(values, reference[1]) < close
    for one, other, leaf in zip(ours, theirs, leaves):
        assert one.dtype == leaf.dtype
        assert relative(one, other) < close


def test_autocast_multiplies_in_half_and_compares_in_full():
    hidden, weight, teacher, labels = large()
    hidden.requires_grad_()
    weight.requires_grad_()
    terms, weights = TERMS["ce + kl"], torch.ones(2)
    with torch.autocast("cpu", torch.bfloat16):
        student = Lazy(hidden, weight)
        total, values = walk(student, teacher, labels, None, terms, weights)
    assert student.dtype == student.whole().dtype == torch.bfloat16
    assert total.dtype == torch.float32
    ours = torch.autograd.grad(total, (hidden, weight))
    full, expected = walk(Lazy(hidden, weight), teacher, labels, None, terms, weights)
    assert 0 < relative(values, expected) < 1e-2
    for one, other in zip(ours, torch.autograd.grad(full, (hidden, weight))):
        assert one.dtype == torch.float32
        assert 0 < relative(one, other) < 1e-2


# memory
def test_no_tensor_of_tokens_by_vocabulary():
    hidden, weight, teacher, labels = large(tokens=300, width=8, vocabulary=700)
    hidden.requires_grad_()
    weight.requires_grad_()
    terms = TERMS["all"]
    with Spy() as walked:
        walk(
            Lazy(hidden, weight), teacher, labels, None, terms, torch.ones(len(terms)), memory=memory_of(32, 700, 2, 4)
        )[0].backward()
    assert walked.largest == 32 * 700
    with Spy() as whole:
        Lazy(hidden, weight).whole()
    assert whole.largest == 300 * 700


# refusals
def test_errors_name_what_was_given():
    problem, terms = Problem(), TERMS["ce + kl"]
    weights = weights_for(terms)

    @objective(per="batch")
    def whole_batch(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()

    def mean(student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> Tensor:
        return student.mean()

    one = weights[:1]
    for message, call in {
        r"labels for \[2, 9\]": lambda: problem.walk(terms, weights, labels=problem.labels[:2]),
        "needs teacher": lambda: problem.walk(terms, weights, teacher=None),
        "needs labels": lambda: problem.walk(terms, weights, labels=None),
        "one weight for each of the 2 terms": lambda: problem.walk(terms, one),
        "outside the shared vocabulary of 30": lambda: problem.walk(terms, weights, labels=problem.labels + 30),
        "whole batch": lambda: problem.walk([TokenTerm(whole_batch)], one),
        "Expected one value for each token": lambda: problem.walk([mean], one),
        "memory=0": lambda: walk(problem.student, None, problem.labels, None, TERMS["ce"], one, memory=0),
        "lazy logits of the student": lambda: walk(problem.student.whole(), None, problem.labels, None, terms, weights),
        "gets no gradient": lambda: walk(
            problem.student, None, problem.labels, torch.ones(4, 9, requires_grad=True), TERMS["ce"], one
        ),
        r"hidden \[..., width\]": lambda: Lazy(problem.hidden, problem.weight[:, :5]),
        r"bias \[30\]": lambda: Lazy(problem.hidden, problem.weight, problem.weight[:, 0][:4]),
        "expected 1 to 30": lambda: Lazy(problem.hidden, problem.weight, size=31),
        "must not be 0": lambda: Post(scale=0.0),
    }.items():
        with pytest.raises(SignalError, match=message):
            call()


# the signal itself
def test_lazy_is_a_signal():
    problem = Problem(30, bias=True, post=Post(2.0, 5.0))
    lazy = Lazy(problem.hidden, problem.weight, problem.bias, problem.post, size=20)
    raw = problem.hidden @ problem.weight.T + problem.bias
    expected = (5 * torch.tanh(2 * raw / 5))[..., :20]
    assert lazy.shape == expected.shape == (4, 9, 20)
    assert (lazy.dtype, lazy.ndim, len(lazy)) == (torch.float64, 3, 4)
    torch.testing.assert_close(lazy.whole(), expected, **EXACT)
    rows = torch.tensor([0, 10, 35])
    torch.testing.assert_close(lazy.block(rows), expected.flatten(0, 1)[rows], **EXACT)
    assert lazy.requires_grad
    assert not lazy.detach().requires_grad
    assert not lazy.detach().whole().requires_grad


def test_a_size_of_ones_own_is_kept():
    problem, terms = Problem(), TERMS["kl"]
    weights = weights_for(terms)
    cut = Lazy(problem.hidden, problem.weight, size=20)
    total, values = walk(cut, problem.teacher, None, problem.mask, terms, weights)
    problem.size = 20
    torch.testing.assert_close(values, problem.naive(terms, weights)[1], **EXACT)
    assert not torch.autograd.grad(total, problem.weight)[0][20:].any()
