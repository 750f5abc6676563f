"""TAID's pace inside a training: it hears each step's loss, is kept in checkpoints, and is that of the controller."""

import pytest
import torch

from limbeck import objectives as o
from limbeck.functional import InterpolationPace, interpolated_cross_entropy
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner
from toys import weights

OPTIONS = {"alpha": 0.05, "beta": 0.5}


def run(steps=8, **settings):
    job = toy_job(find("taid"), steps=steps, best="last", **settings)
    runner = Runner(cpu=True)
    result = runner.run(find("taid")(job, **OPTIONS))
    objective = next(iter(runner.stages[0].learners.values())).objective
    losses = [r["terms"]["interpolated_cross_entropy"] for r in runner.metrics.records if "terms" in r]
    return result, objective, losses


def test_its_state_is_that_of_the_controller_fed_with_the_losses():
    _, objective, losses = run()
    pace = InterpolationPace(**OPTIONS)
    for step, loss in enumerate(losses):
        pace = pace.after(loss, step / len(losses))
    torch.testing.assert_close(
        objective.state, torch.tensor([pace.share, pace.momentum, pace.previous]).double(), rtol=1e-6, atol=1e-9
    )
    assert objective.options["share"] == pytest.approx(pace.share)


def test_accumulation_changes_nothing():
    (one, first, _), (two, second, _) = run(), run(accumulate=4)
    torch.testing.assert_close(first.state, second.state, rtol=1e-6, atol=1e-6)  # the loss is of float32
    torch.testing.assert_close(weights(one.student), weights(two.student), rtol=1e-4, atol=1e-6)


def test_it_starts_at_its_share_and_hears_in_ones_own_loop():
    objective = o.paced_target(start=0.3)
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    loss = objective(student, teacher)
    torch.testing.assert_close(loss, interpolated_cross_entropy(student, teacher, share=0.3))
    assert objective.follows
    for progress in (0.0, 0.9):
        objective.hear({"interpolated_cross_entropy": float(loss)}, progress)
    assert objective.options["share"] == pytest.approx(0.3 + 0.7 * 0.9)
    again = o.paced_target(start=0.3)
    again.load_state_dict(objective.state_dict())
    assert again.options == objective.options
    assert not o.forward_kl().follows
