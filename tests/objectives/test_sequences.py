"""Terms over answers and pairs against loops over tokens: values, gradients, lazy and whole, accumulation."""

import math

import pytest
import torch

from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.recipes.toy_language import SYMBOLS, counting, miscounting
from limbeck.signals.lazy import Lazy
from limbeck.signals.step import Step, count_items
from limbeck.training.execute import Runner
from pairs import KINDS, pair_job, pair_stage
from toys import losses, weights

PART = miscounting("train", 9, 0)
BATCH = PART.batch([0, 3, 4])
WIDTH = 6


def lazy(seed, vocabulary=SYMBOLS):
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*BATCH.labels.shape, WIDTH, generator=draw, dtype=torch.float64)
    return Lazy(hidden, torch.randn(vocabulary, WIDTH, generator=draw, dtype=torch.float64))


def step_of(whole=False, **roles):
    student = lazy(1)
    student.hidden.requires_grad_()
    student.weight.requires_grad_()
    step = Step(BATCH)
    for role, signal in {"self": student, "reference": lazy(2), **roles}.items():
        step.put(role, {"logits": signal.whole() if whole else signal})
    return step, student


def log_p(logits, row, t):
    """log p of the label at a place, by hand, as a tensor with a gradient."""
    z = logits.whole()[row, t]
    return z[BATCH.labels[row, t]] - z.exp().sum().log()


def answer(logits, row):
    """The log-probability of an answer and its length."""
    places = [t for t in range(BATCH.labels.shape[1]) if BATCH.labels[row, t] != -100]
    return sum(log_p(logits, row, t) for t in places), len(places)


def check(objective, expected, **roles):
    """Lazy and whole logits give the expected loss and its gradients."""
    for whole in (False, True):
        step, student = step_of(whole, **roles)
        value, logs = objective.evaluate(step)
        theirs = expected(student)
        torch.testing.assert_close(value, theirs)
        assert len(logs) == len(objective.terms)
        parts = [student.hidden, student.weight]
        for one, other in zip(torch.autograd.grad(value, parts), torch.autograd.grad(theirs, parts), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reverse", [False, True])
def test_dpo_by_hand(reverse):
    def expected(student):
        values, other = [], lazy(2)
        for pair in range(3):
            good, bad = (2 * pair + 1, 2 * pair) if reverse else (2 * pair, 2 * pair + 1)
            moved = [(answer(student, row)[0] - answer(other, row)[0]) for row in (good, bad)]
            gap = 0.3 * (moved[0] - moved[1])
            values.append(0.9 * (1 + (-gap).exp()).log() + 0.1 * (1 + gap.exp()).log())
        return sum(values) / 3

    check(o.dpo(beta=0.3, label_smoothing=0.1, reverse=reverse), expected)


def test_dpo_at_its_reference_is_log_2():
    same = lazy(1)
    step, _ = step_of(peer=same)
    assert float(o.dpo().against("peer").evaluate(step)[0].detach()) == pytest.approx(math.log(2))


@pytest.mark.parametrize("gamma", [None, 0.5])
def test_redi_by_hand(gamma):
    def expected(student):
        values = []
        for pair in range(3):
            (good, n), (bad, m) = answer(student, 2 * pair), answer(student, 2 * pair + 1)
            values.append(-good / n + 0.8 * bad / m * (1 if gamma is None else (gamma * bad / m).exp()))
        return sum(values) / 3

    check(o.redi(gamma=gamma), expected)


def kl(p, q):
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


def test_dckd_s_sum_by_hand():
    """Means over the tokens of the chosen and of the rejected answers apart, whatever their numbers."""
    objective = 0.5 * o.cross_entropy().among("chosen") + 2.0 * o.forward_kl().among("chosen") + (
        3.0 * o.forward_kl().among("rejected"))  # fmt: skip

    def expected(student):
        found, teacher = {0: [], 1: []}, lazy(3)
        ce = []
        for row, t in (BATCH.labels != -100).nonzero().tolist():
            found[row % 2].append(kl(teacher.whole()[row, t], student.whole()[row, t]))
            if row % 2 == 0:
                ce.append(-log_p(student, row, t))
        return sum(sum(v) / len(v) * w for v, w in ((ce, 0.5), (found[0], 2.0), (found[1], 3.0)))

    check(objective, expected, teacher=lazy(3))
    assert [term.name for term in objective.terms] == [
        "cross_entropy(chosen)", "forward_kl(chosen)", "forward_kl(rejected)"]  # fmt: skip


@pytest.mark.parametrize("average", [True, False])
def test_per_sequence_by_hand(average):
    def expected(student):
        values, teacher = [], lazy(3)
        for row in range(1, 6, 2):
            places = [t for t in range(BATCH.labels.shape[1]) if BATCH.labels[row, t] != -100]
            total = sum(kl(student.whole()[row, t], teacher.whole()[row, t]) for t in places)
            values.append(total / len(places) if average else total)
        return sum(values) / 3

    check(o.per_sequence(o.reverse_kl(), average=average).among("rejected"), expected, teacher=lazy(3))
    one, other = o.per_sequence(o.reverse_kl().among("rejected")), o.per_sequence(o.cross_entropy())
    assert (one.group, other.group) == ("rejected", None)
    assert str(other) == "per_sequence(cross_entropy())"


def test_lengths_weigh_alike_only_within_sequences():
    """A supervised term: the mean over answers of their means, against the mean over tokens."""
    labels = BATCH.labels.clone()
    labels[1, 3:] = -100  # a short answer
    step, student = step_of()
    step.batch = Batch(BATCH.inputs, BATCH.ids, labels, extra={**BATCH.extra, "mask": labels != -100})
    own = o.per_sequence(o.cross_entropy()).evaluate(step)[0]
    rows = [[-log_p(student, r, t) for t in range(labels.shape[1]) if labels[r, t] != -100] for r in range(6)]
    torch.testing.assert_close(own, sum(sum(row) / len(row) for row in rows) / 6)
    over_tokens = o.cross_entropy().evaluate(step)[0]
    torch.testing.assert_close(over_tokens, sum(sum(row) for row in rows) / sum(map(len, rows)))


def test_groups_are_counted():
    counts = count_items(BATCH)
    tokens = {side: int((BATCH.labels[BATCH.extra[side]] != -100).sum()) for side in ("chosen", "rejected")}
    assert counts["sample, chosen"] == counts["sample, rejected"] == 3
    assert counts["token, labelled, chosen"] == counts["token, chosen"] == tokens["chosen"]
    assert counts["token, rejected"] == tokens["rejected"]
    filler = PART.batch([1])
    filler.weight = torch.zeros(1)
    assert set(count_items(filler).values()) == {0.0}


@pytest.mark.parametrize(("objective", "batch", "match"), [
    (lambda: o.cross_entropy().among("chosen"), "plain", "'chosen' rows of a batch, and it has none"),
    (lambda: o.dpo(), "plain", "chosen"), (lambda: o.redi(), "torn", "needs pairs"),
    (lambda: o.dpo(), "unlabelled", "needs answers"),
])  # fmt: skip
def test_batches_that_do_not_fit_are_refused(objective, batch, match):
    step, _ = step_of()
    rows = {"plain": counting("train", 6, 0).batch(range(6)), "torn": PART.batch([0, 1, 2])}.get(batch, BATCH)
    if batch == "torn":
        rows.extra["chosen"] = rows.extra["chosen"].flip(0)
    if batch == "unlabelled":
        rows = Batch(BATCH.inputs, BATCH.ids, extra=BATCH.extra)
    step.batch = rows
    with pytest.raises(SignalError, match=match):
        objective().evaluate(step)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: o.pearson_columns().among("chosen"), "compares the rows"), (lambda: o.dpo(beta=0), "beta=0"),
    (lambda: o.redi().against("peer"), "no reference"), (lambda: o.per_sequence(o.feature_mse().projected()), "no value"),
])  # fmt: skip
def test_terms_that_mean_nothing_are_refused(make, match):
    with pytest.raises(ArgumentError, match=match):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_changes_nothing(kind):
    """40 pairs in batches of 7 in 3 micro-batches: no pair is torn apart, and the last step has fewer."""
    found = []
    for accumulate in (1, 3):
        runner, (_, plan) = Runner(cpu=True), pair_stage(kind, accumulate=accumulate)
        runner.run(plan)
        found.append((losses(runner), weights(plan.learners["student"].module)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-12, rtol=0)


def test_plain_objectives_learn_from_the_chosen_answers_alone():
    job, _ = pair_job(batch_size=40, steps=1)
    runner = Runner(cpu=True)
    runner.run(job.stage(o.cross_entropy()))
    part = job.data.train.chosen()
    assert [len(part), len(job.data.train)] == [40, 40]
    for number in range(40):
        assert torch.equal(part.document(number), job.data.train.rows.document(2 * number))
    batch, pairs = part.batch([3, 7]), job.data.train.batch([3, 7])
    assert torch.equal(batch.labels, pairs.labels[::2])
    assert torch.equal(batch.ids, pairs.ids[::2])
    assert torch.equal(part.prompts, job.data.train.rows.prompts[::2])
    job, _ = pair_job(batch_size=40)
    assert job.stage(o.redi()).source.part is job.data.train
    assert job.stage(o.forward_kl().among("rejected")).source.part is job.data.train


def test_scores_of_pairs():
    """Perplexity is that of the chosen answers; how often these are the likelier ones, counted by hand."""
    job, _ = pair_job()
    part = job.data.parts["valid"]
    scores = job.task.measure(job.student, part)["scores"]
    batch = part.batch(range(len(part)))
    with torch.no_grad():
        log_q = job.student(**batch.inputs).logits.log_softmax(-1)
    own = [
        sum(float(log_q[r, t, y]) for t, y in enumerate(row) if y != -100)
        for r, row in enumerate(batch.labels.tolist())
    ]
    assert scores["preference_accuracy"] == sum(a > b for a, b in zip(own[::2], own[1::2], strict=True)) / len(part)
    tokens = int((batch.labels[::2] != -100).sum())
    assert scores["nll"] == pytest.approx(-sum(own[::2]) / tokens)
