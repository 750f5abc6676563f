"""Activation checkpointing: the same losses and gradients, less memory, taps inside, switched off again; half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from language_toys import tiny
from limbeck.data.base import Data
from limbeck.errors import ArgumentError, DivergedError, ModelError
from limbeck.evaluation.memory import peak_memory
from limbeck.functional.core import objective, reduce
from limbeck.objectives.formula import compose
from limbeck.recipes.toy_language import counting
from limbeck.signals.lazy import Lazy
from limbeck.students.adapters import Lora, add_adapters
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.loop import Loop
from limbeck.training.settings import Settings
from toys import hard, kl, losses, net, toy_job, train, weights

pytest.importorskip("transformers")


@compose
@objective(per="item", student="features", teacher="features")
def near(student, teacher, *, mask=None, reduction="mean"):
    """Squared distance per token."""
    return reduce((student - teacher.detach()).pow(2).mean(-1), mask, reduction)


def language_job(student=None, teacher=None, **settings):
    data = Data("counting", "tokens", {"train": counting("train", 24, 0)}, target="none")
    student = student or tiny("Llama", attention_dropout=0.2)
    return Job(CausalLM(), data, student, as_teacher(teacher or tiny("GPT2")),
               Settings(**{"steps": 4, "batch_size": 8, "best": "last", "warmup": 0.0, "seed": 3, **settings}))  # fmt: skip


@pytest.mark.parametrize("kind", ["logits", "inside"])
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_losses_and_weights_are_the_same(kind, adapters):
    """Also with dropout, which the second run must draw as the first did, and for a signal tapped inside a layer."""
    found = []
    for on in (False, True):
        student = tiny("Llama", attention_dropout=0.2)
        if adapters:
            student = add_adapters(student, Lora(rank=2, dropout=0.1), "causal_lm", 0)
        job = language_job(student, checkpointing=on)
        inside = "base_model.model." * adapters + "model.layers.0.self_attn"
        other = kl() if kind == "logits" else near().on(inside, "teacher:transformer.h.1.mlp")
        runner = train(job.stage(hard() + other))
        found.append((losses(runner), weights(job.student)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-6)


def test_every_layer_runs_twice_in_training_only_and_is_as_before_afterwards():
    runs = []
    student = tiny("Llama")
    student.model.layers[0].self_attn.register_forward_hook(lambda module, *_: runs.append(module.training))
    job = language_job(student, checkpointing=True, steps=3)
    train(job.stage(hard()))
    assert runs.count(True) == 6  # three steps
    runs.clear()
    student.train()
    student(torch.arange(8)[None]).logits.sum().backward()
    assert len(runs) == 1


def test_memory_is_that_of_the_layers_inputs():
    """What lives at once in a step, without weights."""
    peaks = []
    for on in (False, True):
        job = language_job(tiny("Llama", num_hidden_layers=8), checkpointing=on, batch_size=256)
        job.data.parts["train"] = counting("train", 512, 0)
        loop = Loop(job.stage(hard()), Runner(cpu=True).accelerator)
        batches = loop.batches()
        loop.step(next(batches))  # the optimizer's states are made
        batch = next(batches)
        peaks.append(peak_memory(lambda loop=loop, batch=batch: loop.step(batch)))
    assert peaks[1] < 0.5 * peaks[0]


def test_a_module_without_such_layers_is_refused():
    with pytest.raises(ArgumentError, match=r"Sequential has no layers that can be run again.*accumulate="):
        train(toy_job(checkpointing=True).stage(hard()))
    with pytest.raises(ArgumentError, match="expected true or false"):
        Settings(checkpointing="yes")


# half precision
def test_teacher_and_student_run_under_autocast_and_objectives_do_not():
    seen = {}
    teacher, student = tiny("GPT2"), tiny("Llama")
    for role, module in (
        ("teacher", teacher.transformer.h[0].mlp.c_fc),
        ("student", student.model.layers[0].mlp.up_proj),
    ):
        module.register_forward_hook(lambda _, __, out, role=role: seen.update({role: out.dtype}))
    job = language_job(student, teacher, precision="bf16")
    runner = train(job.stage(hard() + kl()))
    assert seen == {"teacher": torch.bfloat16, "student": torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())
    exact = train(language_job(precision="no", student=tiny("Llama", attention_dropout=0.0)).stage(hard() + kl()))
    assert losses(runner) == pytest.approx(losses(exact), rel=0.03)
    assert losses(runner) != losses(exact)


def test_a_teacher_in_bf16_teaches_what_it_does_in_float32():
    found = []
    for teacher in (tiny("GPT2"), tiny("GPT2").bfloat16()):
        job = language_job(tiny("Llama"), teacher)
        signal = job.teacher.read(job.data.train.batch([0, 1]), ["logits"], job.task)["logits"]
        assert isinstance(signal, Lazy)
        found.append((signal.dtype, losses(train(job.stage(kl())))))
    assert [dtype for dtype, _ in found] == [torch.float32, torch.bfloat16]
    assert found[1][1] == pytest.approx(found[0][1], rel=0.03)


@pytest.mark.parametrize(
    ("dtype", "words"), [(torch.float16, "65,504 do not fit fp16"), (torch.float32, "Look at its weights")]
)
def test_a_model_that_is_not_finite_is_named_before_training(dtype, words):
    teacher = tiny("GPT2")
    with torch.no_grad():
        teacher.transformer.ln_f.weight.mul_(3e5 if dtype == torch.float16 else float("inf"))
    job = language_job(tiny("Llama"), teacher.to(dtype))
    with pytest.raises(ModelError, match=rf"The teacher gives (NaN|infinity) as its signal 'logits'.*{words}"):
        train(job.stage(kl()))
    broken = net(2)
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="The student gives NaN"):
        train(toy_job(student=broken).stage(hard()))


def test_a_loss_that_overflows_in_half_precision_says_so(tmp_path):
    class Grows(nn.Module):
        """Fine at first, above 65,504 after an update."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x) * self.linear.weight.abs().max().pow(8)

    job = toy_job(student=Grows(), precision="bf16", learning_rate=1e6, optimizer="sgd", steps=20)
    with pytest.raises(DivergedError, match="or precision='no' instead of 'bf16'"):
        Runner(tmp_path, cpu=True).run(job.stage(hard()))
    for step in (tmp_path / "stages/0/checkpoints").glob("step-*"):
        from safetensors.torch import load_file

        assert all(value.isfinite().all() for value in load_file(step / "weights.safetensors").values())
