"""Rounds of asking: which samples are known, what a model says of the others, who answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Part, SubsetPart
from limbeck.errors import ArgumentError, DataError
from limbeck.functional.pool import most_confident
from limbeck.signals.step import derive
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.inside import classifier, signals_of_train
from limbeck.training.selectors import Pool, Selector, choose, selector_of

if TYPE_CHECKING:
    from limbeck.training.job import Job


class Asked:
    """Which samples of the training part are known. `next` chooses more by what a model says of the others.

    Only samples that can be answered are in the pool: with `labels`, those that have one, which is hidden until it is asked
    for.
    """

    def __init__(self, job: Job, selector: str | Selector, labels: bool, wrong: float = 0.0):
        self.job, self.selector, self.wrong = job, selector, wrong
        selector_of(selector)
        train = job.data.train
        self.can = train.is_labelled() if labels else torch.ones(len(train), dtype=torch.bool)
        self.known = torch.zeros(len(train), dtype=torch.bool)
        self.rounds = 0

    def _draw(self) -> torch.Generator:
        self.rounds += 1
        return torch.Generator().manual_seed(derive(self.job.settings.seed, "asking", self.rounds) % 2**62)

    def start(self, count: int) -> None:
        """Ask about some by chance."""
        order = torch.randperm(len(self.can), generator=self._draw())
        self.known[order[self.can[order]][:count]] = True

    def start_per_class(self, count: int) -> None:
        """Ask about as many of each class, by chance. Raises DataError where a class has none."""
        labels, order = self.job.data.train.labels, torch.randperm(len(self.can), generator=self._draw())
        assert labels is not None
        for number in range(len(self.job.data.classes or [])):
            of_class = order[self.can[order] & (labels[order] == number)][:count]
            if not len(of_class):
                raise DataError(
                    f"The training part has no sample of the class {number}: there is nothing to begin with."
                )
            self.known[of_class] = True

    def next(self, student: nn.Module, features: str, count: int) -> None:
        """Ask about `count` more; `features` is the tap of the last layer's inputs."""
        left = (self.can & ~self.known).nonzero()[:, 0]
        if not len(left):
            return
        said = signals_of_train(self.job, ModuleTeacher(student), ["logits", features])
        probabilities, inner = said["logits"].softmax(-1), said[features]
        pool = Pool(probabilities[left], inner[left], probabilities[self.known], inner[self.known], self._draw(),
                    self.wrong * len(left))  # fmt: skip
        self.known[left[choose(self.selector, pool, count)]] = True

    def labelled(self) -> Part:
        """The training part, in which only what was asked about has a label."""
        train = self.job.data.train
        assert train.labels is not None
        return train.with_labels(torch.where(self.known, train.labels, -100))

    def places(self) -> Tensor:
        """Of the known samples in the training part."""
        return self.known.nonzero()[:, 0]


def share_of_wrong(job: Job, given: float) -> float:
    """How many of the teacher's answers are false: what is given, or for a negative number what the validation part says."""
    if given >= 0:
        if given >= 1:
            raise ArgumentError(f"wrong={given!r}: expected a share of the answers, from 0 to below 1.")
        return given
    part = job.data.parts.get("valid")
    if part is None or part.labels is None or not bool(part.is_labelled().any()):
        job.warn(
            "No validation part has labels, so that the teacher's answers are taken for true: give wrong=0.1 or valid=0.1."
        )
        return 0.0
    from limbeck.evaluation.run import predict

    known = part.is_labelled()
    said: Any = predict(job.teacher, part, job.task).argmax(-1)
    return float((said[known] != part.labels[known]).float().mean())


def last_inputs(job: Job) -> str:
    """The tap of the inputs of the student's classifier."""
    return f"{classifier(job, 'student')}#input"


def sure_part(job: Job, student: nn.Module, share: float, keep: float) -> Part:
    """The training samples of which teacher and student together are surest: the share `keep` of each class they predict.

    By (1 - share) of the teacher's probabilities + `share` of the student's; without augmentation. In a rehearsal all of them.
    """
    train = job.data.train
    if job.rehearsal or keep == 1:
        return train
    assert job.teacher is not None
    if "said by the teacher" not in job.kept:
        job.kept["said by the teacher"] = signals_of_train(job, job.teacher, ["logits"])["logits"].softmax(-1)
    said = job.kept["said by the teacher"]
    if share:
        said = torch.lerp(said, signals_of_train(job, ModuleTeacher(student), ["logits"])["logits"].softmax(-1), share)
    return SubsetPart(train, most_confident(said, keep), "sure")
