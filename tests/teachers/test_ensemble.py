"""Ensembles: the mean of probabilities, of values, and single teachers' taps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, ModelError, SignalError
from limbeck.students.build import mlp
from limbeck.tasks.classification import Classification, Regression
from limbeck.teachers.base import ModuleTeacher, Teacher
from limbeck.teachers.ensemble import Ensemble

BATCH = Batch(torch.randn(4, 3), torch.arange(4))


class Fixed(Teacher):
    """Gives these logits, and counts how often it is asked."""

    def __init__(self, logits: torch.Tensor, stored: bool = False):
        self.logits, self.asked, self.stored, self.checked = logits, [], stored, None

    def read(self, batch, taps, task, *, progress=0.0):
        self.asked.append(list(taps))
        return {tap: self.logits if tap == "logits" else torch.zeros(1) for tap in taps}

    def identity(self):
        return str(self.logits.tolist())

    def check(self, data):
        self.checked = data


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_logits_are_the_log_of_the_mean_probability(teachers, classes, seed):
    rng = np.random.default_rng(seed)
    logits, weights = rng.normal(size=(teachers, 4, classes)) * 20, rng.uniform(0.1, 3, teachers)
    ensemble = Ensemble([Fixed(torch.tensor(value)) for value in logits], weights.tolist())
    found = ensemble.read(BATCH, ["logits"], Classification())["logits"]
    expected = sum(w * softmax(value) for w, value in zip(weights / weights.sum(), logits))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.exp().numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.exp().sum(-1).numpy(), 1, atol=1e-5)


def test_extreme_logits_stay_finite():
    sure = Fixed(torch.tensor([[1000.0, -1000.0]]))
    found = Ensemble([sure, sure]).read(BATCH, ["logits"], Classification())["logits"]
    assert torch.equal(found, torch.tensor([[0.0, -2000.0]]))


def test_values_are_averaged():
    ensemble = Ensemble([Fixed(torch.tensor([1.0, 2.0])), Fixed(torch.tensor([5.0, 6.0]))], [3, 1])
    assert torch.equal(ensemble.read(BATCH, ["logits"], Regression())["logits"], torch.tensor([2.0, 3.0]))


def test_single_teachers_are_read_by_name_and_each_runs_once():
    small, large = Fixed(torch.zeros(4, 2)), Fixed(torch.ones(4, 2))
    ensemble = Ensemble({"small": small, "large": large})
    read = ensemble.read(BATCH, ["logits", "large.logits", "large.layer1.0"], Classification())
    assert set(read) == {"logits", "large.logits", "large.layer1.0"}
    assert torch.equal(read["large.logits"], large.logits)
    assert (small.asked, large.asked) == ([["logits"]], [["logits", "layer1.0"]])
    ensemble.read(BATCH, ["small.logits"], Classification())
    assert len(large.asked) == 1  # not needed, so not run


@pytest.mark.parametrize("tap", ["layer1", "2.logits", "0.", "0"])
def test_other_taps_are_refused(tap):
    with pytest.raises(SignalError, match="An ensemble has no tap"):
        Ensemble([Fixed(torch.zeros(4, 2))] * 2).read(BATCH, [tap], Classification())


def test_teachers_of_other_class_counts_are_refused():
    with pytest.raises(ModelError, match=r"0: \[2\], 1: \[3\]"):
        Ensemble([Fixed(torch.zeros(4, 2)), Fixed(torch.zeros(4, 3))]).read(BATCH, ["logits"], Classification())


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, 0], [1, float("nan")], [1, float("inf")]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ArgumentError, match="2 positive numbers"):
        Ensemble([nn.Linear(3, 2), nn.Linear(3, 2)], weights)


def test_an_ensemble_needs_teachers():
    with pytest.raises(ArgumentError, match="at least one"):
        Ensemble([])
    with pytest.raises(ModelError, match="int cannot teach"):
        Ensemble([3])


def test_modules_become_teachers_and_stay_without_gradient():
    first, second = mlp(3, 2), mlp(3, 2)
    ensemble = Ensemble([first, ModuleTeacher(second)])
    read = ensemble.read(BATCH, ["logits", "0.hidden1"], Classification())
    expected = (first(BATCH.inputs).softmax(-1) + second(BATCH.inputs).softmax(-1)) / 2
    assert torch.allclose(read["logits"].exp(), expected, atol=1e-6)
    assert read["0.hidden1"].shape == (4, 64)
    assert not read["logits"].requires_grad
    assert ensemble.modules() == [first, second]


def test_identity_follows_teachers_order_and_weights():
    first, second = Fixed(torch.zeros(1, 2)), Fixed(torch.ones(1, 2))
    prints = [
        Ensemble([first, second]).identity(),
        Ensemble([second, first]).identity(),
        Ensemble([first, second], [1, 2]).identity(),
        Ensemble([first]).identity(),
    ]
    assert len(set(prints)) == 4
    assert Ensemble([first, second], [2, 2]).identity() == prints[0]


def test_an_ensemble_is_stored_when_all_its_teachers_are_and_checks_them_all():
    first, second = Fixed(torch.zeros(1, 2), stored=True), Fixed(torch.zeros(1, 2))
    assert Ensemble([first]).stored
    assert not Ensemble([first, second]).stored
    Ensemble([first, second]).check("data")
    assert first.checked == second.checked == "data"
