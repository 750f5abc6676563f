"""The loop: counts, accumulation, precision, keeping the best, and stopping well."""

import json
import math

import pytest
import torch
from torch import nn

from limbeck.api import _evaluation
from limbeck.errors import ArgumentError, DivergedError, Interrupted, ModelError
from limbeck.objectives import forward_kl
from limbeck.objectives.weights import learned, ramp
from limbeck.training.execute import Runner
from limbeck.training.optimizers import split
from limbeck.training.settings import Settings
from toys import gram, hard, kl, losses, near, net, toy_data, toy_job, train, weights

DOUBLE = torch.float64


@pytest.mark.parametrize("accumulate", [2, 4, 7])
def test_accumulated_micro_batches_equal_one_batch(accumulate):
    """Values divide by the count of the whole step: unequal micro-batches and missing labels change nothing."""
    found = []
    for parts in (1, accumulate):
        data = toy_data(35, unlabelled=11, dtype=DOUBLE)
        job = toy_job(data=data, dtype=DOUBLE, batch_size=8, accumulate=parts, steps=9)
        runner = train(
            job.stage(hard() + learned().double() * kl() + ramp(0, 1) * near().on("1", "teacher:1").projected())
        )
        found.append((losses(runner), weights(job.student)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-12, rtol=0)


def test_relations_refuse_accumulation():
    with pytest.raises(ArgumentError, match="not additive"):
        train(toy_job(accumulate=2).stage(hard() + gram()))


def test_one_step_equals_a_step_by_hand():
    job = toy_job(steps=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", learning_rate=0.1)
    student = net(2)
    stage = job.stage(0.3 * hard() + 0.7 * kl(temperature=2.0))
    batch = job.data.train.batch(stage.source.positions(0))
    train(stage)
    s, t = student(batch.inputs), job.teacher.module(batch.inputs).detach()
    p, q = (t / 2).softmax(-1), (s / 2).log_softmax(-1)
    loss = 0.3 * nn.functional.cross_entropy(s, batch.labels) + 0.7 * (p * (p.log() - q)).sum(-1).mean()
    loss.backward()
    expected = torch.cat([(p - 0.1 * p.grad).detach().flatten() for p in student.parameters()])
    assert torch.allclose(weights(job.student), expected, atol=1e-6)


def test_the_teacher_stays_in_eval_mode_and_its_statistics_do_not_move():
    teacher = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    before = teacher[1].running_mean.clone()
    train(toy_job(teacher=teacher).stage(kl()))
    assert torch.equal(before, teacher[1].running_mean)
    assert teacher[2].training  # and it is given back as it was


def test_taps_stop_the_teacher_after_the_last_signal():
    class Loud(nn.Linear):
        calls = 0

        def forward(self, x):
            Loud.calls += 1
            return super().forward(x)

    teacher = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Loud(8, 3))
    train(toy_job(teacher=teacher).stage(near().on("1")))
    assert Loud.calls == 0


def test_a_term_of_weight_zero_is_not_computed():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the teacher was run")

    runner = train(toy_job(teacher=Never()).stage(hard() + 0.0 * kl()))
    assert "kl" not in runner.metrics.records[0]["terms"]


def test_projectors_and_learned_weights_are_trained():
    job = toy_job()
    objective = hard() + learned() * near().on("1", "teacher:1").projected("linear")
    stage = job.stage(objective)
    train(stage)
    learner = stage.learners["student"]
    assert sum(p.numel() for p in learner.objective.parameters()) == 8 * 16 + 16 + 1
    names = {name for name, _ in learner.named_parameters()}
    assert {"objective._weights.1.s", "objective._terms.1.projector.weight"} <= names
    assert float(objective._weights[1].s.detach()) != 0


def test_norms_biases_and_scalars_are_not_decayed():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4))
    decayed, plain, sparse = split(model)
    assert [p is model[0].weight for p in decayed] == [True]
    assert len(plain) == 5
    assert not sparse


def test_bf16_autocast_runs_and_objectives_stay_in_float32():
    seen = []

    class Watching(type(kl())):
        def values(self, step):
            seen.extend(value.dtype for value in self.arguments(step))
            return super().values(step)

    term = kl()
    term.__class__ = Watching
    exact = train(toy_job(steps=4).stage(kl()))
    half = train(toy_job(steps=4, precision="bf16").stage(term))
    assert set(seen) == {torch.float32}
    assert losses(half) == pytest.approx(losses(exact), rel=0.05, abs=1e-3)
    assert losses(half) != losses(exact)


def test_the_best_weights_are_kept_and_patience_ends_the_stage():
    job = toy_job(steps=40, evaluate_every=1, best="accuracy", patience=3, learning_rate=0.05)
    scores = []

    def evaluate(module):
        value = [0.1, 0.5, 0.9, 0.4, 0.3, 0.2, 0.1][len(scores)]
        scores.append((value, weights(module)))
        return {"accuracy": value}

    job.evaluation = evaluate
    runner = train(job.stage(hard()))
    assert runner.results[0].steps == 6
    assert torch.equal(weights(job.student), scores[2][1])


def test_best_names_a_score_that_must_exist():
    job = toy_job(evaluate_every=1, best="acuracy")
    job.evaluation = lambda module: {"accuracy": 1.0}
    with pytest.raises(ArgumentError, match="acuracy"):
        train(job.stage(hard()))


class Explodes(nn.Module):
    """A student whose output is NaN from the fifth forward pass in training on."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = net(1), 0

    def forward(self, x):
        self.calls += self.training
        return self.inner(x) * (float("nan") if self.calls >= 5 else 1.0)


def test_nan_stops_names_the_term_and_keeps_the_last_good_weights(tmp_path):
    job = toy_job(student=Explodes(), steps=9)
    stage = job.stage(hard().named("labels") + kl())
    with pytest.raises(DivergedError, match=r"step 4 \(term: labels, kl\).*step-00000004"):
        Runner(tmp_path, cpu=True).run(stage)
    assert torch.isfinite(weights(job.student)).all()
    from limbeck.training.checkpoint import Checkpoints

    step, kept, _, _ = Checkpoints(tmp_path / "stages/0/checkpoints").load()
    assert step == 4
    assert all(value.isfinite().all() for value in kept.values())


def test_weights_that_blow_up_between_two_losses_are_found_when_they_are_scored(tmp_path):
    job = toy_job(steps=4, optimizer="sgd", momentum=0.0, learning_rate=1e45, evaluate_every=1, schedule="constant")
    job.evaluation = _evaluation(job)
    with pytest.raises(DivergedError, match=r"cannot be evaluated after step 1.*NaN.*No checkpoint"):
        Runner(tmp_path, cpu=True).run(job.stage(hard()))


def test_weights_that_are_not_finite_are_never_kept_as_good(tmp_path):
    class Blows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = net(1), 0

        def forward(self, x):
            self.calls += self.training
            if self.calls == 4:
                with torch.no_grad():
                    self.inner[0].weight.fill_(float("inf"))
            return self.inner(x)

    job = toy_job(student=Blows(), steps=9, checkpoint_every=2)
    with pytest.raises(DivergedError, match=r"step 3 .*with finite weights is .*step-00000002\."):
        Runner(tmp_path, cpu=True).run(job.stage(hard() * 1.0 + kl()))


def test_a_teacher_that_gives_nan_is_refused_before_training(tmp_path):
    teacher = net(1)
    with torch.no_grad():
        teacher[3].bias[1] = float("nan")
    with pytest.raises(ModelError, match="The teacher gives NaN as its signal 'logits'"):
        Runner(tmp_path / "run", cpu=True).run(toy_job(teacher=teacher).stage(kl()))
    assert not (tmp_path / "run").exists()


def test_an_option_that_a_formula_cannot_take_is_named_before_training():
    with pytest.raises(ArgumentError, match=r"forward_kl.*temperature=0: expected a positive number"):
        train(toy_job().stage(forward_kl(temperature=0)))


def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path):
    class AtStep:
        def step(self, loop):
            if loop.number == 3:
                loop.stop.asked = True

    with pytest.raises(Interrupted, match="resume=true"):
        Runner(tmp_path, cpu=True, watchers=(AtStep(),)).run(toy_job(steps=8).stage(hard()))
    whole, resumed = toy_job(steps=8), toy_job(steps=8)
    train(whole.stage(hard()))
    Runner(tmp_path, cpu=True, resume=True).run(resumed.stage(hard()))
    assert torch.equal(weights(whole.student), weights(resumed.student))


def test_metrics_are_one_json_line_a_step(tmp_path):
    Runner(tmp_path, cpu=True).run(toy_job(steps=5).stage(hard() + kl()))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "terms" in r] == [0, 1, 2, 3, 4]
    first = records[0]["terms"]
    assert first["loss"] == pytest.approx(first["hard"] + first["kl"], rel=1e-5)


def test_equal_terms_are_logged_under_names_of_their_own():
    runner = train(toy_job(steps=1).stage(kl() + kl(temperature=2.0)))
    assert {"kl", "kl_2"} <= set(runner.metrics.records[0]["terms"])


WRONG = [
    {"epochs": 0}, {"epochs": 1, "steps": 3}, {"steps": math.nan}, {"steps": 2.5}, {"batch_size": 0}, {"batch_size": True},
    {"learning_rate": -1}, {"optimizer": "adamm"}, {"ema": 1.0}, {"accumulate": True}, {"seed": -1}, {"seed": "one"},
    {"workers": -1}, {"patience": 0.5}, {"checkpoint_every": 0}, {"drops": 0.5}, {"drops": ["half"]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        Settings(**wrong)


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ArgumentError, match="Did you mean 'learning_rate'"):
        Settings().with_(learning_rat=1)


def test_the_rate_rises_and_falls():
    s = Settings(warmup=0.1)
    assert s.rate(0.05) == pytest.approx(0.5)
    assert s.rate(0.1) == pytest.approx(1.0)
    assert s.rate(1.0) == pytest.approx(0.0, abs=1e-12)
    assert Settings(schedule="step", warmup=0.0).rate(0.8) == pytest.approx(0.01)


def test_a_fresh_student_is_the_same_for_the_same_number():
    job = toy_job()
    assert torch.equal(weights(job.fresh_student(1)), weights(job.fresh_student(1)))
    assert not torch.equal(weights(job.fresh_student(1)), weights(job.fresh_student(2)))


def test_nothing_draws_from_the_user_s_generator_before_training():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    job = toy_job()
    job.fresh_student(3)
    near().on("1", "teacher:1").projected().build({"1": torch.ones(2, 8)}, {"1": torch.ones(2, 16)})
    assert torch.equal(torch.rand(3), expected)
