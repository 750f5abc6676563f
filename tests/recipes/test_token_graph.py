"""Token Relationship Graph: its three relations by loops, what it refuses, and which weights of a teacher get a gradient."""

import numpy as np
import pytest
import torch

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError, SignalError
from limbeck.evaluation.modes import frozen
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job

rng = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_neighbours_by_loops():
    student, teacher = rng.normal(size=(9, 3)), rng.normal(size=(9, 5))
    cosines, mine = unit(teacher) @ unit(teacher).T, unit(student) @ unit(student).T
    near = [[j for j in np.argsort(-cosines[i]) if j != i][:4] for i in range(9)]
    scale = 0.5 * np.std([cosines[i, j] for i in range(9) for j in near[i]])
    total = 0.0
    for i in range(9):
        p, q = softmax(cosines[i, near[i]] / scale), softmax(mine[i, near[i]] / scale)
        total += np.sum(p * np.log(p / q))
    found = f.token_neighbour_kl(torch.tensor(student), torch.tensor(teacher), neighbours=4, temperature=0.5)
    assert found.item() == pytest.approx(total / 9, rel=1e-8)


def test_context_by_loops():
    student, teacher = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 6))
    found = f.token_context_mse(torch.tensor(student), torch.tensor(teacher))
    for b in range(2):
        apart = [
            (unit(student[b])[i] @ unit(student[b])[j] - unit(teacher[b])[i] @ unit(teacher[b])[j]) ** 2
            for i in range(4) for j in range(4)
        ]  # fmt: skip
        assert found[b].item() == pytest.approx(np.mean(apart), rel=1e-8)


def test_contrast_by_loops():
    student, teacher = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    scores = unit(student) @ unit(teacher).T / 0.1
    by_hand = -np.mean([np.log(softmax(scores[i])[i]) for i in range(6)])
    found = f.token_contrast(torch.tensor(student), torch.tensor(teacher))
    assert found.item() == pytest.approx(by_hand, rel=1e-8)


def test_relations_of_equal_tokens_are_equal():
    tokens = torch.tensor(rng.normal(size=(8, 5)))
    turned = tokens @ torch.linalg.qr(torch.tensor(rng.normal(size=(5, 5)))).Q * 3
    assert f.token_neighbour_kl(turned, tokens).item() == pytest.approx(0, abs=1e-9)
    assert f.token_context_mse(turned[None], tokens[None]).item() == pytest.approx(0, abs=1e-9)


def test_maps_are_brought_to_one_grid_and_a_class_token_is_left_out():
    term = o.token_graph("s", "t", most=20)
    small, large = torch.rand(3, 4, 2, 2), torch.rand(3, 6, 4, 4)
    term.build({"s": small}, {"t": large})
    student, teacher = term._tokens(o.as_step({"s": small}, {"t": large}))
    assert student.shape == (3, 4, 4)
    torch.testing.assert_close(teacher[0, 0], large[0, :, :2, :2].mean((1, 2)))
    tokens = torch.rand(2, 5, 4)
    student, _ = term._tokens(o.as_step({"s": tokens}, {"t": torch.rand(2, 5, 8)}))
    torch.testing.assert_close(student, tokens[:, 1:])


def test_signals_that_have_no_common_grid_are_refused():
    with pytest.raises(SignalError, match="as many patches"):
        o.token_graph("s", "t").build({"s": torch.rand(2, 4)}, {"t": torch.rand(2, 4)})
    with pytest.raises(ArgumentError, match="neighbours=0"):
        o.token_graph("s", "t", neighbours=0)
    job = toy_job(find("trg"))
    with pytest.raises(ArgumentError, match="soft=2"):
        find("trg")(job, soft=2.0)


def test_tokens_are_drawn_alike_for_both_and_anew_in_each_step():
    term = o.token_graph("s", "t", local=0.0, context=0.0, contrast=1.0, most=5)
    tokens = torch.rand(4, 4, 6, dtype=torch.float64)
    term.build({"s": tokens}, {"t": tokens})
    with torch.no_grad():
        term.projector.weight.copy_(torch.eye(6))
        term.projector.bias.zero_()
    step = o.as_step({"s": tokens}, {"t": tokens})
    value = term.values(step).item()
    chosen = torch.randperm(16, generator=step.rng("tokens"))[:5]
    some = tokens.flatten(0, 1)[chosen]
    assert value == pytest.approx(f.token_contrast(some, some).item(), rel=1e-6)


def test_a_frozen_module_passes_gradients_on():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2).requires_grad_(False))
    given = torch.rand(2, 3, requires_grad=True)
    with frozen(module):
        module(given).sum().backward()
    assert given.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in module.parameters())
    assert [parameter.requires_grad for parameter in module.parameters()] == [True, True, False, False]
