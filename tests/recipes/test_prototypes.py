"""ProC-KD: prototypes by k-means, assignments by loops, a student that is saved whole, teachers of other classes."""

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck import objectives as o
from limbeck.errors import ArgumentError, ModelError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import cnn, mlp
from limbeck.students.prototypes import Assign, Composed
from limbeck.students.save import load_module
from limbeck.training.execute import Runner
from limbeck.training.prototypes import prototypes_of

PROC = find("proc_kd")


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_assignments_by_loops():
    rng = np.random.default_rng(0)
    centres, maps, logits = rng.normal(size=(3, 4)), rng.normal(size=(2, 4, 2, 2)), rng.normal(size=(2, 3, 2, 2))
    found = o.assignment_kl("a", "t", torch.tensor(centres), temperature=0.5)(
        {"a": torch.tensor(logits), "logits": torch.zeros(2, 2)}, {"t": torch.tensor(maps)}
    )
    total = 0.0
    for b in range(2):
        for y in range(2):
            for x in range(2):
                place = maps[b, :, y, x] / np.linalg.norm(maps[b, :, y, x])
                p = softmax(np.array([c @ place / np.linalg.norm(c) for c in centres]) / 0.5)
                total += np.sum(p * np.log(p / softmax(logits[b, :, y, x]))) / 8
    assert found.item() == pytest.approx(total, rel=1e-6)


def test_who_assigns_as_the_teacher_does_has_no_loss():
    centres, maps = torch.randn(5, 4), torch.randn(2, 4, 3, 3)
    assign = Assign(4, centres, 0.1)
    with torch.no_grad():
        assign.project.weight.copy_(torch.eye(4)[:, :, None, None])
        assign.project.bias.zero_()
    found = o.assignment_kl("a", "t", centres)({"a": assign(maps)}, {"t": maps})
    assert found.item() == pytest.approx(0, abs=1e-5)


def test_prototypes_are_centres_of_places():
    job = toy_job(PROC)
    job.data.train.batch(torch.arange(2))
    teacher = job.teacher
    tap = job.layer("teacher", at=1)
    centres = prototypes_of(job, teacher, tap, 3)
    maps = teacher.read(job.data.train.batch(torch.arange(len(job.data.train))), [tap], job.task)[tap]
    places = maps.permute(0, 2, 3, 1).flatten(0, 2)
    nearest = torch.cdist(places, centres).argmin(1)
    for number, centre in enumerate(centres):  # what k-means ends in
        torch.testing.assert_close(places[nearest == number].mean(0), centre, rtol=1e-3, atol=1e-3)


def test_prototypes_stay_and_the_rest_learns():
    job = toy_job(PROC)
    stage = PROC(job, prototypes=4)
    student = stage.learners["student"].module
    before = {name: value.clone() for name, value in student.state_dict().items()}
    Runner(cpu=True).run(stage)
    assert isinstance(student, Composed)
    for name, value in student.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, before[name]) == ("prototypes" in name), name


def test_a_source_may_have_any_classes_and_the_student_is_saved_whole(tmp_path):
    source = cnn(1, 7, width=4, depth=2, size=8)
    run = lb.distill(PROC(source=source, prototypes=4), data="digits", teacher=cnn(1, 10, width=4, depth=2, size=8),
                     student="cnn(width=4,depth=2)", steps=4, out=tmp_path / "run", measure=False, progress=False)  # fmt: skip
    again, given = load_module(tmp_path / "run" / "student"), torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(again.eval()(given), run.student.eval()(given))


def test_what_cannot_be_composed_is_refused():
    job = toy_job(PROC)
    with pytest.raises(ArgumentError, match="prototypes=1:"):
        PROC(job, prototypes=1)
    with pytest.raises(ArgumentError, match="temperature=0"):
        PROC(job, temperature=0.0)
    job.student = mlp(64, 4, hidden=(8,))
    with pytest.raises(ModelError, match="maps that are composed"):
        PROC(job)
    with pytest.raises(ModelError, match="prototypes are of maps"):
        PROC(toy_job(PROC), source=mlp(64, 4, hidden=(8,)))
