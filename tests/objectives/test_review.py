"""Knowledge review: the fusion against its equations, written with plain convolutions."""

import pytest
import torch
import torch.nn.functional as F

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional import hierarchical_context_mse
from limbeck.objectives import review
from limbeck.objectives.algebra import as_step
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import cnn, mlp, resnet, wide_resnet
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner

G = torch.Generator().manual_seed(0)
STUDENT = {"one": torch.rand(3, 4, 8, 8, generator=G), "two": torch.rand(3, 6, 4, 4, generator=G),
           "vector": torch.rand(3, 6, generator=G)}  # fmt: skip
TEACHER = {"a": torch.rand(3, 5, 8, 8, generator=G), "b": torch.rand(3, 7, 2, 2, generator=G),
           "c": torch.rand(3, 9, generator=G)}  # fmt: skip


def built():
    term = review(student=["one", "two", "vector"], teacher=["a", "b", "c"])
    term.build(STUDENT, TEACHER)
    return term.eval()


def by_hand(term):
    """Every stage from the last to the first, by its weights; batch norms in eval mode are a scale here."""
    state = term.blocks.state_dict()
    stages = [STUDENT["vector"][..., None, None], STUDENT["two"], STUDENT["one"]]
    targets = [TEACHER["c"][..., None, None], TEACHER["b"], TEACHER["a"]]
    scale = 1 / (1 + 1e-5) ** 0.5
    total, rest = torch.zeros(3), None
    for i, (x, target) in enumerate(zip(stages, targets, strict=True)):
        x = scale * torch.einsum("oc,bchw->bohw", state[f"{i}.into.0.weight"][..., 0, 0], x)
        if i:
            factor = x.shape[2] // rest.shape[2]
            rest = rest.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            weight, bias = state[f"{i}.attention.weight"][..., 0, 0], state[f"{i}.attention.bias"]
            maps = torch.einsum("oc,bchw->bohw", weight, torch.cat([x, rest], 1)) + bias[:, None, None]
            maps = 1 / (1 + torch.exp(-maps))
            x = maps[:, :1] * x + maps[:, 1:] * rest
        if x.shape[2] > target.shape[2]:
            step = x.shape[2] // target.shape[2]
            x = x[:, :, ::step, ::step]
        rest = x
        found = scale * F.conv2d(x, state[f"{i}.out.0.weight"], padding=1)
        total = total + hierarchical_context_mse(found, target, reduction="none")
    return total


def test_fusion():
    term = built()
    torch.testing.assert_close(term.values(as_step(STUDENT, TEACHER)), by_hand(term))
    assert [block.attention is None for block in term.blocks] == [True, False, False]
    assert {block.into[0].out_channels for block in term.blocks} == {6}  # the deepest student's, below 512


def test_the_width_is_capped_and_what_learns_is_the_objective_s():
    term = review(student=["one", "two"], teacher=["a", "b"], width=2)
    with pytest.raises(SignalError, match="does not exist yet"):
        list(term.named_parameters())
    term.build(STUDENT, TEACHER)
    assert {block.into[0].out_channels for block in term.blocks} == {2}
    loss = term(STUDENT, TEACHER)
    loss.backward()
    assert all(parameter.grad is not None for parameter in term.parameters())


@pytest.mark.parametrize("nets", [
    (cnn(1, 4, 4, 2, 8), cnn(1, 4, 8, 3, 8)), (resnet(1, 4, 8, 4), wide_resnet(1, 4, 10, 1)),
])  # fmt: skip
def test_review_kd_runs_over_families_of_cnns(nets):
    recipe = find("review_kd")
    job = toy_job(recipe, steps=3)
    job.student, job.teacher = nets[0], as_teacher(nets[1])
    stage = recipe(job)
    text = str(stage.learners["student"].objective)
    assert "fc#input" in text
    assert text.count(" > ") == (3 if isinstance(nets[0], torch.nn.Sequential) else 4)
    runner = Runner(cpu=True)
    assert runner.run(stage).student is nets[0]
    found = [record["terms"]["review"] for record in runner.metrics.records if "terms" in record]
    assert all(0 < value < 100 for value in found)


def test_what_cannot_be_reviewed_is_said():
    recipe = find("review_kd")
    with pytest.raises(ArgumentError, match="give as many"):
        review(student=["one"], teacher=["a", "b"])
    with pytest.raises(SignalError, match="fuses maps"):
        review(student=["t"], teacher=["t"]).build({"t": torch.rand(2, 3, 4)}, {"t": torch.rand(2, 3, 4)})
    job = toy_job(recipe)
    job.teacher = as_teacher(lambda inputs: torch.zeros(len(inputs), 4))
    with pytest.raises(ArgumentError, match="no module"):
        recipe(job)
    job = toy_job(recipe)
    job.student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with pytest.raises(SignalError, match="no stages that can be found"):
        recipe(job)
    job = toy_job(recipe)
    job.student = mlp(64, 4, 8)  # vectors meet maps of another size: nearest neighbours bring one to the other
    assert Runner(cpu=True).run(recipe(job)).steps > 0
