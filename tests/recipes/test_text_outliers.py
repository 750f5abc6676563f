"""MLKD for texts of another kind: nearest layers, and what the recipe trains."""

import copy

import pytest
import torch
from torch import nn

from goldens import load
from limbeck import functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.objectives import as_step
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.training.execute import Runner

MLKD = find("mlkd_ood")


@pytest.mark.shared_data
def test_the_loss_is_that_of_the_golden_case():
    case = load("classifiers", "mlkd_ood")
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    logits, states = (case[f"in_s_{name}"].requires_grad_() for name in ("logits", "hid"))
    theirs = nn.functional.linear(case["in_t_hid"][1:], case["in_proj_w"], case["in_proj_b"])
    inside = (f.nearest_layers_mse(states[2:4], theirs, nearest=2) * mask).sum() / mask.sum()
    outputs = f.forward_kl(logits, case["in_t_logits"], mask=mask)
    assert float(inside.detach()) == pytest.approx(float(case["out_hidden_part"]))
    assert float(outputs.detach()) == pytest.approx(float(case["out_logit_part"]))
    (inside + outputs).backward()
    torch.testing.assert_close(states.grad, case["grad_s_hid"])
    torch.testing.assert_close(logits.grad, case["grad_s_logits"])


def test_nearest_layers_against_loops():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 1, 3, 4, generator=draw), torch.randn(5, 1, 3, 4, generator=draw)
    found = f.nearest_layers_mse(ours, theirs, nearest=3)
    for token in range(3):
        total = 0.0
        for layer in ours[:, 0, token]:
            total += sum(sorted(float((layer - other).square().mean()) for other in theirs[:, 0, token])[:3])
        assert float(found[0, token]) == pytest.approx(total, rel=1e-5)


def test_one_map_of_the_teachers_states_learns_and_is_the_objectives():
    term = o.nearest_layers(student=["a", "b"], teacher=["x", "y", "z"], nearest=1)
    step = as_step({tap: torch.randn(2, 3, 4) for tap in "ab"}, {tap: torch.randn(2, 3, 6) for tap in "xyz"})
    term.prepare(step)
    assert [tuple(p.shape) for p in term.parameters()] == [(4, 6), (4,)]
    assert term.values(step).shape == (2, 3)
    with pytest.raises(ArgumentError, match="nearest=4"):
        o.nearest_layers(student=["a"], teacher=["x", "y", "z"], nearest=4)


def test_the_layers_in_the_middle_learn_and_the_labels_do_not_count():
    job = toy_job(MLKD, steps=20)
    stage = MLKD(job, first=0.5, last=1.0)
    objective = stage.learners["student"].objective
    assert [ref.tap for ref in objective.terms[1].ours] == ["base_model.layers.1", "base_model.layers.2"]
    assert len(objective.terms[1].theirs) == 3
    assert not any(term.labelled for term in objective.terms)
    before = copy.deepcopy(job.student)
    runner = Runner(cpu=True)
    result = runner.stage(stage)
    found = [r["terms"]["nearest_layers"] for r in runner.metrics.records if "terms" in r]
    assert found[-1] < found[0]
    assert set(result.student.state_dict()) == set(before.state_dict())  # the map is not part of the student


@pytest.mark.parametrize(("arguments", "match"), [
    ({"first": 0.9, "last": 0.1}, "in order"),
    ({"first": 0.4, "last": 0.6}, "wider range"),
    ({"inside": 0.0}, "above 0"),
    ({"nearest": 9}, "nearest=9"),
])  # fmt: skip
def test_what_is_wrong_is_said(arguments, match):
    with pytest.raises(ArgumentError, match=match):
        MLKD(toy_job(MLKD), **arguments)
