"""Formulas, models and data small enough to see through: what the engine's contract tests are made of."""

import torch
import torch.nn.functional as F
from torch import nn

from limbeck.data.base import Data, TensorPart
from limbeck.functional.core import labelled, objective, reduce
from limbeck.objectives.formula import compose
from limbeck.tasks.classification import Classification
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.settings import Settings


@objective(per="item", student="logits")
def hard(student, labels, *, mask=None, reduction="mean"):
    """Cross-entropy with the label."""
    values = F.cross_entropy(student, labels, reduction="none", ignore_index=-100)
    return reduce(values, labelled(labels, mask), reduction)


@objective(per="item", student="logits", teacher="logits")
def kl(student, teacher, *, temperature: float = 1.0, mask=None, reduction="mean"):
    """Forward KL."""
    t, s = (teacher.detach() / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return reduce((t.exp() * (t - s)).sum(-1), mask, reduction)


@objective(per="item", student="features", teacher="features")
def near(student, teacher, *, mask=None, reduction="mean"):
    """Squared distance per sample."""
    return reduce((student - teacher.detach()).flatten(1).pow(2).mean(1), mask, reduction)


@objective(per="batch", student="logits", teacher="logits")
def gram(student, teacher):
    """Difference of Gram matrices: compares samples with each other."""
    teacher = teacher.detach()
    return (student @ student.T - teacher @ teacher.T).pow(2).mean()


hard, kl, near, gram = compose(hard), compose(kl), compose(near), compose(gram)


def net(seed=0, width=8, outputs=3, dropout=0.0):
    """Linear, Tanh, Dropout, Linear: taps "0", "1", "3"."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, outputs))


def toy_data(size=40, unlabelled=0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=generator, dtype=dtype)
    labels = (inputs @ torch.randn(4, 3, generator=generator, dtype=dtype)).argmax(1)
    hidden = labels.clone()
    hidden[:unlabelled] = -100
    parts = {"train": TensorPart("train", inputs, hidden), "valid": TensorPart("valid", inputs, labels)}
    return Data("toy", "table", parts, classes=["a", "b", "c"])


def toy_job(*, student=None, teacher=None, data=None, task=None, dtype=torch.float32, **settings):
    settings = {"steps": 6, "batch_size": 8, "best": "last", "warmup": 0.0, **settings}
    teacher = net(1, width=16) if teacher is None else teacher
    if isinstance(teacher, nn.Module):
        teacher = teacher.to(dtype)
    student = (student or net(2)).to(dtype)
    return Job(
        task or Classification(), data or toy_data(dtype=dtype), student, as_teacher(teacher), Settings(**settings)
    )


def train(plan, **options):
    """Run a plan in memory; returns the runner, whose results and metrics can be looked at."""
    runner = Runner(cpu=True, **options)
    runner.run(plan)
    return runner


def losses(runner, learner="student", term="loss"):
    return [r["terms"][term] for r in runner.metrics.records if r.get("learner") == learner and "terms" in r]


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])
