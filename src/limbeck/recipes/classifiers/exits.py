"""Recipes that teach the student at exits on its own stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", year=2023,
        field="classifiers", needs=("logits", "labels"))  # fmt: skip
def ofa_kd(job: Job, exits: int = 4, eps: float | list[float] = 1.0, temperature: float = 1.0, smoothing: float = 0.1,
           weight: float = 1.0) -> Stage:  # fmt: skip
    """Hang small classifiers on the student's stages and teach each the teacher's logits: for unlike architectures.

    limbeck distill ofa_kd teacher=... student=... data=... eps=1.2

    CE with label smoothing 0.1 + L(final) + sum of L over up to 4 exits, L the cross-entropy with the target (p_T + onehot)^eps
    - onehot (Hao et al., 2023; eps 1 to 1.5). `eps`: one for all, or one for each exit and a last one for the final logits.
    All terms weigh 1, so that with 4 exits the teacher counts five times. The exits are trained beside the student and are not
    part of it. Only the teacher's logits are read.
    """
    if exits < 1:
        raise ArgumentError(f"exits={exits}: expected 1 or more; what remains without one is kd with soft targets.")
    fractions = [number / max(exits - 1, 1) for number in range(exits)] if exits != 1 else [1.0]
    taps = list(dict.fromkeys(job.layer("student", at=at) for at in fractions))
    each = eps if isinstance(eps, list) else [eps] * (len(taps) + 1)
    if len(each) != len(taps) + 1:
        raise ArgumentError(
            f"eps={eps}: expected one number, or {len(taps) + 1}, for the exits on {taps} and the last."
        )
    lessons = [o.adapted_cross_entropy(eps=value, temperature=temperature) for value in each]
    final, mixing = lessons.pop(), job.data.kind != "text"
    for after, tap, lesson in zip(reversed(range(len(taps))), taps, lessons, strict=True):
        lesson.on(tap, "logits").projected("exit", depth=after, mixing=mixing).named(f"exit({tap})")
    return job.stage(o.cross_entropy(label_smoothing=smoothing) + weight * (final + sum(lessons)))
