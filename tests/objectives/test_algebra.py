"""The algebra: sums, weights, names, and one truth for every form of a term."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.core import objective
from limbeck.objectives.algebra import as_step
from limbeck.objectives.formula import compose
from limbeck.objectives.weights import Product, between, cosine, learned, ramp
from toys import gram, hard, kl, near

torch.manual_seed(0)
S, T, Y = (
    torch.randn(6, 3, dtype=torch.float64),
    torch.randn(6, 3, dtype=torch.float64),
    torch.tensor([0, 1, 2, 0, -100, 1]),
)


def plain_kl(s, t):
    p, q = t.softmax(-1), s.log_softmax(-1)
    return (p * (p.log() - q)).sum(-1)


def test_a_sum_is_the_weighted_sum_of_its_terms():
    loss = (0.3 * hard() + 0.7 * kl() + 2 * gram())(S, T, Y)
    ce = nn.functional.cross_entropy(S[Y >= 0], Y[Y >= 0])
    relation = (S @ S.T - T @ T.T).pow(2).mean()
    assert float(loss) == pytest.approx(float(0.3 * ce + 0.7 * plain_kl(S, T).mean() + 2 * relation), abs=1e-12)


@given(st.floats(0.1, 3), st.floats(0.1, 3))
def test_scaling_distributes_and_sums_commute(a, b):
    one = b * (a * kl() + hard())
    two = hard() * b + (a * b) * kl()
    assert float(one(S, T, Y)) == pytest.approx(float(two(S, T, Y)), abs=1e-9)


def test_python_s_sum_works():
    assert float(sum([kl(), hard()])(S, T, Y)) == pytest.approx(float((kl() + hard())(S, T, Y)))


def test_labels_may_be_a_mapping_with_a_weight():
    weight = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64)
    loss = kl()(S, T, {"weight": weight})
    assert float(loss) == pytest.approx(float(plain_kl(S, T)[weight > 0].mean()))


def test_tokens_are_averaged_over_their_mask():
    s, t = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    assert float(kl()(s, t, {"mask": mask})) == pytest.approx(float(plain_kl(s, t)[mask > 0].mean()), rel=1e-5)
    assert float(kl()(s, t)) == pytest.approx(float(plain_kl(s, t).mean()), rel=1e-5)


def test_no_item_that_counts_gives_zero_with_a_zero_gradient():
    s = S.clone().requires_grad_()
    loss = hard()(s, None, torch.full((6,), -100))
    loss.backward()
    assert float(loss.detach()) == 0
    assert s.grad.eq(0).all()


def test_nan_of_an_item_that_does_not_count_does_not_spread():
    s = S.clone()
    s[1] = float("nan")
    s.requires_grad_()
    weight = torch.tensor([1.0, 0, 1, 1, 1, 1], dtype=torch.float64)
    loss = kl()(s, T, {"weight": weight})
    assert torch.isfinite(loss)


def test_a_model_output_and_a_mapping_are_taken():
    class Output:
        logits = S

    assert float(kl()(Output(), {"logits": T})) == pytest.approx(float(kl()(S, T)))
    with pytest.raises(SignalError, match="Expected a tensor of logits"):
        kl()("text", T)


def test_features_must_be_named():
    with pytest.raises(ArgumentError, match=r"\.on\('layer3'\)"):
        near()(S, T)
    assert float(near().on("a", "b")({"a": S}, {"b": T})) == pytest.approx(float((S - T).pow(2).mean()))


def test_a_signal_that_is_missing_names_the_nearest():
    with pytest.raises(SignalError, match="Did you mean 'teacher:layer3'"):
        near().on("layer2", "layer33")({"layer2": S}, {"layer3": T})


def test_a_projector_must_be_built_before_its_parameters_are_asked_for():
    term = 2.0 * near().on("a", "b").projected("linear")
    with pytest.raises(SignalError, match="build"):
        list(term.parameters())
    a, b = torch.randn(5, 4), torch.randn(5, 7)
    term.build({"a": a}, {"b": b})
    assert sum(p.numel() for p in term.parameters()) == 4 * 7 + 7
    again = (2.0 * near().on("a", "b").projected("linear")).build({"a": a}, {"b": b})
    assert all(torch.equal(x, y) for x, y in zip(term.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "student", "teacher"), [
    ("auto", (2, 4, 8, 8), (2, 6, 4, 4)), ("conv", (2, 4, 4, 4), (2, 6, 8, 8)), ("regressor", (2, 4, 8, 8), (2, 6, 4, 4)),
    ("regressor", (2, 4, 4, 4), (2, 6, 8, 8)), ("regressor", (2, 4, 7, 7), (2, 6, 4, 4)), ("linear", (2, 5, 4), (2, 5, 6)),
])  # fmt: skip
def test_projectors_give_the_teacher_s_shape(kind, student, teacher):
    term = near().on("a", "b").projected(kind).build({"a": torch.randn(student)}, {"b": torch.randn(teacher)})
    assert term.projector(torch.randn(student)).shape == teacher


def test_projectors_that_cannot_fit_say_which_would():
    with pytest.raises(SignalError, match="projected\\('conv'\\)"):
        near().on("a", "b").projected("linear").build({"a": torch.randn(2, 4, 3, 3)}, {"b": torch.randn(2, 5, 3, 3)})
    with pytest.raises(ArgumentError, match="Did you mean 'linear'"):
        near().on("a", "b").projected("linea").build({"a": S}, {"b": T})


def test_a_transform_is_put_before_the_comparison():
    loss = kl().through(lambda z: 2 * z)(S, T)
    assert float(loss) == pytest.approx(float(kl()(2 * S, 2 * T)))


def test_schedules():
    assert [ramp(0, 2)(p)[0] for p in (0, 0.5, 1)] == [0, 1, 2]
    assert ramp(1, 0, begin=0.5)(0.25)[0] == 1
    assert cosine(1, 0)(0.5)[0] == pytest.approx(0.5)
    assert [between(0.2, 0.5)(p)[0] for p in (0.1, 0.3, 0.5)] == [0, 1, 0]
    step = as_step(S, T, Y, progress=0.5)
    assert float((ramp(0, 1) * kl()).evaluate(step)[0]) == pytest.approx(0.5 * float(kl()(S, T)))


def test_a_learned_weight_settles_where_factor_times_loss_is_one():
    """The minimum of exp(-s) L + s is at s = log L: a bare factor would run to 0."""
    weight = learned()
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.3)
    for _ in range(200):
        factor, penalty = weight(0.0)
        optimizer.zero_grad()
        (factor * 5.0 + penalty).backward()
        optimizer.step()
    assert float(weight.s.detach()) == pytest.approx(math.log(5.0), abs=1e-3)


def test_products_of_weights():
    factor, penalty = (2.0 * learned(0.5))(0.0)
    assert float(factor.detach()) == pytest.approx(1.0)
    assert float(penalty.detach()) == pytest.approx(2 * math.log(2))
    with pytest.raises(ArgumentError, match="one learned weight"):
        Product(learned(), learned())
    assert (0.0 * ramp(0, 1)).is_zero


@pytest.mark.parametrize("weight", [float("nan"), True, "1"])
def test_wrong_weights_are_refused(weight):
    with pytest.raises((ArgumentError, TypeError)):
        weight * kl()


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ArgumentError, match="Did you mean 'temperature'"):
        kl(temprature=3)


def test_a_declaration_that_cannot_be_read_is_refused():
    with pytest.raises(TypeError, match="positional parameters"):

        @objective(per="item")
        def wrong(pupil, teacher, *, mask=None, reduction="mean"):
            return pupil

    with pytest.raises(ArgumentError, match="not declared"):
        compose(lambda student, teacher: student)


def test_half_precision_signals_are_compared_in_float32():
    loss = kl()(S.bfloat16(), T.bfloat16())
    assert loss.dtype == torch.float32


def test_names_and_text():
    text = str(0.5 * kl(temperature=2.0) + near().on("a", "b").projected())
    assert text == "0.5 * kl(temperature=2) + near().on('a', 'b').projected('auto')"
    assert (kl() + kl()).names == ["kl", "kl_2"]


def test_weight_of_a_batch_object_counts():
    batch = Batch(None, torch.arange(6), Y, weight=torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64))
    assert float(hard()(S, None, batch)) == pytest.approx(float(nn.functional.cross_entropy(S[:3], Y[:3])))
