"""SimCLRv2, KD^3 and MEAL V2: their formulas by loops and official outputs, and what their stages train."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import limbeck as lb
from goldens import load
from limbeck import functional as f
from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.functional import pool
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.students.heads import Deepened
from limbeck.students.reused import SharedClassifier
from limbeck.teachers.base import as_teacher
from limbeck.training.asking import sure_part
from limbeck.training.execute import Runner
from limbeck.training.second_view import mixed_statistics
from toys import weights


def plan_of(name, job=None, **arguments):
    job = job or toy_job(find(name), steps=10, best="last")
    runner, plan, stages, result = Runner(cpu=True), find(name)(job, **arguments), [], None
    try:
        while True:
            stages.append(plan.send(result))
            result = runner.stage(stages[-1])
    except StopIteration:
        return job, stages, result


# formulas


def nt_xent_by_loops(first, second, temperature):
    views = [row / np.linalg.norm(row) for row in np.concatenate([first, second])]
    count, total = len(first), 0.0
    for i in range(2 * count):
        own = (i + count) % (2 * count)
        scores = [views[i] @ views[j] / temperature for j in range(2 * count) if j != i]
        total -= views[i] @ views[own] / temperature - math.log(sum(map(math.exp, scores)))
    return total / count


def test_nt_xent_by_hand():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    found = f.nt_xent(torch.tensor(first), torch.tensor(second), temperature=0.5)
    assert float(found) == pytest.approx(nt_xent_by_loops(first, second, 0.5), rel=1e-10)


def test_nt_xent_of_views_that_say_nothing_is_that_of_chance():
    same = torch.ones(5, 3, dtype=torch.float64)
    assert float(f.nt_xent(same, same)) == pytest.approx(2 * math.log(9))


@pytest.mark.shared_data
def test_nt_xent_officially():
    case = load("classifiers", "simclr_ntxent")
    hidden = case["in_hidden"].double().requires_grad_()
    value = f.nt_xent(*hidden.chunk(2), temperature=0.1)
    value.backward()
    assert value.item() == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(hidden.grad, case["grad_hidden"].double(), rtol=1e-5, atol=1e-8)


def discriminator(case, scores):
    for number in (1, 2, 3):
        weight, bias = (case[f"in_conv{number}__{kind}"].double() for kind in ("weight", "bias"))
        scores = F.relu(scores @ weight[:, :, 0, 0].T + bias)
    return scores


@pytest.mark.shared_data
def test_meal_officially():
    case = load("classifiers", "meal_v2_discriminator")
    student, teachers = case["in_student"].double().requires_grad_(), case["in_teachers"].double()
    value = f.told_apart(discriminator(case, student), discriminator(case, teachers.mean(0))).mean()
    value.backward()
    assert value.item() == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(student.grad, case["grad_student"].double(), rtol=1e-5, atol=1e-8)
    case = load("classifiers", "meal_v2_similarity")
    student = case["in_student"].double()
    mean = case["in_teachers"].double().softmax(-1).mean(0).log()
    assert float(f.soft_cross_entropy(student, mean)) == pytest.approx(float(case["out_loss"]), rel=1e-6)


def test_the_discriminator_reads_the_mean_of_the_logits():
    term = o.told_apart(["a.logits", "b.logits"])
    first, second, mine = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    term.build({"logits": mine}, {"a.logits": first, "b.logits": second})
    found = term({"logits": mine}, {"a.logits": first, "b.logits": second})
    middle = term.network((first + second) / 2)
    by_hand = F.binary_cross_entropy_with_logits(
        torch.cat([term.network(mine), middle]), torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 6)
    )
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_the_surest_of_each_class():
    given = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]])
    assert pool.most_confident(given, 0.5).tolist() == [0, 2, 4]  # two of the four of class 0, the one of class 1
    assert pool.most_confident(given, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert pool.joint_confidence(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), 0.5).item() == pytest.approx(
        0.625
    )


def test_what_is_sure_counts_more():
    student, teacher = torch.zeros(2, 3), torch.ones(2, 3)
    outputs = torch.tensor([[50.0, 0.0], [0.0, 0.0]])
    found = o.confident_mse("vector", "theirs")(
        {"vector": student, "logits": outputs}, {"theirs": teacher, "logits": outputs}
    )
    assert float(found) == pytest.approx((1 + 0.5) / 2)


# stages


def test_simclr_pretrains_tunes_and_distils():
    job, stages, result = plan_of("simclr_v2", pretrain=0.4, finetune=0.2)
    assert [stage.settings.steps for stage in stages] == [4, 2, 4]
    network = stages[0].learners["student"].module
    assert isinstance(network, Deepened)
    assert stages[1].learners["student"].module is network
    assert int(stages[1].source.part.is_labelled().sum()) == len(stages[1].source.part)
    assert stages[2].roles["teacher"].module is network
    assert result.student is job.student
    assert set(stages[0].views) == {"student/one", "student/two"}


def test_pretraining_brings_views_together():
    job = toy_job(find("simclr_v2"), steps=200, best="last")
    runner = Runner(cpu=True)
    runner.stage(next(find("simclr_v2")(job, pretrain=0.5)))
    found = [r["terms"]["loss"] for r in runner.metrics.records if "terms" in r]
    assert found[0] == pytest.approx(2 * math.log(31), rel=0.05)  # chance
    assert found[-1] < found[0] - 1


def test_the_big_network_may_be_named_and_must_fit():
    job = toy_job(find("simclr_v2"))
    stage = next(find("simclr_v2")(job, big="mlp:16"))
    assert stage.learners["student"].module.first[0].in_features == 16
    with pytest.raises(ArgumentError, match="leave a rest"):
        next(find("simclr_v2")(job, pretrain=0.8, finetune=0.2))
    with pytest.raises(ArgumentError, match="shifts, crops"):
        lb.distill("simclr_v2", data="wine", student="mlp:4", steps=2, measure=False, progress=False)


def test_meal_goes_on_without_labels_and_decay():
    job = toy_job(find("meal_v2"), steps=10, best="last")
    job.teacher = as_teacher([job.teacher, copy.deepcopy(job.teacher)])
    _, stages, _ = plan_of("meal_v2", job, before=0.4)
    assert [stage.settings.steps for stage in stages] == [4, 6]
    assert stages[1].settings.weight_decay == 0
    told = str(stages[1].describe()["objectives"]["student"])
    assert "cross_entropy" in told
    assert {str(ref) for ref in stages[1].learners["student"].needs()} == {
        "student:logits", "teacher:logits", "teacher:0.logits", "teacher:1.logits",
    }  # fmt: skip
    assert len(plan_of("meal_v2", before=0.0)[1]) == 1


def test_kd3_keeps_the_teachers_classifier_and_chooses_again(tmp_path):
    job, stages, result = plan_of("kd3", rounds=2, keep=0.5)
    assert isinstance(result.student, SharedClassifier)
    theirs = list(job.teacher.module.parameters())[-2:]
    assert torch.equal(result.student.classifier.weight, theirs[0])
    assert all(0.4 * 40 <= len(stage.source.part) <= 0.5 * 40 + 4 for stage in stages)
    assert not torch.equal(weights(result.student.body), weights(job.student))


def test_a_saved_kd3_student_stands_alone(tmp_path):
    teacher = lb.distill("alone", data="digits", student="mlp:16", steps=5, measure=False, progress=False).student
    run = lb.distill("kd3", data="digits", teacher=teacher, student="cnn(width=4,depth=2)", steps=6, out=tmp_path / "run",
                     measure=False, progress=False)  # fmt: skip
    from limbeck.students.save import load_module

    again = load_module(tmp_path / "run" / "student")
    given = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(again.eval()(given), run.student.eval()(given))


def test_in_a_rehearsal_all_images_count():
    job = toy_job(find("kd3"))
    job.rehearsal = True
    assert sure_part(job, job.student, 0.0, 0.1) is job.data.train


def test_mixed_images_have_others_statistics():
    job = toy_job(find("kd3"))
    seen = mixed_statistics(job, job.student)["views"]["student/mixed"]
    batch = job.data.train.batch(torch.arange(8))
    step = o.as_step({"logits": torch.zeros(8, 4)}, None, batch)
    step.drawn["mixed order"] = torch.arange(8).roll(1)
    step.drawn["mixed share"] = torch.zeros(8)
    mixed, plain = seen(batch, step), batch.inputs
    torch.testing.assert_close(mixed.mean((2, 3)), plain.mean((2, 3)).roll(1, 0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.std((2, 3)), plain.std((2, 3)).roll(1, 0), rtol=1e-4, atol=1e-5)
    step.drawn["mixed share"] = torch.ones(8)
    torch.testing.assert_close(seen(batch, step), plain, rtol=1e-4, atol=1e-5)


def test_numbers_that_make_no_sense():
    for name, wrong in (("kd3", {"keep": 0.0}), ("kd3", {"rounds": 0}), ("kd3", {"trust": 2.0})):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            next(find(name)(toy_job(find(name)), **wrong))
    with pytest.raises(ArgumentError, match="temperature"):
        o.view_contrast("fc", temperature=0.0)
