"""A recipe in which the teacher is asked from the middle: it goes on from what the student says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Talking Models: Distill Pre-trained Knowledge to Downstream Models via Interactive Communication", year=2023,
        field="classifiers", needs=("features", "labels"))  # fmt: skip
def talking_models(job: Job, student_layer: str = "auto", teacher_layer: str = "auto", width: int = 64, align: float = 1.0,
                   consistency: float = 1.0, asked: float = 1.0, temperature: float = 4.0) -> Stage:  # fmt: skip
    """Exchange messages with the teacher in a common space, in which it goes on from what the student says.

    limbeck distill talking_models teacher=... student=... data=... width=64

    CE + align * distance of both messages + consistency * what decoding loses of each state + asked * T^2 (KL(teacher || reply)
    + KL(reply || student)), the reply being the teacher's upper layers on the decoded message of the student, at the middle of
    both by default (after Zhao et al., 2023; no code is published, details ours: weights, networks of one hidden layer, and the
    match of predictions rather than of states). Encoders and decoders are not part of the student, which runs alone.
    """
    from limbeck.training.inside import goes_on_from

    ours, theirs = job.layer("student", student_layer), job.layer("teacher", teacher_layer)
    talk = o.conversation(ours, theirs, goes_on_from(job, theirs), width=width, align=align, consistency=consistency,
                          asked=asked, temperature=temperature)  # fmt: skip
    return job.stage(o.cross_entropy() + talk)
