"""Policy gradients by exact enumeration of what can be sampled, and MiniLLM's returns by loops."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import functional as f
from limbeck.data.shared import find_golden
from limbeck.errors import DataError

torch.manual_seed(0)
S, T = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)


def expected_gradient(loss):
    """Gradient at the student's logits of E[loss(log q(y), log p(y))] where y was drawn from the student before."""
    s = S.clone().requires_grad_()
    log_q, log_p = s.log_softmax(-1), T.log_softmax(-1)
    (log_q.detach().exp() * loss(log_q, log_p)).sum().backward()
    return s.grad


def gradient(divergence):
    s = S.clone().requires_grad_()
    divergence(s[None], T[None]).backward()
    return s.grad


def test_what_the_estimates_of_kl_teach():
    """k2's gradient is the reverse KL's, k3's the forward KL's, k1's zero: enumerated over all tokens."""
    by_kind = {kind: expected_gradient(lambda q, p, kind=kind: f.kl_estimate(q, p, kind=kind, reduction="none"))
               for kind in ("k1", "k2", "k3")}  # fmt: skip
    torch.testing.assert_close(by_kind["k2"], gradient(f.reverse_kl))
    torch.testing.assert_close(by_kind["k3"], gradient(f.forward_kl))
    assert by_kind["k1"].abs().max() < 1e-12


def test_what_the_estimates_of_kl_are_worth():
    log_q, log_p = S.log_softmax(-1), T.log_softmax(-1)
    exact = f.reverse_kl(S[None], T[None])
    for kind in ("k1", "k3"):
        torch.testing.assert_close(
            (log_q.exp() * f.kl_estimate(log_q, log_p, kind=kind, reduction="none")).sum(), exact
        )
    assert (f.kl_estimate(log_q, log_p, kind="k3", reduction="none") >= 0).all()
    for kind in ("k1", "k2", "k3"):
        assert f.kl_estimate(log_q, log_q, kind=kind) == 0


def test_the_teacher_s_token_reward_gives_the_reverse_kl_gradient():
    """The policy gradient with A = log p - log q as reward, enumerated, is that of KL(q || p)."""
    log_q, log_p = S.log_softmax(-1), T.log_softmax(-1)
    rewards = f.token_rewards(log_q, log_p)
    found = expected_gradient(lambda q, p: f.clipped_policy(q, log_q, rewards, reduction="none"))
    torch.testing.assert_close(found, gradient(f.reverse_kl))
    assert f.token_rewards(torch.tensor([-300.0, 0.0]), torch.tensor([0.0, -300.0])).tolist() == [100, -100]


def test_importance_weights_make_mixed_samples_those_of_the_student():
    """Drawn from the mixture and weighed, the expected gradient is that of the student's own samples."""
    log_q, log_p = S.log_softmax(-1), T.log_softmax(-1)
    mixed = f.mixed_sampling(S, T, alpha=0.3)
    torch.testing.assert_close(mixed.exp(), 0.3 * T.softmax(-1) + 0.7 * S.softmax(-1))
    weights = f.importance_weights(log_q, log_p, alpha=0.3)
    assert float((mixed.exp() * weights).sum()) == pytest.approx(1)
    assert (weights <= 1 / 0.7 + 1e-12).all()
    s = S.clone().requires_grad_()
    values = f.clipped_policy(s.log_softmax(-1), log_q, f.token_rewards(log_q, log_p), clip=1e9, weight=weights,
                              reduction="none")  # fmt: skip
    (mixed.exp() * values).sum().backward()
    torch.testing.assert_close(s.grad, gradient(f.reverse_kl))
    assert (f.importance_weights(log_q, log_p, alpha=0.0) == 1).all()
    assert f.mixed_sampling(torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0])).isfinite().all()


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=2, max_size=8), st.booleans())
def test_group_advantages(rewards, scale):
    found = f.group_advantages(torch.tensor([rewards]), scale=scale)[0].numpy()
    expected = np.array(rewards) - np.mean(rewards)
    if scale:
        expected = expected / (np.std(rewards, ddof=1) + 1e-4)
    if len(set(rewards)) == 1:
        assert (found == 0).all()  # exactly: 0.1 + 0.1 + 0.1 is not 0.3
    np.testing.assert_allclose(found, expected, atol=2e-3 if scale else 1e-6)


def test_one_answer_has_no_advantage_and_whole_numbers_are_rewards():
    assert f.group_advantages(torch.tensor([[1.0], [0.0]])).tolist() == [[0], [0]]
    assert f.group_advantages(torch.tensor([[1, 0, 0, 1]])).isfinite().all()


def test_unsolved():
    rewards = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert f.unsolved(rewards).tolist() == [[True, False, True], [True, True, True]]
    assert f.unsolved(rewards, by="group").tolist() == [[False] * 3, [True] * 3]


def test_clipped_policy_by_hand():
    log_ratio = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0], dtype=torch.float64)
    for advantage, (low, high) in itertools.product((-2.0, 0.5), ((0.2, None), (0.1, 0.28))):
        found = f.clipped_policy(log_ratio, torch.zeros(5), torch.tensor(advantage), clip=low, clip_high=high,
                                 reduction="none")  # fmt: skip
        r = np.exp(log_ratio.numpy())
        clipped = np.clip(r, 1 - low, 1 + (low if high is None else high))
        np.testing.assert_allclose(found, np.maximum(-advantage * r, -advantage * clipped))


def test_where_clipping_stops_the_gradient():
    """Only where the ratio has already gone the way that the advantage wants."""
    student = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    f.clipped_policy(student, torch.zeros(4), advantages, reduction="sum").backward()
    assert (student.grad != 0).tolist() == [False, True, True, False]
    assert torch.autograd.gradcheck(lambda s: f.clipped_policy(s, S, T), (S + 0.05).requires_grad_())


def test_returns_by_loops():
    rewards, mask = torch.randn(3, 6, dtype=torch.float64), torch.ones(3, 6)
    mask[0, 4:] = mask[1, 2:] = mask[2] = 0
    rewards[0, 5] = float("nan")
    for average in (True, False):
        expected = torch.zeros(3, 6, dtype=torch.float64)
        for b, t in itertools.product(range(3), range(6)):
            left = [u for u in range(t, 6) if mask[b, u]]
            total = sum(0.9 ** (u - t) * rewards[b, u] for u in left)
            expected[b, t] = total / max(len(left), 1) if average else total
        torch.testing.assert_close(f.remaining_returns(rewards, mask, gamma=0.9, average=average), expected)


def test_whitening():
    values, mask = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, 5) > 0.4
    found = f.whiten(values, mask)
    assert float(found[mask].mean()) == pytest.approx(0, abs=1e-12)
    assert float(found[mask].var()) == pytest.approx(1, rel=1e-6)
    assert (found[~mask] == 0).all()
    same = torch.full((2, 3), -1.5)
    assert (f.whiten(same) == same).all()  # an all-equal batch keeps its signal
    assert (f.whiten(values, torch.zeros(3, 5)) == 0).all()


@pytest.mark.parametrize(("call", "match"), [
    (lambda: f.kl_estimate(S, T, kind="k4"), "kind='k4'"), (lambda: f.unsolved(S, by="grup"), "Did you mean 'group'"),
    (lambda: f.mixed_sampling(S, T, alpha=1.0), r"alpha=1\.0"),
])  # fmt: skip
def test_errors_name_what_was_given(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def load(name):
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    arrays = np.load(folder / json.loads((folder / "index.json").read_text())["language-models"][name]["file"])
    return {key: torch.tensor(arrays[key]) for key in arrays.files}


@pytest.mark.shared_data
def test_golden_kdrl():
    case = load("kdrl")
    student, mask = case["in_logprobs"].requires_grad_(), case["in_mask"]
    advantages = f.group_advantages(case["in_rewards"])
    torch.testing.assert_close(advantages, case["out_advantages"])
    for kind in ("k1", "k2", "k3"):
        found = f.kl_estimate(student, case["in_teacher_logprobs"], kind=kind, reduction="none")
        torch.testing.assert_close(found * mask, case[f"out_{kind}"] * mask)
    loss = f.clipped_policy(student, case["in_old_logprobs"], advantages[:, None], mask=mask)
    loss = loss + 2e-3 * f.kl_estimate(student, case["in_teacher_logprobs"], mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss"])
    torch.testing.assert_close(student.grad, case["grad_logprobs"])


@pytest.mark.shared_data
def test_golden_minillm():
    """The code whitens over padded entries too."""
    case = load("minillm-pg")
    mask, student = case["in_mask"], case["in_logprobs"].requires_grad_()
    returns = f.remaining_returns(case["in_rewards"], mask, gamma=0.95)
    torch.testing.assert_close(returns, case["out_returns_length_normalised"])
    advantages = f.whiten(returns)
    torch.testing.assert_close(advantages, case["out_advantages"])
    loss = f.clipped_policy(
        student, case["in_old_logprobs"], advantages, weight=case["in_importance_weight"], mask=mask
    )
    loss.backward()
    torch.testing.assert_close(loss, case["out_pg_loss"])
    torch.testing.assert_close(student.grad, case["grad_logprobs"])
