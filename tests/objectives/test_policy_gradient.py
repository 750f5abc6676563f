"""Policy gradients and estimates of the KL on a student's own answers, against loops over their tokens."""

import itertools
import math

import pytest
import torch

from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import END
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Step
from limbeck.training.execute import Runner
from toys import losses, weights

B, T, V, D = 4, 5, 9, 6
DRAW = torch.Generator().manual_seed(0)
LABELS = torch.randint(V, (B, T), generator=DRAW)
LABELS[0, 3:] = LABELS[2, 1:] = LABELS[3, 0] = -100
HIDDEN = {name: torch.randn(B, T, D, generator=DRAW, dtype=torch.float64) for name in ("self", "teacher")}
WEIGHT = torch.randn(V, D, generator=DRAW, dtype=torch.float64)
OLD, GAINS, TIMES = (torch.randn(B, T, generator=DRAW, dtype=torch.float64) for _ in range(3))


def step_of(**extra):
    mask = LABELS != -100
    step = Step(Batch(None, torch.arange(B), LABELS, extra={"mask": mask, **extra}))
    weight = WEIGHT.clone().requires_grad_()
    for role, hidden in HIDDEN.items():
        step.put(role, {"logits": Lazy(hidden, weight if role == "self" else WEIGHT.flip(0))})
    return step, weight


def log_p(weight, role, b, t):
    z = HIDDEN[role][b, t] @ weight.T
    return z[LABELS[b, t]] - z.exp().sum().log()


def places():
    return [(b, t) for b, t in itertools.product(range(B), range(T)) if LABELS[b, t] >= 0]


def check(term, step, weight, expected):
    value = term.evaluate(step)[0]
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, weight)[0] for each in (value, expected)))


@pytest.mark.parametrize(("clip", "clip_high"), [(0.2, None), (0.1, 0.4)])
def test_the_clipped_gradient_of_every_token(clip, clip_high):
    old = 0.3 * OLD
    for b, t in places():
        old[b, t] += log_p(WEIGHT, "self", b, t)
    step, weight = step_of(old=old, advantage=GAINS)
    found = []
    for b, t in places():
        r = (log_p(weight, "self", b, t) - old[b, t]).exp()
        a = GAINS[b, t]
        found.append(-torch.minimum(a * r, a * r.clamp(1 - clip, 1 + (clip_high or clip))))
    check(o.policy_gradient(clip=clip, clip_high=clip_high), step, weight, sum(found) / len(found))


def test_an_answer_has_one_advantage_and_old_is_now_unless_given():
    step, weight = step_of(advantage=GAINS[:, 0])
    found = [
        -GAINS[b, 0] * (log_p(weight, "self", b, t) - log_p(weight, "self", b, t).detach()).exp() for b, t in places()
    ]
    check(o.policy_gradient(), step, weight, sum(found) / len(found))


def test_importance_weights_multiply_the_ratio():
    step, weight = step_of(advantage=GAINS, w=TIMES.abs())
    found = []
    for b, t in places():
        r = (log_p(weight, "self", b, t) - log_p(weight, "self", b, t).detach()).exp() * TIMES[b, t].abs()
        found.append(-torch.minimum(GAINS[b, t] * r, GAINS[b, t] * r.clamp(0.8, 1.2)))
    check(o.policy_gradient(weight="w"), step, weight, sum(found) / len(found))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("times", [None, "taught"])
def test_the_estimated_kl_of_every_token(kind, times):
    step, weight = step_of(taught=TIMES)
    found = []
    for b, t in places():
        d = log_p(WEIGHT.flip(0), "teacher", b, t) - log_p(weight, "self", b, t)
        value = {"k1": -d, "k2": d * d / 2, "k3": d.exp() - 1 - d}[kind]
        found.append(value * (TIMES[b, t] if times else 1.0))
    check(o.kl_estimate(kind, by=times), step, weight, sum(found) / len(found))


def test_log_probabilities_are_found_once_for_all_terms(monkeypatch):
    from limbeck.objectives import sequences

    calls, real = [], sequences.label_log_probabilities
    monkeypatch.setattr(sequences, "label_log_probabilities", lambda *given: calls.append(1) or real(*given))
    step, weight = step_of(advantage=GAINS)
    (o.policy_gradient() + 0.1 * o.kl_estimate()).evaluate(step)[0].backward()
    assert len(calls) == 2  # the student's and the teacher's
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: o.policy_gradient().evaluate(step_of()[0]), SignalError, "needs 'advantage' of every token"),
    (lambda: o.kl_estimate(by="x").evaluate(step_of()[0]), SignalError, "needs 'x'"),
    (lambda: o.policy_gradient(clip=0), ArgumentError, "clip=0"), (lambda: o.kl_estimate("k4"), ArgumentError, "k4"),
])  # fmt: skip
def test_what_is_missing_is_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


# the recipe
def evens(prompt, answer, reference):
    """Rewards that a student of few weights earns at times: an even number first."""
    first = answer.split()[:1]
    return float(bool(first) and int(first[0]) % 2 == 0)


def kdrl(job=None, **arguments):
    job = job or toy_job(find("kdrl"))
    runner = Runner(cpu=True)
    runner.run(find("kdrl")(job, **{"checker": evens, "answers": 4, "max_new_tokens": 6, **arguments}))
    return job, runner


def logits(model, rows):
    with torch.no_grad():
        return model(torch.tensor([rows])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("taught", ["all", "failed", "unsolved"])
def test_kdrl_by_hand(taught):
    """The loss of the first step from its answers alone: rewards, groups, both terms over all tokens of the step."""
    job = toy_job(find("kdrl"))
    teacher, student = job.teacher.module, job.student
    plan = find("kdrl")(job, checker=evens, answers=4, max_new_tokens=6, beta=0.3, taught=taught)
    plan.source.place(0, 1)
    (batch,) = plan.source.micro_batches(0, {"student": student})
    policy = kl = tokens = 0.0
    for group in range(0, len(batch), 4):
        rewards = []
        for row in range(group, group + 4):
            size = int(batch.inputs["attention_mask"][row].sum())
            answer = batch.inputs["input_ids"][row, 2:size].tolist()
            rewards.append(evens("", " ".join(map(str, [t for t in answer if t != END])), ""))
        mean = sum(rewards) / 4
        spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3) + 1e-4
        for row, r in zip(range(group, group + 4), rewards, strict=True):
            size = int(batch.inputs["attention_mask"][row].sum())
            rows = batch.inputs["input_ids"][row, :size].tolist()
            corrected = {"all": True, "failed": r == 0, "unsolved": not any(rewards)}[taught]
            for t in range(2, size):
                d = float(logits(teacher, rows)[t - 1, rows[t]] - logits(student, rows)[t - 1, rows[t]])
                policy -= (r - mean) / spread
                kl += d * d / 2 * corrected
                tokens += 1
    first = kdrl(beta=0.3, taught=taught)[1]
    assert losses(first)[0] == pytest.approx(policy / tokens + 0.3 * kl / tokens, rel=1e-4, abs=1e-6)
    assert losses(first, term="policy_gradient")[0] == pytest.approx(policy / tokens, rel=1e-3, abs=1e-6)


def test_rewards_alone_need_no_teacher_and_kd_alone_no_rewards():
    _, runner = kdrl(beta=0.0)
    assert "teacher" not in runner.stages[0].roles
    _, runner = kdrl(reward=0.0, beta=1.0, checker=lambda *texts: 0.0)
    assert {name for record in runner.metrics.records for name in record.get("terms", {})} == {"loss", "kl_k2"}
    assert all(value > 0 for value in losses(runner))


def test_a_reward_is_learnt():
    """Policy gradients alone: after some steps nearly all answers begin with an even number."""
    rewards = []
    for steps in (1, 60):
        job = toy_job(find("kdrl"), steps=steps, batch_size=32, learning_rate=0.05, best="last")
        kdrl(job, beta=0.0, max_new_tokens=2)
        plan = find("kdrl")(toy_job(find("kdrl"), batch_size=40), checker=evens, max_new_tokens=2)
        (batch,) = plan.source.micro_batches(0, {"student": job.student})
        rewards.append(float(batch.extra["reward"].mean()))
    assert rewards[0] < 0.8
    assert rewards[1] > 0.95


@pytest.mark.parametrize("reuse", [1, 2])
def test_micro_batches_change_nothing(reuse):
    """Groups are judged before they are split among micro-batches."""
    found = []
    for accumulate in (1, 3):
        job = toy_job(find("kdrl"), steps=4, batch_size=8, accumulate=accumulate, best="last")
        job.student, job.teacher.module = job.student.double(), job.teacher.module.double()
        _, runner = kdrl(job, beta=0.3, reuse=reuse)
        found.append((losses(runner), weights(job.student)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=0)
