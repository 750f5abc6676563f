"""Recipes with a stage before: what it trains, how long, what of it is used after, and that a resumed run does the same."""

import copy

import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional import factor_l1
from limbeck.objectives import as_step, paraphrase
from limbeck.objectives.factors import Paraphraser, translator
from limbeck.objectives.projectors import projector
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import cnn, mlp, resnet
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from toys import weights

FT, AB = find("factor_transfer"), find("activation_boundary")


def plan_of(recipe, **arguments):
    """Both stages, run by hand; the job, the stages, and a copy of the student after each."""
    job = toy_job(recipe, steps=18, best="last")
    runner, plan, stages, students = Runner(cpu=True), recipe(job, **arguments), [], []
    result = None
    try:
        while True:
            stages.append(plan.send(result))
            result = runner.stage(stages[-1])
            students.append(copy.deepcopy(result.student))
    except StopIteration:
        return job, stages, students, runner


def losses(runner, stage, name):
    return [r["terms"][name] for r in runner.metrics.records if r.get("stage") == stage and "terms" in r]


def test_the_length_is_shared():
    for recipe in (FT, AB):
        _, stages, _, _ = plan_of(recipe, before=1 / 3)
        assert [stage.settings.steps for stage in stages] == [6, 12]
        assert stages[0].evaluate is None  # a score would choose among students that have learnt no label
    job = toy_job(AB, steps=None, epochs=9)
    assert next(AB(job, before=1 / 3)).settings.epochs == pytest.approx(3)
    with pytest.raises(ArgumentError, match="before=1"):
        next(AB(toy_job(AB), before=1.0))


def test_the_paraphraser_learns_and_the_student_waits():
    job = toy_job(FT, steps=60)
    before = weights(job.student)
    runner = Runner(cpu=True)
    runner.stage(next(FT(job, before=0.9)))
    found = losses(runner, 0, "paraphrase")
    assert found[-1] < 0.7 * found[0]
    assert torch.equal(weights(job.student), before)


def test_the_factors_are_the_frozen_paraphraser_s():
    _, stages, students, runner = plan_of(FT, rate=0.25, before=0.5)
    module = stages[0].learners["student"].objective.module
    assert isinstance(module, Paraphraser)
    assert stages[1].roles["factors"].module is module
    assert module.encoder[-2].out_channels == 4  # a quarter of the toy teacher's 16
    term = stages[1].learners["student"].objective.terms[1]
    assert term.projector[-2].num_features == 4
    assert not any(
        parameter is other for parameter in module.parameters() for other in stages[1].learners["student"].parameters()
    )
    assert students[1].state_dict().keys() == students[0].state_dict().keys()
    assert len(losses(runner, 1, "factor_l1(block2)")) > 0


def test_paraphraser_and_translator():
    maps = torch.randn(2, 8, 5, 5)
    made = Paraphraser(8, 3)
    assert made(maps).shape == (2, 3, 5, 5)
    assert made.decoder(made(maps)).shape == maps.shape
    kinds = [type(layer) for layer in (*made.encoder, *made.decoder) if not isinstance(layer, nn.LeakyReLU)]
    assert kinds == [nn.Conv2d] * 3 + [nn.ConvTranspose2d] * 3
    through = translator((2, 6, 5, 5), (2, 3, 5, 5))
    assert through(torch.randn(2, 6, 5, 5)).shape == (2, 3, 5, 5)
    term = paraphrase(tap="x", rate=0.5).build({"x": maps}, {"x": maps})
    values = term.values(as_step({"x": maps}, {"x": maps}))
    again = term.module.decoder(term.module.encoder(maps))
    torch.testing.assert_close(values, torch.stack([((a - b) ** 2).mean() for a, b in zip(again, maps, strict=True)]))


def test_factors_do_not_see_scale_or_sign():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(factor_l1(-3 * a, b), factor_l1(a, 0.5 * b))
    assert float(factor_l1(a, a[:, [2, 0, 1]])) == pytest.approx(0, abs=1e-6)


def test_boundaries_come_first_and_labels_alone_after():
    job, stages, students, runner = plan_of(AB, before=0.9)
    first, second = (stage.learners["student"].objective for stage in stages)
    assert {term.name.partition("(")[0] for term in first.terms} == {"activation_boundary"}
    assert [float(str(weight)) for weight, _ in first.weighted()] == pytest.approx([0.0015, 0.003])
    assert str(second) == "cross_entropy()"
    found = losses(runner, 0, "loss")
    assert found[-1] < found[0]
    names = [ref.tap for ref in first.needs()]
    assert names == ["block1.relu#input"] * 2 + ["block2.relu#input"] * 2
    assert students[0].state_dict().keys() == students[1].state_dict().keys() == job.student.state_dict().keys()


def test_connectors_bring_one_layer_to_the_other():
    maps = projector("connector", (4, 3, 8, 8), (4, 5, 4, 4))
    assert maps(torch.randn(4, 3, 8, 8)).shape == (4, 5, 4, 4)
    assert projector("connector", (4, 3), (4, 5))(torch.randn(4, 3)).shape == (4, 5)
    with pytest.raises(SignalError, match="different kinds"):
        projector("connector", (4, 3), (4, 5, 4, 4))
    with pytest.raises(SignalError, match="maps and vectors"):
        projector("connector", (4, 7, 3), (4, 7, 5))


@pytest.mark.parametrize("recipe", [FT, AB])
def test_a_resumed_run_goes_on_from_the_stage_before(recipe, tmp_path):
    def run(folder, resume=False, stop=None):
        runner = Runner(folder, cpu=True, resume=resume)
        plan = recipe(toy_job(recipe, steps=8), before=0.5)
        if stop:
            runner.stage(next(plan))
            return None
        return weights(runner.run(plan).student)

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop=True)
    assert torch.equal(run(tmp_path / "cut", resume=True), whole)


@pytest.mark.parametrize("recipe", [FT, AB])
def test_what_does_not_fit_is_said_before_training(recipe):
    job = toy_job(recipe)
    job.teacher = as_teacher(lambda inputs: torch.zeros(len(inputs), 4))
    with pytest.raises(ArgumentError, match="no module"):
        next(recipe(job))
    job = toy_job(recipe)
    job.teacher = as_teacher(mlp(64, 4, 8))
    with pytest.raises(SignalError, match=r"maps|different kinds"):
        Runner(cpu=True).run(recipe(job))


def test_both_run_from_a_residual_net():
    for recipe in (FT, AB):
        job = toy_job(recipe, steps=4)
        job.student, job.teacher = cnn(1, 4, 4, 3, 8), as_teacher(resnet(1, 4, 8, 4))
        assert Runner(cpu=True).run(recipe(job)).steps > 0
