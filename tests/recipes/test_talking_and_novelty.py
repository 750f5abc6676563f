"""Talking models; and what is new to a model: metrics by hand and official outputs, scores of texts and classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import limbeck as lb
from goldens import load
from limbeck import objectives as o
from limbeck.describe import evaluate_model, novelty_of
from limbeck.errors import ArgumentError, DataError, SignalError
from limbeck.evaluation.novelty import novelty_metrics
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.build import mlp
from limbeck.tasks import resolve
from limbeck.training.execute import Runner
from limbeck.training.inside import goes_on_from

# novelty


@pytest.mark.shared_data
def test_metrics_officially():
    case = load("classifiers", "ood_metrics")
    found = novelty_metrics(case["in_id_scores"], case["in_ood_scores"])
    assert 100 * found["auroc"] == pytest.approx(case["out_auroc"].item(), abs=1e-9)
    assert 100 * found["far95"] == pytest.approx(case["out_far95"].item(), abs=1e-9)


def test_metrics_by_hand():
    known, novel = [0.0, 1.0, 2.0, 3.0], [2.0, 4.0, 5.0]
    above = np.mean([(n > k) + (n == k) / 2 for k in known for n in novel])
    found = novelty_metrics(known, novel)
    assert found["auroc"] == pytest.approx(above)
    assert found["far95"] == pytest.approx(1 / 4)  # 3 alone is above 2, the novel score at place 0
    assert found["aupr"] == pytest.approx((1 / 1 + 2 / 2) / 3 + (3 / 5) / 3)
    assert novelty_metrics([0, 1], [2, 3]) == {"auroc": 1.0, "aupr": 1.0, "far95": 0.0}
    with pytest.raises(DataError, match="one or more"):
        novelty_metrics([], [1.0])
    with pytest.raises(DataError, match="finite"):
        novelty_metrics([float("nan")], [1.0])


def test_a_text_is_as_novel_as_it_is_unlikely():
    job = toy_job(find("lm_kd"))
    part = job.data.parts["valid"]
    found = job.task.novelty(job.student, part)
    batch = part.batch(torch.arange(len(part)))
    logits = job.task.read(job.student, job.task.view(batch, job.student, "student"), ["logits"])["logits"]
    logits = logits if isinstance(logits, torch.Tensor) else logits.whole()
    for row, labels in enumerate(batch.labels):
        kept = labels != -100
        nll = F.cross_entropy(logits[row][kept], labels[kept])
        assert found[row].item() == pytest.approx(nll.item(), rel=1e-5)


def test_a_classifier_is_asked_how_sure_it_is():
    job = toy_job(find("kd"))
    part = job.data.parts["valid"]
    sure = job.student.eval()(part.batch(torch.arange(len(part))).inputs).softmax(-1).max(-1).values
    torch.testing.assert_close(job.task.novelty(job.student, part), -sure.double().log(), rtol=1e-5, atol=1e-6)
    found = novelty_of(job.task, job.student, part, job.data.train)
    assert set(found) == {"auroc", "aupr", "far95"}
    with pytest.raises(ArgumentError, match="regression"):
        resolve("regression").novelty(mlp(2, 1), part)


def test_evaluate_measures_it(tmp_path):
    import csv

    for name, shift in (("known", 0.0), ("novel", 50.0)):
        rng = np.random.default_rng(0)
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "label"])
            writer.writerows([float(rng.normal() + shift), float(rng.normal()), i % 2] for i in range(40))
    run = lb.distill("alone", data=str(tmp_path / "known.csv"), student="mlp:4", steps=5, test=0.3, out=tmp_path / "run",
                     measure=False, progress=False)  # fmt: skip
    assert run.record
    found = evaluate_model(model=str(tmp_path / "run"), novel=str(tmp_path / "novel.csv"))
    scores = found["models"][-1]["scores"]
    assert {"auroc", "aupr", "far95"} <= set(scores)
    assert 0 <= scores["auroc"]["mean"] <= 1
    for other in ("wine", "digits"):
        with pytest.raises(ArgumentError, match="that the model can read"):
            evaluate_model(model=str(tmp_path / "run"), novel=other)


# conversation


def talk(**arguments):
    job = toy_job(find("talking_models"))
    return job, find("talking_models")(job, **arguments)


def test_the_teacher_goes_on_from_what_is_put_in():
    job, _ = talk()
    teacher = job.teacher.module.eval()
    tap = job.layer("teacher")
    batch = job.data.train.batch(torch.arange(4))
    step = o.as_step({"logits": torch.zeros(4, 4)}, None, batch)
    given = job.teacher.read(batch, [tap, "logits"], job.task)
    same = goes_on_from(job, tap)(step, given[tap])
    torch.testing.assert_close(same, given["logits"])
    state = (given[tap] / 2 + 0.1).requires_grad_()
    other = goes_on_from(job, tap)(step, state)
    assert not torch.allclose(other, given["logits"])
    other.sum().backward()
    assert state.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_messages_by_hand():
    term = o.conversation("s", "t", lambda step, state: state @ torch.ones(6, 3), width=2, temperature=1.0)
    draw = torch.Generator().manual_seed(0)
    student = {"s": torch.randn(5, 4, generator=draw), "logits": torch.randn(5, 3, generator=draw)}
    teacher = {"t": torch.randn(5, 6, generator=draw), "logits": torch.randn(5, 3, generator=draw)}
    term.build(student, teacher)
    found = term(student, teacher)
    ours, theirs = term.encoders[0](student["s"]), term.encoders[1](teacher["t"])
    lost = sum(
        F.mse_loss(decode(m), s) / s.square().mean()
        for decode, m, s in zip(term.decoders, (ours, theirs), (student["s"], teacher["t"]), strict=True)
    )
    reply = term.decoders[1](ours) @ torch.ones(6, 3)

    def kl(p, q):
        return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")

    by_hand = F.mse_loss(ours, theirs) + lost + kl(teacher["logits"], reply) + kl(reply, student["logits"])
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_what_talks_learns_and_the_student_stands_alone():
    terms = []
    for steps in (1, 4):
        job = toy_job(find("talking_models"), steps=steps, best="last")
        stage = find("talking_models")(job)
        assert Runner(cpu=True).run(stage).student is job.student
        terms.append(next(term for term in stage.learners["student"].objective.terms if term.name == "conversation"))
    moved = [not torch.equal(a, b) for a, b in zip(*(term.parameters() for term in terms), strict=True)]
    assert all(moved)
    assert len(moved) == 4 * 6


def test_states_that_cannot_be_compared_are_refused():
    term = o.conversation("s", "t", lambda step, state: state)
    with pytest.raises(SignalError, match="vectors with vectors"):
        term.build({"s": torch.zeros(2, 3), "logits": torch.zeros(2, 2)},
                   {"t": torch.zeros(2, 3, 4, 4), "logits": torch.zeros(2, 2)})  # fmt: skip
    with pytest.raises(ArgumentError, match="align=-1"):
        talk(align=-1.0)
