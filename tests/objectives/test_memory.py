"""Contrast against a memory (CRD): the official case, what is drawn, and that a resumed run is the same."""

import pytest
import torch

from goldens import load
from limbeck import objectives as o
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, Interrupted, SignalError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.signals.step import Step
from limbeck.training.execute import Runner


def step_of(student, teacher, ids):
    step = Step(Batch(None, ids), 0.0)
    step.put("self", {"x": student})
    step.put("teacher", {"x": teacher})
    return step


@pytest.mark.shared_data
def test_the_official_case():
    case = load("classifiers", "crd")
    student, teacher, ids = case["in_student"].requires_grad_(), case["in_teacher"], case["in_index"]
    term = o.contrast("x", "x", ids=torch.arange(20), width=4, negatives=8)
    first = step_of(student, teacher, ids)
    term.make(first, 0)
    term.double()
    with torch.no_grad():
        for side, layer in zip("st", term.embed):
            layer.weight.copy_(case[f"in_embed_{side}_w"])
            layer.bias.copy_(case[f"in_embed_{side}_b"])
        term.memory = torch.stack([case["in_memory_student"], case["in_memory_teacher"]])
    term.draw = lambda rows: case["in_contrast_index"][:, 1:]
    loss = term.values(first)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"], rtol=1e-5, atol=1e-9)
    term.after(float(loss.detach()), 0.0)
    torch.testing.assert_close(
        term.scale, torch.stack([case["out_z_student"], case["out_z_teacher"]]), rtol=1e-6, atol=0
    )
    again = term.values(step_of(case["in_student_second"], teacher, ids))
    assert float(again.detach()) == pytest.approx(float(case["out_loss_second"]), rel=1e-6)
    term.after(float(again.detach()), 0.0)
    torch.testing.assert_close(term.memory[0], case["out_memory_student_after_two"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(term.memory[1], case["out_memory_teacher_after_two"], rtol=1e-6, atol=1e-9)


def test_what_is_drawn_is_of_another_class_and_evenly():
    ids = torch.tensor([50, 10, 40, 20, 30, 60, 70])
    labels = torch.tensor([1, 0, 1, 2, -100, 0, -100])
    term = o.contrast("x", "x", ids=ids, labels=labels, negatives=7)
    of_row = {int(term.rows(each[None])): (int(each), int(label)) for each, label in zip(ids, labels)}
    assert sorted(of_row) == list(range(7))
    for sample, label in zip(ids, labels):
        drawn = torch.cat([term.draw(term.rows(sample[None]))[0] for _ in range(400)])
        seen = {of_row[row][0]: count for row, count in zip(*(v.tolist() for v in drawn.unique(return_counts=True)))}
        allowed = {
            int(other) for other, theirs in zip(ids, labels)
            if (other != sample if label == -100 else theirs != label)
        }  # fmt: skip
        assert set(seen) == allowed
        mean = len(drawn) / len(allowed)
        assert all(abs(count - mean) < 6 * mean**0.5 for count in seen.values())


def test_wrong_inputs():
    ids = torch.arange(4)
    with pytest.raises(ArgumentError, match="two classes or more"):
        o.contrast("x", "x", ids=ids, labels=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="negatives=0"):
        o.contrast("x", "x", ids=ids, negatives=0)
    with pytest.raises(ArgumentError, match="momentum=1"):
        o.contrast("x", "x", ids=ids, momentum=1.0)
    term = o.contrast("x", "x", ids=ids, width=3)
    term.make(step_of(torch.randn(2, 5), torch.randn(2, 6), ids[:2]), 0)
    with pytest.raises(SignalError, match="no memory of a sample"):
        term.values(step_of(torch.randn(2, 5), torch.randn(2, 6), torch.tensor([1, 9])))


class StopAt:
    def __init__(self, step):
        self.at = step

    def step(self, loop):
        if loop.number == self.at:
            raise KeyboardInterrupt


def test_a_resumed_run_has_its_memory_and_is_the_same(tmp_path):
    def stage():
        job = toy_job(find("crd"), steps=12, checkpoint_every=4, seed=3)
        return find("crd")(job, width=8, weight=5.0)

    whole = Runner(tmp_path / "whole", cpu=True).run(stage())
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        Runner(tmp_path / "cut", cpu=True, watchers=(StopAt(7),)).run(stage())
    resumed = Runner(tmp_path / "cut", cpu=True, resume=True).run(stage())
    expected = whole.student.state_dict()
    for name, value in resumed.student.state_dict().items():
        assert torch.equal(value, expected[name]), name
    other = Runner(cpu=True).run(find("crd")(toy_job(find("crd"), steps=12, seed=3), width=8, weight=0.0)).student
    assert any(not torch.equal(value, expected[name]) for name, value in other.state_dict().items())  # the term counts


def test_the_memory_is_written_after_each_step():
    term = o.contrast("x", "x", ids=torch.arange(6), width=3, negatives=4)
    one = step_of(torch.randn(2, 5), torch.randn(2, 6), torch.tensor([4, 1]))
    term.make(one, 0)
    before = term.memory.clone()
    first, scale = term.values(one), term.scale.clone()
    torch.testing.assert_close(term.memory, before, rtol=0, atol=0)  # a look at a batch changes nothing
    assert scale.tolist() == [0, 0]
    term.after(float(first.detach()), 0.0)
    changed = (term.memory != before).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == sorted(term.rows(torch.tensor([4, 1])).tolist())
    torch.testing.assert_close(term.memory[:, changed].norm(dim=-1), torch.ones(2, 2))
    assert (term.scale > 0).all()


@pytest.mark.parametrize("name", ["fitnets", "crd", "vid"])
def test_a_weight_of_zero_leaves_a_term_out(name):
    done = Runner(cpu=True).run(find(name)(toy_job(find(name)), weight=0.0))
    plain = find("attention_transfer")  # in which nothing learns
    expected = Runner(cpu=True).run(plain(toy_job(plain), weight=0.0))
    for key, value in expected.student.state_dict().items():
        assert torch.equal(done.student.state_dict()[key], value), key
