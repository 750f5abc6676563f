"""Every setting of a run is honoured, and what cannot be honoured is refused before training."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import ArgumentError
from limbeck.evaluation.run import predict
from limbeck.students.build import mlp
from toys import weights

QUICK = {"progress": False, "learning_rate": 0.02, "steps": 12, "batch_size": 32}
KD = {"recipe": "kd", "student": "mlp:4", "data": "wine", "measure": False, **QUICK}


@pytest.fixture(scope="module")
def teacher():
    return lb.distill("alone", student="mlp:16", data="wine", measure=False, **{**QUICK, "steps": 40}).student


def lines(run, stage_of="student"):
    found = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [r for r in found if r.get("learner") == stage_of], [r for r in found if "scores" in r]


def test_settings_change_what_they_say(teacher):
    def student(**options):
        return weights(lb.distill(teacher=teacher, **KD | {"best": "last", **options}).student)

    plain = student()
    assert torch.allclose(student(accumulate=2), plain, atol=1e-5)  # the same batch in two halves
    seen: list[int] = []
    own = mlp(13, 3, (4,))
    own.register_forward_hook(lambda module, given, _: seen.append(len(given[0])) if module.training else None)
    student(student=own, accumulate=2, steps=2)
    assert seen == [16, 16, 16, 16]
    rounded = student(precision="bf16")
    assert 0 < float((rounded - plain).abs().max()) < 0.1  # other bits, the same training
    start = weights(mlp_at_start())
    one = {"optimizer": "sgd", "momentum": 0.0, "steps": 1, "weight_decay": 0.0, "warmup": 0.0, "learning_rate": 1.0}
    clipped, free = (student(**one, schedule="constant", clip=clip) for clip in (0.01, None))
    assert float((clipped - start).norm()) == pytest.approx(0.01, rel=1e-3)
    assert float((free - start).norm()) > 0.1
    slow, fast = (float((student(ema=ema) - start).norm()) for ema in (0.999, 0.01))
    assert slow < 0.5 * fast  # an average stays behind


def mlp_at_start():
    """The student of these runs before its first step."""
    return lb.api.prepare(**{key: value for key, value in KD.items() if key not in ("measure", "progress", "recipe")},
                          recipe="alone").job.student  # fmt: skip


def test_patience_ends_a_run_and_the_best_weights_are_kept(tmp_path):
    options = KD | {"recipe": "alone", "learning_rate": 0.5, "steps": 200, "evaluate_every": 2, "best": "nll"}
    run = lb.distill(**options, patience=3, out=tmp_path / "run")
    _, scores = lines(run)
    values = [record["scores"]["nll"] for record in scores]
    assert scores[-1]["step"] < 200
    assert len(values) == values.index(min(values)) + 1 + 3
    valid = run.data.parts["valid"]
    kept = run.task.scores(predict(run.student, valid, run.task), valid.labels)["nll"]
    assert kept == pytest.approx(min(values))
    for option in ({"patience": 3, "best": None}, {"best": "nll"}):
        with pytest.raises(ArgumentError, match=r"needs scores on the way.*valid=0\.1"):
            lb.distill(**options | option, valid=0)


def test_tensorboard_gets_every_step_and_score(teacher, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = lb.distill(teacher=teacher, **KD | {"steps": 14}, track="tensorboard", out=tmp_path / "run")
    (file,) = (tmp_path / "run" / "limbeck").glob("events*")
    found = EventAccumulator(str(file)).Reload()
    steps, scores = lines(run)
    sent = found.Scalars("student/forward_kl")
    assert [event.step for event in sent] == list(range(14))
    assert [event.value for event in sent] == pytest.approx(
        [record["terms"]["forward_kl"] for record in steps], rel=1e-5
    )
    assert [event.step for event in found.Scalars("valid/accuracy")] == [record["step"] for record in scores]
    rounds = lb.distill(teacher=teacher, **KD | {"recipe": "born_again", "steps": 3}, track="tensorboard",
                        out=tmp_path / "rounds", generations=2)  # fmt: skip
    (file,) = (tmp_path / "rounds" / "limbeck").glob("events*")
    sent = EventAccumulator(str(file)).Reload().Scalars("student/loss")
    assert [event.step for event in sent] == rounds.record["curves"]["student"]["step"]  # counted on over the stages
    with pytest.raises(ArgumentError, match="tensorboard"):
        lb.distill(teacher=teacher, **KD, track="tensorbord")


def test_a_tracker_that_is_not_there_is_an_error_and_not_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    with pytest.raises(ArgumentError, match="wandb is not installed"):
        lb.distill("alone", student="mlp:4", data="wine", track="wandb", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_each_task_has_its_recipe_and_each_recipe_its_needs(teacher):
    without = {key: value for key, value in KD.items() if key != "recipe"}
    assert lb.distill(teacher=teacher, **without).record["recipe"]["name"] == "kd"
    values = lb.distill(teacher=nn.Linear(10, 1), **without | {"data": "diabetes"})
    assert (values.record["recipe"]["name"], values.task.name) == ("regression_kd", "regression")
    with pytest.raises(ArgumentError, match="give teacher="):
        lb.distill(**without)
    with pytest.raises(ArgumentError, match="same module"):
        lb.distill(teacher=teacher, **KD | {"student": teacher})
    with pytest.raises(ArgumentError, match="inside the teacher"):
        lb.distill(teacher=lambda x: teacher(x), **KD | {"recipe": "fitnets"})


def test_a_teacher_that_only_guesses_is_a_warning():
    """Most often it was trained on inputs of another scale, as this forest on wine's own columns."""
    from sklearn.datasets import load_wine
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(20, random_state=0).fit(*load_wine(return_X_y=True))
    warnings = lb.distill(teacher=forest, **KD).record["warnings"]
    assert any("no better on the test part" in line and "mean 0 and deviation 1" in line for line in warnings)
    taught = lb.distill(teacher=mlp_at_start(), **KD | {"recipe": "alone"}).record
    assert [model["role"] for model in taught["models"]] == ["teacher", "student"]


def test_a_dry_run_trains_nothing(teacher, tmp_path):
    found = lb.distill(teacher=teacher, **KD, dry_run=True, out=tmp_path / "none", seeds=3, baseline="alone")
    assert (found["steps"], found["trainings"], found["samples"]["labelled"]) == (12, 6, 124)
    assert not (tmp_path / "none").exists()
    own = mlp(13, 3, (4,))
    before = weights(own).clone()
    lb.distill(teacher=teacher, **KD | {"student": own}, dry_run=True)
    assert torch.equal(weights(own), before)
