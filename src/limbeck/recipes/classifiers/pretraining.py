"""Recipes with a stage before: something learns from the teacher's inside before the student learns the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


def stage_before(job: Job, objective: Any, share: float, name: str, **more: Any) -> Stage:
    """A stage of a share of the length, after which nothing can be scored yet: its last weights are kept."""
    if not 0 < share < 1:
        raise ArgumentError(f"before={share!r}: expected a part of the length, above 0 and below 1.")
    stage = job.stage(objective, name=name, **more, **job.settings.portion(share, epochs=True))
    stage.evaluate = None
    return stage


@recipe(paper="Paraphrasing Complex Network: Network Compression via Factor Transfer", year=2018, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def factor_transfer(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", rate: float = 0.5,
                    weight: float = 200.0, before: float = 1 / 9) -> Generator[Stage, Result, None]:  # fmt: skip
    """Compress the teacher's maps to factors by an autoencoder first, then translate the student's maps into them.

    limbeck distill factor_transfer teacher=... student=... data=... rate=0.5

    Stage 1 trains the paraphraser, with `rate` of the teacher's channels in its middle, on the teacher's last maps. Stage 2: CE
    + 200 |A(translator(student)) - A(factors)|, A the normalised spatial energy, the mean over positions (Kim et al., 2018;
    weight and length, 30 epochs before 240, of the CIFAR-100 benchmarks, whose last maps are 8x8: on smaller maps, whose
    energies of norm 1 have fewer positions, the same weight is heavier, and too heavy for 2x2). Neither is part of the student.
    For CNNs.
    """
    from limbeck.teachers.live import Through

    taps = job.layer("student", student_layer, at=1), job.layer("teacher", teacher_layer, at=1)
    learning = o.paraphrase(tap=taps[1], rate=rate)
    yield stage_before(job, learning, before, "paraphraser")
    follow = o.factor_l1().on(taps[0], f"factors:{taps[1]}").projected("translator")
    assert learning.module is not None
    roles = {"factors": Through(f"teacher:{taps[1]}", learning.module)}
    length = job.settings.portion(1 - before, epochs=True)
    yield job.stage(o.cross_entropy() + weight * follow, roles=roles, **length)


@recipe(paper="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", year=2019,
        field="classifiers", needs=("features", "labels"))  # fmt: skip
def activation_boundary(job: Job, layers: int = 3, margin: float = 1.0, weight: float = 1.0,
                        before: float = 1 / 9) -> Generator[Stage, Result, None]:  # fmt: skip
    """Teach which neurons are active before anything else: a student so initialised then learns the labels alone.

    limbeck distill activation_boundary teacher=... student=... data=... layers=3

    Stage 1: over the last `layers` stages, values before the activation must lie on the teacher's side of 0 by the margin; a
    sum over each layer times 3/1000, halved from one to the layer before it, behind 1x1 convolutions with BN that are not part
    of the student. Stage 2: CE (Heo et al., 2019; weights and length, 30 epochs before 240, of the CIFAR-100 benchmarks).
    """
    from limbeck.training.inside import last_stages, preactivation

    pairs = [(preactivation(job, "student", ours), preactivation(job, "teacher", theirs))
             for ours, theirs in last_stages(job, layers)]  # fmt: skip
    terms = [o.activation_boundary(margin=margin).on(*pair).projected("connector") for pair in pairs]
    scale = [weight * 3 / 1000 * 2.0 ** (number - len(terms) + 1) for number in range(len(terms))]
    yield stage_before(job, sum(factor * term for factor, term in zip(scale, terms, strict=True)), before, "boundaries")
    yield job.stage(o.cross_entropy(), part=job.labelled(), **job.settings.portion(1 - before, epochs=True))


@recipe(paper="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning", year=2017,
        field="classifiers", needs=("features", "labels"))  # fmt: skip
def fsp(job: Job, layers: int = 3, weight: float = 50.0, before: float = 1 / 9) -> Generator[Stage, Result, None]:
    """Teach how each stage leads on to the next before anything else: then the labels alone.

    limbeck distill fsp teacher=... student=... data=...

    Stage 1: 50 * the MSE of the flow matrices, channel by channel products of consecutive stages, the mean over positions.
    Stage 2: CE (Yim et al., 2017; weight and length, 30 epochs before 240, of the CIFAR-100 benchmarks). Where channels differ,
    a learned 1x1 convolution, ours, stands between; it is not part of the student. For CNNs.
    """
    from limbeck.training.inside import spread_layers

    ours, theirs = zip(*spread_layers(job, layers), strict=True)
    yield stage_before(job, weight * o.flow(student=ours, teacher=theirs), before, "flows")
    yield job.stage(o.cross_entropy(), part=job.labelled(), **job.settings.portion(1 - before, epochs=True))
