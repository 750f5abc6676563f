"""MI-alpha against loops in NumPy, its limits, and a case in which the information is known."""

import math

import numpy as np
import pytest
import torch

from limbeck import functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError

rng = np.random.default_rng(0)
SCORES, LOG_Q = rng.normal(size=(5, 5)), rng.normal(size=5)


def by_loops(scores, log_q, alpha):
    count = len(scores)
    joint, marginal = [], []

    def a(i, j):
        m = np.mean([np.exp(scores[i, k]) for k in range(count) if k != j])
        return alpha * m + (1 - alpha) * np.exp(log_q[i])

    for i in range(count):
        for j in range(count):
            if i != j:
                joint.append(scores[i, i] - np.log(a(i, j)))
                marginal.append(np.exp(scores[i, j]) / a(i, i))
    return 1 + np.mean(joint) - np.mean(marginal)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_by_hand(alpha):
    found = f.information_bound(torch.tensor(SCORES), torch.tensor(LOG_Q), alpha=alpha)
    assert float(found) == pytest.approx(by_loops(SCORES, LOG_Q, alpha), rel=1e-10)


def test_the_ends():
    scores, log_q = torch.tensor(SCORES), torch.tensor(LOG_Q)
    off = ~torch.eye(5, dtype=torch.bool)
    critic = scores - log_q[:, None]  # NWJ with this critic
    expected = 1 + critic.diagonal().mean() - critic.exp()[off].mean()
    torch.testing.assert_close(f.information_bound(scores, log_q, alpha=0.0), expected)
    perfect = torch.eye(64, dtype=torch.float64) * 200
    bound = float(f.information_bound(perfect, torch.zeros(64, dtype=torch.float64), alpha=1.0))
    # with the pair itself among the negatives but in one of K - 1 columns each: just above log K
    assert math.log(64) - 0.1 < bound < math.log(64) + 1.1
    with pytest.raises(ValueError, match="alpha=2"):
        f.information_bound(scores, log_q, alpha=2)
    with pytest.raises(ValueError, match="K of 2 or more"):
        f.information_bound(scores[:1, :1], log_q[:1])


def test_no_more_than_there_is_for_a_known_critic():
    """Two normal variables of correlation r tell -log(1 - r^2) / 2; the best critic is the log of their density ratio."""
    r, count = 0.8, 512
    draw = np.random.default_rng(1)
    found = []
    for _ in range(20):
        x = draw.normal(size=count)
        y = r * x + math.sqrt(1 - r * r) * draw.normal(size=count)
        ratio = -np.log(1 - r * r) / 2 - (r * r * (x[None] ** 2 + y[:, None] ** 2) - 2 * r * x[None] * y[:, None]) / (
            2 * (1 - r * r)
        )
        found.append(
            float(f.information_bound(torch.tensor(ratio), torch.zeros(count, dtype=torch.float64), alpha=0.5))
        )
    assert np.mean(found) == pytest.approx(-math.log(1 - r * r) / 2, abs=0.05)


def test_a_term_learns_to_tell_pairs_apart():
    torch.manual_seed(0)
    teacher = torch.randn(64, 6)
    student = torch.cat([teacher[:, :3] @ torch.randn(3, 3), torch.randn(64, 2)], 1)
    term = o.mutual_information("x", "x", alpha=0.9, width=32).build({"x": student}, {"x": teacher})
    optimizer = torch.optim.Adam(term.parameters(), lr=3e-3)
    begun = float(term({"x": student}, {"x": teacher}).detach())
    for _ in range(150):
        optimizer.zero_grad()
        term({"x": student}, {"x": teacher}).backward()
        optimizer.step()
    assert float(term({"x": student}, {"x": teacher}).detach()) < begun - 1
    with pytest.raises(ArgumentError, match=r"alpha=1\.5"):
        o.mutual_information("x", "x", alpha=1.5)
