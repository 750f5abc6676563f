"""Terms over answers that models wrote, against loops over their tokens."""

import numpy as np
import pytest
import torch

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives import (
    entropy,
    gram_rows_mse,
    policy_gradient,
    reverse_kl,
    selected,
    topk_plackett_luce,
    weighed,
)
from limbeck.recipes.language.on_policy import returns
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Ref, Step
from limbeck.training.rollouts import Rollout

B, T, V, D = 3, 7, 11, 5
RNG = torch.Generator().manual_seed(0)
HIDDEN = torch.randn(B, T, D, generator=RNG, dtype=torch.float64)
MATRIX = torch.randn(V, D, generator=RNG, dtype=torch.float64)
TEACHER = torch.randn(B, T, V, generator=RNG, dtype=torch.float64)
LABELS = torch.randint(V, (B, T), generator=RNG)
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
TOKENS = torch.randn(2, B, T, generator=RNG, dtype=torch.float64)


def step(lazy, hidden=HIDDEN, **extra):
    labels = LABELS.masked_fill(MASK == 0, -100)
    made = Step(Batch(None, torch.arange(B), labels, extra={"mask": MASK, **extra}))
    made.put("self", {"logits": Lazy(hidden, MATRIX) if lazy else hidden @ MATRIX.T})
    made.put("teacher", {"logits": TEACHER})
    return made


def kept():
    return [(row, token) for row in range(B) for token in range(T) if MASK[row, token]]


LOG_P = (HIDDEN @ MATRIX.T).log_softmax(-1).numpy()
LOG_T = TEACHER.log_softmax(-1).numpy()


@pytest.mark.parametrize("lazy", [True, False])
def test_the_policy_gradient_is_the_clipped_loss_of_each_token(lazy):
    old, advantage, weight = 0.5 * TOKENS[0] - 2, TOKENS[1], TOKENS[0].exp()
    term = policy_gradient(clip=0.3, weight="weight")
    found, _ = term.evaluate(step(lazy, old=old, advantage=advantage, weight=weight))
    expected = []
    for row, token in kept():
        ratio = np.exp(LOG_P[row, token, LABELS[row, token]] - float(old[row, token])) * float(weight[row, token])
        a = float(advantage[row, token])
        expected.append(max(-a * ratio, -a * min(max(ratio, 0.7), 1.3)))
    assert float(found) == pytest.approx(np.mean(expected))


def test_on_the_answers_of_now_its_gradient_is_that_of_the_weighed_log_probabilities():
    hidden = HIDDEN.clone().requires_grad_()
    old = torch.from_numpy(LOG_P).gather(-1, LABELS[..., None])[..., 0]
    term = policy_gradient("reward")
    loss, _ = term.evaluate(step(True, hidden, old=old, reward=torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)))
    (found,) = torch.autograd.grad(loss, hidden)
    log_p = (hidden @ MATRIX.T).log_softmax(-1).gather(-1, LABELS[..., None])[..., 0]
    rewards = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    (expected,) = torch.autograd.grad(-(rewards * log_p * MASK).sum() / MASK.sum(), hidden)
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_weighed_divergence_is_its_values_times_the_weights(lazy):
    weight = TOKENS[0].exp()
    found, _ = weighed(reverse_kl(), "weight").evaluate(step(lazy, weight=weight))
    values = (np.exp(LOG_P) * (LOG_P - LOG_T)).sum(-1)
    expected = [float(weight[place]) * values[place] for place in kept()]
    assert float(found) == pytest.approx(np.mean(expected))


def entropies():
    return -(np.exp(LOG_P) * LOG_P).sum(-1)


@pytest.mark.parametrize("lazy", [True, False])
def test_the_uncertain_tokens_are_those_of_each_answer(lazy):
    found, _ = selected(entropy(), "uncertain", share=0.4).evaluate(step(lazy))
    expected = []
    for row in range(B):
        values = entropies()[row][MASK[row].bool().numpy()]
        bound = np.quantile(values, 0.6)
        expected.append(values[values >= bound - 1e-12].mean())
    assert float(found) == pytest.approx(np.mean(expected))


def test_the_opening_is_where_the_first_share_of_an_answers_entropy_is_spent():
    found, _ = selected(topk_plackett_luce(k=3), "opening", share=0.5).evaluate(step(True))
    expected = []
    for row in range(B):
        places = MASK[row].nonzero()[:, 0].tolist()
        total, spent, values = entropies()[row][places].sum(), 0.0, []
        for token in places:
            if values and spent >= 0.5 * total:
                break
            spent += entropies()[row, token]
            top = np.argsort(-LOG_P[row, token])[:3]
            order = top[np.argsort(-LOG_T[row, token][top])]
            s = LOG_P[row, token][order]
            values.append(-sum(s[i] - np.log(np.exp(s[i:]).sum()) for i in range(3)))
        expected.append(np.mean(values))
    assert float(found) == pytest.approx(np.mean(expected))


def test_groups_of_rows_count_apart():
    own = torch.tensor([True, False, True])
    found, _ = weighed(reverse_kl().among("own"), "weight").evaluate(step(True, own=own, weight=torch.ones(B, T)))
    values = (np.exp(LOG_P) * (LOG_P - LOG_T)).sum(-1)
    assert float(found) == pytest.approx(np.mean([values[place] for place in kept() if place[0] != 1]))


def test_what_does_not_fit_is_named():
    with pytest.raises(SignalError, match=r"needs 'advantage' .*OnPolicy"):
        policy_gradient().evaluate(step(True, old=TOKENS[0]))
    with pytest.raises(ArgumentError, match="clip=0"):
        policy_gradient(clip=0)
    with pytest.raises(ArgumentError, match="tokens='last'"):
        selected(entropy(), "last")
    with pytest.raises(ArgumentError, match="no value for each token"):
        weighed(gram_rows_mse(), "weight")
    assert policy_gradient().needs() == [Ref("self", "logits")]
    assert str(selected(entropy(), "opening")) == "selected(entropy(), 'opening', share=0.1)"


@pytest.mark.parametrize("per_length", [True, False])
def test_minillms_returns_are_those_of_a_loop(per_length):
    sizes, draw = [3, 1, 4], np.random.default_rng(0)
    old, teacher = ([draw.normal(-2, 1, size) for size in sizes] for _ in range(2))
    tokens = {name: [torch.from_numpy(row) for row in rows] for name, rows in (("old", old), ("teacher", teacher))}
    found = returns(Rollout(torch.arange(3), None, tokens=tokens), 0.2, 0.9, 1.0, per_length)
    values = []
    for q, p in zip(old, teacher, strict=True):
        rewards = np.clip(p - q, -1, 1)
        for t in range(len(q)):
            total = sum(0.9 ** (u - t) * rewards[u] for u in range(t, len(q)))
            values.append(total / (len(q) - t) if per_length else total)
    values = (np.array(values) - np.mean(values)) / np.sqrt(np.var(values, ddof=1) + 1e-8)
    assert torch.cat(found["advantage"]).numpy() == pytest.approx(values)
    q, p = np.exp(np.concatenate(old)), np.exp(np.concatenate(teacher))
    assert torch.cat(found["weight"]).numpy() == pytest.approx(q / (0.2 * p + 0.8 * q))
