"""Trainings in lockstep: each is what it would be alone, and the teacher reads each batch once."""

import os
import signal
import threading

import pytest
import torch

import limbeck as lb
from limbeck.data.base import Batch
from limbeck.errors import Interrupted
from limbeck.students.build import cnn, mlp
from limbeck.students.declare import seeded
from limbeck.tasks import resolve
from limbeck.teachers.base import as_teacher
from limbeck.training.lockstep import Lockstep, shared
from toys import weights

RECIPES = ("kd", "dkd", "similarity_preserving", "alone")


def teacher():
    with seeded(0):
        return cnn(1, 10, width=4, depth=2, size=8).eval()


def options(**more):
    return {"data": "digits", "student": "cnn(width=2, depth=2)", "steps": 12, "batch_size": 32, "measure": False,
            "progress": False, **more}  # fmt: skip


def job(recipe, model, **more):
    def train(turn):
        return lb.distill(recipe, teacher=None if recipe == "alone" else model, watchers=[turn], **options(**more))

    return train


def test_each_is_what_it_would_be_alone_and_the_teacher_reads_once():
    model = as_teacher(teacher())
    reads = shared(model)
    turns = Lockstep({recipe: job(recipe, model) for recipe in RECIPES}).run()
    for recipe, turn in turns.items():
        assert turn.error is None
        assert turn.steps == 12
        by_itself = lb.distill(recipe, teacher=None if recipe == "alone" else teacher(), **options())
        assert torch.equal(weights(turn.result.student), weights(by_itself.student))
    # one look at the first batch for logits, one more for the layer that the third asks for, then one for each step
    assert 12 <= reads.passes <= 12 + 3
    assert reads.asked >= 3 * 12
    assert reads.seconds > 0


def test_one_that_fails_leaves_the_others_at_work():
    def broken(turn):
        raise ValueError("no")

    class Late:
        def step(self, loop):
            if loop.number == 5:
                raise RuntimeError("late")

    def late(turn):
        return lb.distill("alone", watchers=[Late(), turn], **options())

    turns = Lockstep({"broken": broken, "late": late, "kd": job("kd", as_teacher(teacher()))}).run()
    assert isinstance(turns["broken"].error, ValueError)
    assert isinstance(turns["late"].error, RuntimeError)
    assert turns["kd"].error is None
    assert turns["kd"].steps == 12


def test_an_interruption_saves_all(tmp_path):
    class Kill:
        def step(self, loop):
            if loop.number == 4 and threading.current_thread().name == "limbeck kd":
                os.kill(os.getpid(), signal.SIGINT)

    def train(recipe):
        def start(turn):
            return lb.distill(recipe, teacher=teacher(), watchers=[Kill(), turn], out=tmp_path / recipe, **options())

        return start

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="Saved after step"):
        Lockstep({recipe: train(recipe) for recipe in ("kd", "dkd")}).run()
    assert signal.getsignal(signal.SIGINT) == before
    for recipe in ("kd", "dkd"):
        assert 3 <= max(int(path.name[5:]) for path in (tmp_path / recipe).glob("stages/0/checkpoints/step-*")) <= 6
        again = lb.distill(recipe, teacher=teacher(), out=tmp_path / recipe, resume=True, **options())
        by_itself = lb.distill(recipe, teacher=teacher(), **options())
        assert torch.equal(weights(again.student), weights(by_itself.student))


def test_another_batch_is_read_anew():
    model, task = as_teacher(mlp(3, 2)), resolve("classification")
    reads = shared(model)
    one, two = torch.randn(4, 3), torch.randn(4, 3)
    ids = torch.arange(4)
    first = model.read(Batch(one, ids), ["logits"], task)["logits"]
    assert model.read(Batch(one.clone(), ids), ["logits"], task)["logits"] is first
    assert not torch.equal(model.read(Batch(two, ids), ["logits"], task)["logits"], first)  # the same ids, other inputs
    assert reads.passes == 2
    view = torch.ones(4, dtype=torch.int64)
    model.read(Batch(one, ids, view=view), ["logits"], task)
    assert reads.passes == 3
    both = model.read(Batch(one, ids, view=view), ["logits", "hidden1"], task)
    assert set(both) == {"logits", "hidden1"}
    assert reads.passes == 4
