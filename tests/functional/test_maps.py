"""Formulas over maps against loops in NumPy, official outputs, and what they are blind to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from goldens import load
from limbeck import functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives.projectors import projector

rng = np.random.default_rng(5)
S, T = rng.normal(size=(3, 4, 3, 2)), rng.normal(size=(3, 5, 3, 2))
s, t = torch.tensor(S), torch.tensor(T)


def test_channel_mmd_by_hand():
    def kernel(a, b):
        total = 0
        for u in a.reshape(len(a), -1):
            for v in b.reshape(len(b), -1):
                total += (u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)) ** 2
        return total / len(a) / len(b)

    expected = [kernel(y, y) + kernel(x, x) - 2 * kernel(x, y) for x, y in zip(S, T)]
    np.testing.assert_allclose(f.channel_mmd(s, t, reduction="none").numpy(), expected, rtol=1e-10)


@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_channel_mmd_is_blind_to_order_sign_and_strength_of_channels(seed, scale):
    draw = torch.Generator().manual_seed(seed)
    order, sign = torch.randperm(4, generator=draw), torch.randint(2, (4, 1, 1), generator=draw) * 2 - 1
    other = (scale * s * sign)[:, order]
    torch.testing.assert_close(f.channel_mmd(other, t), f.channel_mmd(s, t), rtol=1e-9, atol=0)
    assert float(f.channel_mmd(other, s)) == pytest.approx(0, abs=1e-10)
    assert float(f.channel_mmd(s, t)) > 0


def test_channel_kl_by_hand():
    other = rng.normal(size=S.shape)

    def softmax(v):
        e = np.exp(v.ravel() / 2.0)
        return e / e.sum()

    values = []
    for x, y in zip(S, other):
        kl = [softmax(b) @ np.log(softmax(b) / softmax(a)) for a, b in zip(x, y)]
        values.append(4 * np.mean(kl))
    found = f.channel_kl(s, torch.tensor(other), temperature=2.0, reduction="none")
    np.testing.assert_allclose(found.numpy(), values, rtol=1e-10)
    moved = s + torch.randn(3, 4, 1, 1, dtype=torch.float64)  # softmax does not see a constant of a channel
    assert float(f.channel_kl(moved, s)) == pytest.approx(0, abs=1e-12)
    one = torch.randn(2, 3, 1, 1)
    assert float(f.channel_kl(one, -one)) == 0  # one position has nothing to say


def test_summed_squares_grows_with_the_layer():
    expected = ((S - 0.5) ** 2).reshape(3, -1).sum(1)
    np.testing.assert_allclose(f.summed_squares(s, torch.full_like(s, 0.5), reduction="none").numpy(), expected)


def test_solution_flow_by_hand_and_of_two_sizes():
    found = f.solution_flow(s, t)
    expected = np.zeros((3, 4, 5))
    for b in range(3):
        for i in range(4):
            for j in range(5):
                expected[b, i, j] = (S[b, i] * T[b, j]).mean()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    large = torch.randn(3, 4, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(f.solution_flow(large, t), f.solution_flow(nn.functional.avg_pool2d(large, 2), t))


def test_gaussian_nll_is_least_at_the_true_mean_and_variance():
    target = torch.tensor(rng.normal(size=(2000, 2, 1, 1)) * np.array([2.0, 0.5])[:, None, None])
    mean = torch.zeros_like(target)
    best = target.square().mean((0, 2, 3))
    least = f.gaussian_nll(mean, target, best).mean()
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert f.gaussian_nll(mean, target, factor * best).mean() > least
    assert float(least) == pytest.approx(
        float((1 + best.log()).mean() / 2), rel=1e-9
    )  # the entropy, but for a constant


def test_noise_contrast_by_hand_and_at_its_best():
    true, noise = torch.tensor([0.3, 2.0]), torch.tensor([[0.1, 0.2, 0.9], [1.0, 0.0, 4.0]])
    c = 3 / 50
    expected = [-np.log(p / (p + c)) - sum(np.log(c / (n + c)) for n in row) for p, row in zip(true, noise)]
    np.testing.assert_allclose(f.noise_contrast(true, noise, 50).numpy(), np.array(expected), rtol=1e-5)
    assert float(f.noise_contrast(torch.tensor([1e9]), torch.zeros(1, 3), 50)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("formula", [f.channel_mmd, f.channel_kl, f.summed_squares])
def test_gradients(formula):
    student = s[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: formula(x, 2 * s[1:3]), student)


# what learns beside them ----------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_mgd_against_the_official_one():
    case = load("classifiers", "mgd")
    student, teacher = case["in_student"].requires_grad_(), case["in_teacher"]
    block = projector("generator", tuple(student.shape), tuple(teacher.shape)).double()
    block.align = nn.Conv2d(3, 4, 1).double()
    with torch.no_grad():
        for name, value in block.named_parameters():
            value.copy_(case["in_state_" + name.replace(".", "__")])
    block.drawn = lambda x: case["in_mask_uniform"]
    loss = 7e-5 * f.summed_squares(block(student), teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"], rtol=1e-5, atol=1e-10)


def test_a_generator_leaves_out_whole_channels_or_positions():
    for positions, axes in ((False, (2, 3)), (True, (1,))):
        block = projector("generator", (64, 8, 5, 5), (64, 8, 5, 5), ratio=0.4, positions=positions)
        seen = []
        block.generation = nn.Identity()
        out = block(torch.ones(64, 8, 5, 5))
        seen = out.flatten(2).amax(2) if not positions else out.amax(1).flatten(1)
        assert set(out.unique().tolist()) == {0.0, 1.0}  # not rescaled
        assert float(seen.mean()) == pytest.approx(0.6, abs=0.08)
        torch.testing.assert_close(out.amax(axes), out.amin(axes))
    with pytest.raises(ArgumentError, match="from 0 to below 1"):
        projector("generator", (1, 2, 3, 3), (1, 2, 3, 3), ratio=1.0)


@pytest.mark.shared_data
def test_vid_against_the_official_one():
    case = load("classifiers", "vid")
    student, teacher = case["in_student"].requires_grad_(), case["in_teacher"]
    term = o.variational_information("x", "x").build({"x": student.detach()}, {"x": teacher})
    with torch.no_grad():
        for layer, name in zip((0, 2, 4), ("in_w1", "in_w2", "in_w3")):
            term.density.mean[layer].weight.copy_(case[name])
        torch.testing.assert_close(term.density.variance, torch.full((6,), 5.0, dtype=torch.float64), rtol=1e-6, atol=0)
        term.density.scale.copy_(case["in_log_scale"])
    loss = term({"x": student}, {"x": teacher})
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(term.density.scale.grad, case["grad_log_scale"], rtol=1e-5, atol=1e-9)


@pytest.mark.shared_data
def test_fsp_against_the_official_one():
    case = load("classifiers", "fsp")
    ours = {f"l{i}": case[f"in_s{i}"].requires_grad_() for i in range(2)}
    theirs = {f"l{i}": case[f"in_t{i}"] for i in range(2)}
    term = o.flow(student=["l0", "l1"], teacher=["l0", "l1"]).build(ours, theirs)
    assert not list(term.parameters())  # as many channels: nothing learns
    loss = term(ours, theirs)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    for i in range(2):
        torch.testing.assert_close(ours[f"l{i}"].grad, case[f"grad_s{i}"], rtol=1e-5, atol=1e-9)


def test_flows_of_other_channels_learn_a_convolution():
    ours = {"a": torch.randn(2, 3, 4, 4), "b": torch.randn(2, 6, 2, 2)}
    theirs = {"a": torch.randn(2, 5, 8, 8), "b": torch.randn(2, 6, 2, 2)}
    term = o.flow(student=["a", "b"], teacher=["a", "b"]).build(ours, theirs)
    assert [tuple(p.shape) for p in term.parameters()] == [(5, 3, 1, 1)]
    assert float(term(ours, theirs).detach()) > 0
    with pytest.raises(ArgumentError, match="2 or more"):
        o.flow(student=["a"], teacher=["a"])
    with pytest.raises(SignalError, match="compare relations: rkd"):
        o.flow(student=["a", "b"], teacher=["a", "b"]).build({"a": torch.randn(2, 3), "b": torch.randn(2, 3)}, theirs)
    with pytest.raises(SignalError, match="takes maps"):
        o.variational_information("x", "x").build({"x": torch.randn(2, 3, 4)}, {"x": torch.randn(2, 3, 4)})
    with pytest.raises(ArgumentError, match="variance=0"):
        o.variational_information("x", "x", variance=0)


@pytest.mark.parametrize("name", ["feature_mse", "feature_l1", "cosine_distance", "squared_distance", "euclidean_distance",
                                  "summed_squares", "activation_boundary", "hierarchical_context_mse"])  # fmt: skip
def test_other_shapes_are_refused_and_the_projector_named(name):
    formula = getattr(f, name)
    for ours, theirs, way in (((2, 3), (2, 5), "linear"), ((2, 3, 4, 4), (2, 5, 4, 4), "conv"), ((2, 1), (2, 5), "linear"),
                              ((2, 3), (2, 5, 4, 4), "layers of one kind")):  # fmt: skip
        with pytest.raises(SignalError, match=way):
            formula(torch.randn(ours), torch.randn(theirs))


@pytest.mark.parametrize("name", ["channel_mmd", "channel_kl", "attention_map_mse", "factor_l1"])
def test_what_are_no_maps_is_refused(name):
    with pytest.raises(SignalError, match="compare vectors and tokens by relations"):
        getattr(f, name)(torch.randn(2, 3), torch.randn(2, 3))
