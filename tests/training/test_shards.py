"""Language models in two processes, with pieces (FSDP2) or copies (DDP), equal one process; checkpoints are whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from language_toys import tiny
from limbeck.data.base import Data
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError
from limbeck.functional.core import objective, reduce
from limbeck.objectives.formula import compose
from limbeck.objectives.weights import learned
from limbeck.shards import in_pieces
from limbeck.students.adapters import Lora, add_adapters
from limbeck.students.save import load_module, save_model
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.settings import Settings
from processes import in_two_processes
from toys import hard, kl, losses, toy_job, train, weights

pytest.importorskip("transformers")


@compose
@objective(per="item", student="features", teacher="features")
def near(student, teacher, *, mask=None, reduction="mean"):
    """Squared distance per token."""
    return reduce((student - teacher.detach()).pow(2).mean(-1), mask, reduction)


def ragged(name, rows, seed):
    """Rows of 4 to 12 tokens, of which the first 1 to 3 are not predicted."""
    draw = torch.Generator().manual_seed(seed)
    documents = [
        Document.of(torch.randint(3, 40, (4 + number * 5 % 9,), generator=draw).tolist(), 1 + number % 3, prompt=1)
        for number in range(rows)
    ]
    return TokenRows(name, documents, range(rows), ids=torch.arange(rows), padding=0)


def plan(kind, **settings):
    """21 rows of unequal length in batches of 6, the last of 3; two micro-batches; all in double precision."""
    tied = kind in ("tied", "copies")
    student = tiny("Llama", tie_word_embeddings=tied, num_hidden_layers=3)
    if kind == "lora":
        student = add_adapters(student, Lora(rank=2, train=("lm_head",)), "causal_lm", 0)
    teacher = tiny("GPT2", n_embd=32).double()
    data = Data("ragged", "tokens", {name: ragged(name, 21, 5) for name in ("train", "valid")}, target="none")
    job = Job(CausalLM(), data, student.double(), as_teacher(teacher), Settings(**{
        "steps": 9, "batch_size": 6, "accumulate": 2, "warmup": 0.0, "clip": 0.5, "learning_rate": 0.01,
        "shard": kind != "copies",
        "evaluate_every": 2, "checkpoint_every": 3, "ema": None if kind == "lora" else 0.7, "checkpointing": tied,
        "log_every": 1, **settings}))  # fmt: skip
    job.evaluation = lambda module: job.task.measure(module, data.parts["valid"])["scores"]
    terms = hard() + kl(temperature=2.0)
    if kind != "lora":
        terms = hard() + learned().double() * kl() + near().on("model.layers.1", "teacher:transformer.h.1").projected()
    return job, job.stage(terms)


class Stop(Exception):
    """What ends a run in the middle."""


class Watch:
    """Sees that nothing lies whole on a process, and ends a run after a step."""

    def __init__(self, end=None):
        self.end = end

    def step(self, loop):
        if self.end == loop.number:
            raise Stop
        if not loop.settings.shard:
            assert isinstance(loop.wrapped["student"], nn.parallel.DistributedDataParallel)
            return
        teacher = loop.stage.teachers["teacher"]
        for parameter in [*loop.parameters["student"], *loop.learners["student"].parameters()]:
            assert in_pieces(parameter)
            assert parameter.to_local().numel() < parameter.numel() or parameter.numel() == 1
        loop.placement.settle()
        assert all(in_pieces(parameter) for parameter in teacher.placed.parameters())


def child(kind, out):
    out = Path(out)
    job, stage = plan(kind)
    student, before = job.student, weights(job.student)
    runner = Runner(out / "whole", cpu=True, watchers=(Watch(),))
    assert runner.accelerator.num_processes == 2
    result = runner.run(stage)
    rank = runner.accelerator.process_index
    assert result.student is student  # the user's own module, and whole
    assert not any(in_pieces(parameter) for parameter in student.parameters())
    assert not torch.equal(weights(student), before)
    everything = weights(nn.ModuleList(stage.learners.values()))
    torch.save({"losses": losses(runner), "weights": everything, "scores": result.scores}, out / f"{rank}.pt")
    try:
        Runner(out / "again", cpu=True, watchers=(Watch(4),)).run(plan(kind)[1])
    except Stop:
        pass
    if rank == 0:
        shutil.copytree(out / "again", out / "alone")
        save_model(student, out / "saved")
    runner.accelerator.wait_for_everyone()
    _, stage = plan(kind)
    Runner(out / "again", cpu=True, resume=True).run(stage)
    assert torch.equal(weights(nn.ModuleList(stage.learners.values())), everything)
    job, stage = plan(kind)  # a finished run is replayed
    assert torch.equal(weights(Runner(out / "again", cpu=True, resume=True).run(stage).student), weights(student))


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["tied", "untied", "lora", "copies"])
def test_two_processes_equal_one(tmp_path, kind):
    in_two_processes(__file__, f"child({kind!r}, {str(tmp_path)!r})", tmp_path)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert torch.equal(both[0]["weights"], both[1]["weights"])
    job, stage = plan(kind, accumulate=1)
    runner = Runner(cpu=True)
    runner.run(stage)
    expected = weights(nn.ModuleList(stage.learners.values()))
    assert torch.allclose(both[0]["weights"], expected, atol=1e-9, rtol=0)
    assert both[0]["losses"] == pytest.approx(losses(runner), abs=1e-9)
    assert both[0]["scores"] == pytest.approx(runner.results[-1].scores, abs=1e-8)
    # one process goes on from the checkpoint of two
    _, rest = plan(kind, accumulate=2)
    Runner(tmp_path / "alone", cpu=True, resume=True).run(rest)
    assert torch.allclose(weights(nn.ModuleList(rest.learners.values())), expected, atol=1e-9, rtol=0)
    x = torch.arange(9)[None]
    saved = load_module(tmp_path / "saved").double()
    torch.testing.assert_close(saved(x).logits, job.student(x).logits, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["untied"])
def test_one_process_has_all(kind):
    found = []
    for shard in (False, True):
        job, stage = plan(kind, shard=shard, steps=2)
        train(stage)
        found.append(weights(job.student))
    assert torch.equal(*found)


def test_yes_or_no():
    with pytest.raises(ArgumentError, match="shard=2: expected true or false"):
        toy_job(shard=2)
