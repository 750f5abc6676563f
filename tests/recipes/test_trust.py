"""TGeo-KD: the relations by hand, and the gradient of the held-out loss against one that is taken through the step."""

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data.base import Batch, TensorPart
from limbeck.errors import ArgumentError, DataError
from limbeck.functional.geometry import class_means, trilateral_relations
from limbeck.functional.response import cross_entropy
from limbeck.objectives.geometry import HeldOut, Ratio, losses
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.signals.step import Step
from limbeck.training.execute import Runner
from limbeck.training.trust import hold_out_labelled

TGEO = find("tgeo_kd")
rng = np.random.default_rng(2)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_relations():
    s, t = rng.normal(size=(2, 5, 3))
    y, means = np.array([0, 2, 1, 1, 0]), rng.dirichlet(np.ones(3), size=3)
    found = trilateral_relations(*(torch.tensor(each) for each in (s, t, y, means)))
    for i in range(5):
        p, q, g, m = softmax(s[i]), softmax(t[i]), np.eye(3)[y[i]], means[y[i]]
        np.testing.assert_allclose(found[i], np.concatenate([g - p, g - q, q - p, g - m, m - p, p, q, m]))


def test_means_of_a_class():
    p = torch.tensor(rng.dirichlet(np.ones(3), size=6))
    found = class_means(p, torch.tensor([0, 0, 1, -100, 1, 0]))
    torch.testing.assert_close(found[0], (p[0] + p[1] + p[5]) / 3)
    torch.testing.assert_close(found[1], (p[2] + p[4]) / 2)
    assert found[2].tolist() == [0, 0, 1]  # nobody is of it


def test_the_gradient_is_that_through_one_step_of_the_student():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, teacher = torch.randn(8, 4).double(), torch.randn(8, 3).double()
    labels = torch.tensor([0, 1, 2, 0, 1, -100, 2, -100])
    held = TensorPart("held", torch.randn(10, 4).double(), torch.arange(10) % 3)
    ratio, rate = Ratio(torch.softmax(torch.randn(3, 3), 1).double(), 5).double(), 0.3

    def logits(weights, batch):
        return torch.func.functional_call(student, dict(weights), (batch.inputs,))

    term = HeldOut(logits, held, 2.0, rate, 7)
    step = Step(Batch(x, torch.arange(8), labels), modules={"student": student, "ratio": ratio}, number=4)
    step.put("teacher", {"logits": teacher})
    ours = torch.autograd.grad(rate * term.values(step).mean(), list(ratio.parameters()))

    theta = dict(student.named_parameters())
    own = logits(theta, step.batch)
    alpha = torch.where(labels == -100, 1.0, ratio(own, teacher, labels))
    kd, ce = losses(own, teacher, labels, 2.0)
    gradients = torch.autograd.grad((alpha * kd + (1 - alpha) * ce).mean(), list(theta.values()), create_graph=True)
    moved = {name: value - rate * g for (name, value), g in zip(theta.items(), gradients, strict=True)}
    chosen = torch.randint(10, (7,), generator=step.rng("held out"))
    batch = held.batch(chosen)
    loss = cross_entropy(logits(moved, batch), batch.labels)
    for one, other in zip(ours, torch.autograd.grad(loss, list(ratio.parameters())), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_held_out_is_not_trained_on():
    job = toy_job(TGEO)
    rest, held = hold_out_labelled(job, 0.2)
    assert len(held) == 6  # of 30
    assert bool(held.is_labelled().all())
    assert not set(rest.ids.tolist()) & set(held.ids.tolist())
    assert len(rest) + len(held) == len(job.data.train)
    with pytest.raises(ArgumentError, match="held=1"):
        TGEO(job, held=1.0)
    with pytest.raises(DataError, match="leaves none on one side"):
        TGEO(job, held=0.01)


def test_both_learn_and_the_student_stays_as_it_was_built():
    job = toy_job(TGEO, steps=5)
    keys = list(job.student.state_dict())
    stage = TGEO(job, every=2)
    ratio = stage.learners["ratio"].module
    before = [parameter.clone() for parameter in ratio.parameters()]
    result = Runner(cpu=True).run(stage)
    assert any(not torch.equal(a, b) for a, b in zip(before, ratio.parameters(), strict=True))
    assert list(result.student.state_dict()) == keys
    assert stage.learners["ratio"].every == 2
    assert result.modules["ratio"] is ratio
