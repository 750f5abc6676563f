"""Recipes with a second view of every batch, and with exits on the student's stages."""

import copy

import pytest
import torch

from limbeck.data.augment import GaussianNoise
from limbeck.errors import ArgumentError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner
from limbeck.training.second_view import SecondView


def terms(runner):
    return [record["terms"] for record in runner.metrics.records if "terms" in record]


def test_the_second_view_is_the_same_for_student_and_teacher():
    recipe = find("multi_level_logit")
    job = toy_job(recipe, steps=1)
    job.student = copy.deepcopy(job.teacher.module).eval()
    for child in job.student.modules():  # as the teacher runs: by its running statistics
        child.train = lambda mode=True: None
    runner = Runner(cpu=True)
    runner.run(recipe(job, strong="noise:0.5"))
    found = terms(runner)[0]
    assert found["instance_alignment/strong"] == pytest.approx(0, abs=1e-5)
    assert found["cross_entropy/strong"] != pytest.approx(found["cross_entropy"], abs=1e-4)


def test_which_view_a_sample_gets_is_drawn_once_a_step():
    from limbeck.signals.step import Step

    job = toy_job()
    batch = job.data.train.batch(torch.arange(4))
    view, step = SecondView("strong", GaussianNoise(1.0)), Step(batch, number=3, seed=1)
    first = view.of(batch, step).inputs
    assert torch.equal(first, view.of(batch, step).inputs)
    assert torch.equal(first, view.of(batch, Step(batch, number=3, seed=1)).inputs)  # as a resumed run draws it
    assert not torch.equal(first, view.of(batch, Step(batch, number=4, seed=1)).inputs)
    assert not torch.equal(first, batch.inputs)


def test_a_second_view_that_cannot_be_is_refused_before_training():
    recipe = find("multi_level_logit")
    job = toy_job(recipe)
    with pytest.raises(ArgumentError, match="Did you mean 'shift'"):
        recipe(job, strong="shft")
    job.data.train.inputs = job.data.train.inputs.flatten(1)
    with pytest.raises(ArgumentError, match="are for images"):
        recipe(job, strong="shift:1")
    job.teacher.stored = True
    with pytest.raises(ArgumentError, match="stored teacher"):
        recipe(job, strong="noise:0.1")
