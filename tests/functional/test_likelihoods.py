"""Measures of two likelihoods, and of sorted probabilities: against loops, limits, gradients, golden cases."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError

COINS = (f.binary_cross_entropy, f.binary_kl, f.binary_reverse_kl)
EVERY = (*COINS, f.rate_kl, f.likelihood_gap)
logs = st.lists(st.floats(-60, 0), min_size=1, max_size=6)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None)
@given(logs, st.sampled_from([1.0, 7.0, 100.0]))
def test_coins_against_a_loop_over_heads_and_tails(values, temperature):
    student, teacher = tensor(values), tensor(values[::-1])
    for one, other, measure in zip(student, teacher, range(len(values))):
        q, p = (math.exp(float(x) / temperature - 1e-6) for x in (one, other))
        rest = [-math.expm1(float(x) / temperature - 1e-6) for x in (one, other)]
        heads, tails = math.log(p) - math.log(q), math.log(rest[1]) - math.log(rest[0])
        expected = {
            f.binary_cross_entropy: -(p * math.log(q) + rest[1] * math.log(rest[0])),
            f.binary_kl: p * heads + rest[1] * tails, f.binary_reverse_kl: -q * heads - rest[0] * tails,
        }  # fmt: skip
        for formula, value in expected.items():
            found = formula(student, teacher, temperature=temperature, reduction="none")[measure]
            assert float(found) == pytest.approx(value, rel=1e-7, abs=1e-11)


@settings(deadline=None)
@given(logs)
def test_divergences_are_zero_at_equality_and_nowhere_less(values):
    student, teacher = tensor(values), tensor(values[::-1])
    for formula in EVERY[1:]:
        assert float(formula(student, student)) == pytest.approx(0, abs=1e-12)
        assert (formula(student, teacher, reduction="none") >= -1e-12).all()


def test_a_coin_s_divergence_tends_to_that_of_rates():
    student, teacher = tensor([-3.0, -0.2, -11.0]), tensor([-1.0, -0.5, -14.0])
    limit = f.rate_kl(student, teacher, reduction="none", epsilon=1e-12)
    gaps = [
        (t * f.binary_kl(student, teacher, temperature=t, epsilon=1e-15, reduction="none") - limit).abs().max()
        for t in (1e2, 1e3, 1e4)
    ]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]  # the error is of order 1 / T
    assert gaps[2] < 2e-2


@pytest.mark.parametrize("formula", EVERY)
def test_gradients_are_those_of_differences_and_only_the_student_s(formula):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (-torch.rand(7, generator=generator, dtype=torch.float64) * 20 - 0.1 for _ in range(2))
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: formula(s, teacher.detach()), student)
    formula(student, teacher).backward()
    assert teacher.grad is None


def test_cross_entropy_and_divergence_have_one_gradient_which_falls_with_the_temperature():
    teacher = tensor([-1.0, -4.0])
    slopes = {}
    for temperature in (100.0, 1000.0):
        found = []
        for formula in (f.binary_cross_entropy, f.binary_kl):
            student = tensor([-2.0, -3.0]).requires_grad_()
            found.append(torch.autograd.grad(formula(student, teacher, temperature=temperature), student)[0])
        torch.testing.assert_close(*found)
        slopes[temperature] = found[0]
    torch.testing.assert_close(slopes[100.0] / slopes[1000.0], tensor([10.0, 10.0]), rtol=0.05, atol=0)


@pytest.mark.parametrize("value", [-1e-7, -1e-3, -0.69, -0.7, -5.0, -50.0, -700.0])
def test_log1mexp_is_exact_in_float32_with_its_gradient(value):
    x = torch.tensor(value, requires_grad=True)
    found = f.log1mexp(x)
    exact = float(
        np.log(-np.expm1(np.longdouble(float(x.detach())))) if value > -0.7 else np.log1p(-np.exp(np.longdouble(value)))
    )
    assert float(found.detach()) == pytest.approx(exact, rel=1e-5, abs=1e-37)
    found.backward()
    assert float(x.grad) == pytest.approx(-1 / math.expm1(-float(x.detach())), rel=1e-5, abs=1e-37)


def test_half_precision_masks_and_bad_options():
    student, teacher = tensor([-3.0, -0.2, -11.0]), tensor([-1.0, -0.5, -14.0])
    for formula in EVERY:
        low = formula(student.bfloat16(), teacher.bfloat16(), reduction="none")
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), formula(student, teacher, reduction="none"), rtol=0.1, atol=1e-3)
        kept = formula(student, teacher, mask=torch.tensor([1, 0, 1]))
        torch.testing.assert_close(kept, formula(student[[0, 2]], teacher[[0, 2]]))
    with pytest.raises(ArgumentError, match="temperature=0"):
        f.binary_kl(student, teacher, temperature=0)
    with pytest.raises(ArgumentError, match="epsilon=0"):
        f.rate_kl(student, teacher, epsilon=0)


# sorted probabilities
def test_sorted_l1_against_a_loop_with_vocabularies_of_two_sizes():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 4)) * 2
    expected = []
    for s, t in zip(student, teacher):
        q, p = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x, temperature in ((s, 2.0), (t, 0.5)))
        q, p = sorted(q, reverse=True), [*sorted(p, reverse=True), 0, 0, 0]
        expected.append(sum(abs(a - b) for a, b in zip(q, p)))
    options = {"student_temperature": 2.0, "teacher_temperature": 0.5, "reduction": "none"}
    found = f.sorted_l1(tensor(student), tensor(teacher), **options)
    np.testing.assert_allclose(found, expected)
    options["student_temperature"], options["teacher_temperature"] = 0.5, 2.0
    np.testing.assert_allclose(f.sorted_l1(tensor(teacher), tensor(student), **options), expected)
    with pytest.raises(ValueError, match="teacher_temperature=0"):
        f.sorted_l1(tensor(student), tensor(teacher), teacher_temperature=0)


def test_sorted_l1_is_blind_to_which_words_are_likely():
    student = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert float(f.sorted_l1(student, student[:, [3, 1, 5, 0, 2, 4]])) == pytest.approx(0, abs=1e-6)
    assert float(f.sorted_l1(torch.zeros(1, 1000), torch.tensor([[0.0] + [-1e4] * 999]))) == pytest.approx(2, abs=3e-3)


# released code
@pytest.mark.shared_data
def test_alm_as_in_released_code():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    index = json.loads((folder / "index.json").read_text())["language-models"]["alm"]
    case = {key: torch.from_numpy(value) for key, value in np.load(folder / index["file"]).items()}

    def scored(side, logits):
        labels = case[f"in_{side}_ids"][:, 1:].masked_fill(~case[f"in_{side}_loss_mask"][:, 1:], -100)
        chunks = case[f"in_{side}_chunk"][:, 1:].masked_fill(labels == -100, -1)
        values = f.label_log_probabilities(logits[:, :-1], labels)
        sizes = f.chunk_sums(torch.ones_like(values), chunks, index["params"]["max_chunks"])
        return f.chunk_sums(values, chunks, index["params"]["max_chunks"]), sizes > 0

    student = case["in_student_logits"].double().requires_grad_()
    (mine, known), (theirs, also) = scored("student", student), scored("teacher", case["in_teacher_logits"].double())
    options = {name: index["params"][name] for name in ("temperature", "epsilon")}
    loss = f.binary_cross_entropy(mine, theirs, **options, mask=known & also)
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    loss.backward()
    torch.testing.assert_close(student.grad, case["grad_student_logits"].double(), rtol=1e-4, atol=1e-8)
