"""A teacher on a device of its own: the same results as beside the student, on a pretended device that refuses mixtures."""

from __future__ import annotations

import copy

import pytest
import torch
from typer.testing import CliRunner

import limbeck as lb
from devices import AWAY, crossed
from language_toys import make_tokenizer, tiny
from limbeck.cli import app
from limbeck.data.base import Batch
from limbeck.data.generate import Sampling
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.evaluation.modes import device_of
from limbeck.objectives import feature_mse, forward_kl
from limbeck.recipes.toy_language import language_toy
from limbeck.signals.lazy import Lazy
from limbeck.students.build import mlp
from limbeck.students.declare import seeded
from limbeck.tasks.causal_lm import CausalLM
from limbeck.tasks.classification import Classification
from limbeck.teachers import base
from limbeck.teachers.base import ModuleTeacher, as_teacher
from limbeck.training.answer_writer import AnswerWriter
from limbeck.training.job import Job
from limbeck.training.on_policy import OnPolicy
from limbeck.training.placement import keep_on
from limbeck.training.settings import Settings
from toys import losses, net, toy_job, train, weights

SUMS = [{"prompt": f"{a} , {b} ", "response": f"{a} . {b} . a b . {(a + b) % 10}"} for a in range(8) for b in range(4)]
QUICK = {"progress": False, "steps": 4, "batch_size": 8, "seed": 3, "measure": False}
SECOND = str(AWAY)


def still(module):
    """Without gradients, which a pretended device cannot record."""
    return module.eval().requires_grad_(False)


def models(count=1):
    with seeded(5):
        found = [still(mlp(13, 3, hidden=(12, 12))) for _ in range(count)]
    return found[0] if count == 1 else found


def speaker(family, teaches=False):
    found = still(tiny(family)) if teaches else tiny(family)
    found.tokenizer = make_tokenizer()
    found.set_attn_implementation("eager")  # by the same operations on any device
    return found


def both(make, **options):
    """The same run with its teacher beside the student, and on the second device; the latter's copies too."""
    near = lb.distill(**make(), **{**QUICK, **options})
    given = make()
    far = lb.distill(**given, teacher_device=SECOND, **{**QUICK, **options})
    assert {device_of(module) for module in as_teacher(given["teacher"]).modules()} == {AWAY}
    return near, far


def check_equal(near, far):
    for name, value in near.student.state_dict().items():
        assert torch.equal(value, far.student.state_dict()[name]), name
    for mine, other in zip(near.record["models"], far.record["models"], strict=True):
        assert mine["scores"] == other["scores"] and mine["agreement"] == other["agreement"]
    assert far.record["config"]["teacher_device"] == SECOND


# classification
@pytest.mark.parametrize("recipe", ["kd", "fitnets", "rkd"])
def test_a_classifiers_teacher_lies_elsewhere_and_nothing_changes(recipe):
    check_equal(*both(lambda: {"recipe": recipe, "teacher": models(), "student": "mlp:8", "data": "wine"}))


def test_an_ensemble_lies_on_one_device():
    check_equal(*both(lambda: {"teacher": models(2), "student": "mlp:8", "data": "wine"}))


def test_only_what_is_compared_comes_back():
    def run(where):
        job = toy_job(teacher=still(net(1, width=16)))
        if where:
            keep_on(where, job.teacher, job.settings)
        return train(job.stage(feature_mse().on("3")))

    near = run(None)
    crossed.clear()
    far = run(SECOND)
    assert losses(near) == losses(far)
    assert torch.equal(weights(near.results[-1].student), weights(far.results[-1].student))
    assert crossed["back"] == 6 * 8 * 3  # steps, rows, outputs


@pytest.mark.parametrize(("holder", "name"), [(Batch, "to"), (base, "move")])
def test_without_a_transfer_the_pretended_device_refuses(holder, name, monkeypatch):
    """The inputs of the teacher, or the signals of the teacher, stay where they are."""
    monkeypatch.setattr(holder, name, lambda given, device: given)
    with pytest.raises(LimbeckError, match="one device"):
        lb.distill(teacher=models(), student="mlp:8", data="wine", teacher_device=SECOND, **QUICK)


# language models
@pytest.mark.parametrize("recipe", ["lm_kd", "taid"])
def test_a_language_models_logits_are_walked_beside_the_student(recipe):
    check_equal(*both(
        lambda: {"recipe": recipe, "teacher": speaker("GPT2", True), "student": speaker("Llama"), "data": SUMS}, valid=8,
        length=24, generate=2,
    ))  # fmt: skip


@pytest.mark.parametrize(("recipe", "options"), [("gkd", {"seq_kd": True}), ("minillm", {}), ("seq_kd", {})])
def test_a_teacher_elsewhere_writes_and_joins_in_writing(recipe, options):
    check_equal(*both(
        lambda: {"recipe": recipe, "teacher": speaker("GPT2", True), "student": speaker("Llama"), "data": SUMS}, valid=8,
        length=24, max_new_tokens=8, **options,
    ))  # fmt: skip


def test_the_matrix_is_copied_once_and_again_when_it_has_changed():
    weight, hidden = torch.randn(50, 4).to(AWAY), torch.randn(2, 5, 4).to(AWAY)
    crossed.clear()
    for _ in range(3):
        lazy = Lazy(hidden, weight).to("cpu")
    assert crossed["back"] == 3 * hidden.numel() + weight.numel()
    assert torch.equal(lazy.whole(), Lazy(hidden.to("cpu"), weight.to("cpu")).whole())
    weight.add_(1)
    assert torch.equal(Lazy(hidden, weight).to("cpu").weight, weight.to("cpu"))
    assert lazy.to("cpu") is lazy
    biased = Lazy(hidden, weight, torch.randn(50).to(AWAY))
    assert torch.equal(biased.to("cpu").whole(), biased.whole().to("cpu"))


def test_who_brings_models_to_the_training_leaves_the_teacher_at_home():
    teacher = ModuleTeacher(still(net(1)))
    keep_on(SECOND, teacher, Settings())
    AnswerWriter._place(teacher)
    assert device_of(teacher.module) == AWAY
    batch = toy_job().data.train.batch([0, 1])
    back = batch.to(AWAY).to("cpu")
    assert torch.equal(back.inputs, batch.inputs) and {back.ids.device, back.inputs.device} == {torch.device("cpu")}


def test_a_plain_model_joins_in_writing_from_elsewhere():
    def run(where):
        data, teacher, student = language_toy()
        settings = Settings(steps=3, batch_size=8, best="last", warmup=0.0, log_every=1)
        job = Job(CausalLM(), data, student, ModuleTeacher(still(teacher)), settings)
        if where:
            keep_on(where, job.teacher, settings)
        source = OnPolicy(data.train, job.task, 8, sampling=Sampling(max_new_tokens=6), teacher=job.teacher, mix=0.5,
                          score=("old", "teacher"), seed=settings.seed)  # fmt: skip
        return train(job.stage(forward_kl(), source=source))

    assert losses(run(None)) == losses(run(SECOND))


def test_recorded_calls_and_signals_that_are_put_in_cross_too():
    teacher, batch = ModuleTeacher(still(net(1))), toy_job().data.train.batch([0, 1, 2])
    taps, other = ["3#call", "logits"], {"1": torch.ones(3, 8)}
    near = [
        teacher.read(batch, taps, Classification()),
        teacher.read(batch, ["logits"], Classification(), replace=other),
    ]
    keep_on(SECOND, teacher, Settings())
    with torch.no_grad():  # of what is put in, the way back is not tried
        far = [
            teacher.read(batch, taps, Classification()),
            teacher.read(batch, ["logits"], Classification(), replace=other),
        ]
    assert torch.equal(near[0]["3#call"][0][0], far[0]["3#call"][0][0])
    for one, two in zip(near, far, strict=True):
        assert torch.equal(one["logits"], two["logits"])


# what cannot be
@pytest.mark.parametrize(("options", "words"), [
    ({"shard": True}, "'second:1' and shard=true"),
    ({"teacher": lambda x: torch.zeros(len(x), 3)}, "a CallableTeacher has no module in this process, and so no device"),
    ({"teacher": None, "recipe": "alone"}, "give teacher=, or leave teacher_device out"),
    ({"teacher_device": "cuda:93"}, "'cuda:93' is no device here"),
    ({"teacher_device": "cudda:1"}, "'cudda:1' is no device here"),
    ({"teacher_device": 1}, "'1' is no device here"),
    ({"teacher_device": "meta"}, "'meta' computes nothing"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_training(options, words, tmp_path):
    given = {"teacher": models(), "student": "mlp:8", "data": "wine", "teacher_device": SECOND, **QUICK, **options}
    with pytest.raises(ArgumentError, match=words):
        lb.distill(**given, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stored_teachers_and_several_processes_are_refused(tmp_path, monkeypatch):
    data = lb.load_data("wine")
    lb.store_signals(models(), data, tmp_path / "store", task=Classification())
    with pytest.raises(ArgumentError, match="a StoredTeacher has no module"):
        lb.distill(teacher=str(tmp_path / "store"), student="mlp:8", data=data, teacher_device="cpu", **QUICK)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArgumentError, match="several processes each have a teacher"):
        keep_on("cpu", ModuleTeacher(models()), Settings())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_accelerators_give_what_one_gives():
    runs = []
    for device in (None, "cuda:1"):
        teacher = copy.deepcopy(speaker("GPT2", True))
        runs.append(lb.distill("lm_kd", teacher=teacher, student=speaker("Llama"), data=SUMS, valid=8, length=24,
                               teacher_device=device, **QUICK))  # fmt: skip
        assert device_of(teacher) == torch.device(device or "cuda:0")
    for mine, other in zip(runs[0].student.parameters(), runs[1].student.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_command_line_takes_it():
    found = CliRunner().invoke(app, ["distill", "kd", "data=wine", "student=mlp:4", "teacher_device=cuda:1"])
    assert "teacher_device='cuda:1' is the device of a teacher: give teacher=" in str(found.exception)
