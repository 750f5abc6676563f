"""Which layers of a teacher the parts of Distiller look at, by its layer map."""

from __future__ import annotations

import pytest

from limbeck.errors import ArgumentError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import cnn
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.execute import Runner
from toys import weights


def made(**arguments):
    """A job of a student of 3 stages and a teacher of 5, and the objective of distiller on it."""
    job = toy_job(find("distiller"))
    job.student, job.teacher = cnn(1, 4, width=4, depth=3, size=8), ModuleTeacher(cnn(1, 4, width=4, depth=5, size=8))
    return job, find("distiller")(job, intermediate="mse", **arguments).learners["student"].objective


def pairs(**arguments):
    """The taps that are compared, the student's and the teacher's."""
    terms = made(**arguments)[1].terms
    taps = [tuple(ref.tap.removesuffix("#mean") for ref in term.needs()) for term in terms]
    return [pair for pair in taps if len(pair) == 2 and "logits" not in pair]


def test_layers_are_spread_or_those_before_the_end():
    assert pairs(layers=2) == [("block1", "block1"), ("block3", "block5")]
    assert pairs(layers=3) == [("block1", "block1"), ("block2", "block3"), ("block3", "block5")]
    assert pairs(layers=2, layer_map="last") == [("block2", "block4"), ("block3", "block5")]


def test_one_layer_is_the_last_by_either_map():
    assert pairs(layers=1, layer_map="last") == pairs(layers=1) == [("block3", "block5")]


def test_transport_weighs_all_of_the_teachers():
    job, objective = made(layers=2, layer_map="emd")
    assert "transported(2 x 5 of" in str(objective)
    before = weights(job.student)
    Runner(cpu=True).run(find("distiller")(job, intermediate="mi", layers=2, layer_map="emd"))
    assert not before.equal(weights(job.student))


@pytest.mark.parametrize("layer_map", ["spread", "last", "emd"])
def test_no_layer_at_all_is_refused(layer_map):
    with pytest.raises(ArgumentError, match="layers=0: expected 1 or more"):
        made(layers=0, layer_map=layer_map)
    with pytest.raises(ArgumentError, match="layer_map='middle'"):
        find("distiller")(layer_map="middle")
