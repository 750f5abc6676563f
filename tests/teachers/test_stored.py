"""A stored teacher: the live one's signals, without its model."""

import copy

import pytest
import torch
from torch import nn

from limbeck.api import distill
from limbeck.data.base import Data, TensorPart
from limbeck.errors import SignalError, StoreError
from limbeck.objectives import cross_entropy, forward_kl
from limbeck.signals.store import store_signals
from limbeck.tasks.classification import Classification
from limbeck.teachers.base import ModuleTeacher, as_teacher
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.settings import Settings

TASK = Classification()


class Flip:
    """Two views: the sample, and the sample backwards."""

    count = 2

    def draw(self, number, generator):
        return torch.randint(2, (number,), generator=generator)

    def apply(self, inputs, view):
        return torch.where(view[:, None] == 1, inputs.flip(1), inputs)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def make_data(augmentation=None, seed=0):
    torch.manual_seed(seed)
    inputs = torch.randn(60, 6)
    parts = {
        "train": TensorPart("train", inputs[:40], torch.arange(40) % 5, torch.arange(40), augmentation),
        "test": TensorPart("test", inputs[40:], torch.arange(20) % 5, torch.arange(40, 60)),
    }
    return Data("toy", "table", parts, classes=list("abcde"))


def test_gives_what_the_live_teacher_gives(tmp_path, net):
    data = make_data(Flip())
    store_signals(net, data, tmp_path, task=TASK, taps=["logits", "1"], dtype="float32", views="all", shard_rows=11)
    stored, live = StoredTeacher(tmp_path), ModuleTeacher(net)
    assert stored.identity() == live.identity()
    assert stored.modules() == [] and stored.stored and stored.taps == ["logits", "1"]
    generator = torch.Generator().manual_seed(0)
    for positions in torch.randperm(40, generator=generator).split(16):
        for batch in (data.train.batch(positions, generator), data.train.batch(positions)):
            expected, found = live.read(batch, ["logits", "1"], TASK), stored.read(batch, ["logits", "1"], TASK)
            assert found.keys() == expected.keys()
            assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    stored.check(data)
    assert stored.covers(data.train) and not stored.covers(data.parts["test"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_signals_come_in_float32(tmp_path, net, dtype):
    data = make_data()
    store = store_signals(net, data, tmp_path, task=TASK, dtype=dtype)
    batch = data.train.batch([3, 1])
    found = StoredTeacher(store).read(batch, ["logits"], TASK)["logits"]
    assert found.dtype == torch.float32 and torch.equal(found, store.read(batch.ids)["logits"].float())


def test_top_k_come_as_log_probabilities(tmp_path, net):
    data = make_data()
    store = store_signals(net, data, tmp_path, task=TASK, top_k=5)
    batch = data.train.batch(torch.arange(40))
    found, live = StoredTeacher(store).read(batch, ["logits"], TASK), ModuleTeacher(net).read(batch, ["logits"], TASK)
    # all classes are kept: what is left is the rounding of float16
    assert torch.allclose(found["logits"], live["logits"].log_softmax(-1), atol=4e-3)
    assert torch.allclose(found["logits"].exp().sum(-1), torch.ones(40), atol=1e-6)


def test_refuses_what_is_not_stored(tmp_path, net):
    data = make_data()
    teacher = StoredTeacher(store_signals(net, data, tmp_path, task=TASK))
    with pytest.raises(SignalError, match=r"does not hold '1'.*logits"):
        teacher.read(data.train.batch([0]), ["1"], TASK)
    with pytest.raises(StoreError, match=r"2 of 2 sample ids: \[40, 41\]"):
        teacher.read(data.parts["test"].batch([0, 1]), ["logits"], TASK)
    with pytest.raises(StoreError, match="has no view 1 of the sample 0; it holds 0 views"):
        teacher.read(make_data(Flip()).train.batch([0], view=torch.tensor([1])), ["logits"], TASK)
    with pytest.raises(StoreError, match="other data"):
        teacher.check(make_data(seed=1))
    with pytest.raises(StoreError, match="train without augmentation"):
        teacher.check(make_data(Flip()))


def test_a_store_is_a_teacher(tmp_path, net):
    data = make_data()
    store = store_signals(net, data, tmp_path, task=TASK)
    assert isinstance(as_teacher(store), StoredTeacher)
    both = Ensemble([store, net])
    assert not both.stored and Ensemble([store, StoredTeacher(tmp_path)]).stored
    assert both.covers(data.train) and not both.covers(data.parts["test"]) and ModuleTeacher(net).covers(data.train)
    batch = data.train.batch([5, 6])
    expected = ModuleTeacher(net).read(batch, ["logits"], TASK)["logits"].log_softmax(-1)
    assert torch.allclose(both.read(batch, ["logits"], TASK)["logits"], expected, atol=1e-3)


def test_training_from_a_store_gives_the_live_teachers_student(tmp_path, net):
    data = make_data(Flip())
    store = store_signals(net, data, tmp_path, task=TASK, dtype="float32", views="all", batch_size=8)
    objective = cross_entropy() + forward_kl(temperature=4.0)
    found, start = [], nn.Linear(6, 5)
    for teacher in (net, store):
        job = Job(TASK, data, copy.deepcopy(start), as_teacher(teacher), Settings().with_(epochs=2, batch_size=8))
        found.append(Runner(cpu=True).run(job.stage(objective)).student.weight)
    assert torch.allclose(*found, atol=1e-6) and not torch.allclose(found[0], start.weight, atol=1e-3)


def test_a_store_of_the_training_part_is_enough(tmp_path, net):
    data = make_data()
    store = store_signals(net, data, tmp_path / "s", task=TASK)
    run = distill("kd", teacher=store, student="mlp:8", data=data, epochs=1, measure=False)
    assert [model["name"] for model in run.record["models"]] == ["student"]
    assert any("no signals of the test part" in warning for warning in run.record["warnings"])
