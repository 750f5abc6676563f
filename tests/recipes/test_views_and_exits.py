"""Recipes with a second view of every batch, and with exits on the student's stages."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data.augment import GaussianNoise
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives.exits import exit_head
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.save import load_module, save_model
from limbeck.teachers.base import as_teacher
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


class Patches(nn.Module):
    """A vision transformer small enough to read: 2x2 patches, a class token, two layers."""

    def __init__(self, width=16, outputs=4, side=8):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, (side // 2) ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


@pytest.mark.parametrize("kinds", [("transformer", "cnn"), ("cnn", "transformer"), ("cnn", "cnn")])
def test_exits_cross_families_and_stay_behind(kinds, tmp_path):
    recipe = find("ofa_kd")
    job = toy_job(recipe, steps=3)
    torch.manual_seed(0)
    if kinds[0] == "transformer":
        job.teacher = as_teacher(Patches())
    if kinds[1] == "transformer":
        job.student = Patches()
    before = {name: value.shape for name, value in job.student.state_dict().items()}
    stage = recipe(job, eps=1.2)
    runner = Runner(cpu=True)
    result = runner.run(stage)
    names = set(terms(runner)[0])
    assert len({name for name in names if name.startswith("exit(")}) == 2
    assert {name: value.shape for name, value in result.student.state_dict().items()} == before
    owned = [name for name, _ in stage.learners["student"].objective.named_parameters()]
    assert any("projector" in name for name in owned)  # what is in the objective is trained and kept in checkpoints
    if kinds[1] == "cnn":
        saved = load_module(save_model(result.student, tmp_path / "student"))
        x = job.data.train.batch([0, 1]).inputs
        assert torch.equal(saved(x), result.student.eval()(x))


@pytest.mark.parametrize(
    ("shape", "depth", "exact"),
    [((3, 6, 8, 8), 2, 24), ((3, 5, 1, 1), 1, 10), ((3, 5, 3, 3), 0, 5), ((3, 9), 3, 9),
     ((3, 50, 8), 2, 8), ((3, 49, 8), 0, 8), ((3, 196, 8), 1, 8), ((3, 7, 6), 1, 6)],
)  # fmt: skip
def test_an_exit_gives_logits_of_every_kind_of_signal(shape, depth, exact):
    head = exit_head(shape, (3, 4), depth=depth)
    assert head(torch.randn(shape)).shape == (3, 4)
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    assert last.in_features == exact
    strided = [m for m in head.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) <= depth
    assert len(head.merges if hasattr(head, "merges") else ()) == (1 if shape == (3, 196, 8) else 0)


def test_merging_takes_squares_of_neighbours():
    head = exit_head((1, 196, 1), (1, 4), depth=1)
    seen = []
    head.merges[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    head(torch.arange(196.0).view(1, 196, 1))
    assert seen[0][0, 0].tolist() == [0, 1, 14, 15]
    assert seen[0][0, 8].tolist() == [30, 31, 44, 45]


def test_padding_does_not_reach_an_exit_of_texts():
    head = exit_head((2, 5, 8), (2, 4), mixing=False)
    tokens = torch.randn(2, 5, 8)
    assert torch.equal(head(tokens), head(tokens[:, :3]))


def test_eps_and_exits_are_checked():
    recipe = find("ofa_kd")
    assert recipe(toy_job(recipe), eps=[1.0, 1.2, 1.5]).learners["student"].objective
    with pytest.raises(ArgumentError, match="3, for the exits on"):
        recipe(toy_job(recipe), eps=[1.0, 1.2])
    with pytest.raises(ArgumentError, match="exits=0"):
        recipe(toy_job(recipe), exits=0)
    with pytest.raises(ArgumentError, match="eps=-1"):
        Runner(cpu=True).run(recipe(toy_job(recipe), eps=-1.0))
    with pytest.raises(SignalError, match="maps, tokens or vectors"):
        exit_head((3, 4, 5, 6, 7), (3, 4))


def test_one_number_of_eps_sharpens_the_true_class():
    """At eps 1 the target is p_T; above, the true class gains (1 + p)^eps - 1 > p and the others lose."""
    from limbeck import functional as f

    student = torch.zeros(1, 3, dtype=torch.float64).requires_grad_()
    teacher, label = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64), torch.tensor([0])
    torch.testing.assert_close(f.adapted_cross_entropy(student, teacher, label), f.soft_cross_entropy(student, teacher))
    (slope,) = torch.autograd.grad(f.adapted_cross_entropy(student, teacher, label, eps=1.5), student)
    p = teacher.softmax(1)[0].numpy()
    target = [(1 + p[0]) ** 1.5 - 1, p[1] ** 1.5, p[2] ** 1.5]
    assert target[0] > p[0]
    assert target[1] < p[1]
    np.testing.assert_allclose(slope[0].numpy(), [sum(target) / 3 - each for each in target])
    unlabelled = f.adapted_cross_entropy(student, teacher, torch.tensor([-100]), eps=1.5)
    assert float(unlabelled.detach()) == pytest.approx(float((p**1.5).sum() * np.log(3)))
