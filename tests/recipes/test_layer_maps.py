"""Which layers of a teacher the parts of Distiller look at, by its layer map."""

from __future__ import annotations

import pytest

from limbeck.errors import ArgumentError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner
from toys import weights


def looked_at(**arguments):
    job = toy_job(find("distiller"))
    objective = find("distiller")(job, intermediate="mse", **arguments).learners["student"].objective
    return str(objective), job


def taps(job, role):
    return job.layers(role)


def test_the_last_layers_are_those_before_the_end():
    text, job = looked_at(layers=2, layer_map="last")
    for ours, theirs in zip(taps(job, "student")[-2:], taps(job, "teacher")[-2:], strict=True):
        assert f"{ours} > {theirs}" in text or (ours in text and theirs in text)


def test_one_layer_is_the_last_by_either_map():
    assert looked_at(layers=1, layer_map="last")[0] == looked_at(layers=1)[0]


def test_transport_weighs_all_of_the_teachers():
    text, job = looked_at(layers=2, layer_map="emd")
    assert f"transported(2 x {len(taps(job, 'teacher'))} of" in text
    before = weights(job.student)
    Runner(cpu=True).run(find("distiller")(job, intermediate="mi", layers=2, layer_map="emd"))
    assert not before.equal(weights(job.student))


@pytest.mark.parametrize("layer_map", ["spread", "last", "emd"])
def test_no_layer_at_all_is_refused(layer_map):
    with pytest.raises(ArgumentError, match="layers=0: expected 1 or more"):
        looked_at(layers=0, layer_map=layer_map)
    with pytest.raises(ArgumentError, match="layer_map='middle'"):
        find("distiller")(layer_map="middle")
