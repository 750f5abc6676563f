"""Terms with networks of their own beside the student: a head over two views (SimCLR), a discriminator (MEAL V2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.pool import joint_confidence
from limbeck.functional.transforms import pooled
from limbeck.functional.views import nt_xent
from limbeck.functional.views import told_apart as scores_told_apart
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Learnt(Term):
    """A term with a network of its own, made from the width of its first signal."""

    refs: list[Ref]

    def __init__(self, name: str):
        super().__init__(name)
        self.network: nn.Module | None = None

    def needs(self) -> list[Ref]:
        return self.refs

    @property
    def is_built(self) -> bool:
        return self.network is not None

    def build_network(self, width: int) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} does not say what its network is")

    def vectors(self, step: Step) -> list[Tensor]:
        return [pooled(upcast(step.signal(ref))) for ref in self.refs]

    def make(self, step: Step, seed: int) -> None:
        if self.network is None:
            like = self.vectors(step)[0]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.network = self.build_network(like.shape[1]).to(like.device, like.dtype)


class ViewContrast(Learnt):
    """See `view_contrast`."""

    per = "batch"

    def __init__(self, tap: str, views: Sequence[str], width: int, temperature: float):
        super().__init__(f"view_contrast({tap})")
        if not temperature > 0:
            raise ArgumentError(f"temperature={temperature!r}: expected a number above 0.")
        if isinstance(width, bool) or not isinstance(width, int) or width < 0:
            raise ArgumentError(f"width={width!r}: expected a whole number of 0 or more.")
        self.refs = [Ref(f"self/{view}" if view else "self", tap) for view in views]
        self.width, self.temperature = width, temperature

    def build_network(self, width: int) -> nn.Module:
        if not self.width:
            return nn.Identity()
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.width))

    def values(self, step: Step) -> Tensor:
        given = self.vectors(step)
        if len(given[0]) < 2:
            raise SignalError(f"{self.name!r} tells samples of a batch from each other: it needs two or more.")
        if step.gather is not None:
            given = step.gather(given)
        elif step.batch.weight is not None:
            given = [value[step.batch.weight > 0] for value in given]
        assert self.network is not None
        return nt_xent(*(self.network(value) for value in given), temperature=self.temperature)

    def __str__(self) -> str:
        return f"view_contrast({' = '.join(map(str, self.refs))}, temperature={self.temperature:g})"


class ToldApart(Learnt):
    """See `told_apart`."""

    def __init__(self, teachers: Sequence[str]):
        super().__init__("told_apart")
        self.refs = [Ref("self", "logits"), *(Ref.parse(teacher, "teacher") for teacher in teachers)]

    def build_network(self, width: int) -> nn.Module:
        sizes = [width, max(8, width // 8), max(4, width // 64), 2]
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(*layers)

    def values(self, step: Step) -> Tensor:
        assert self.network is not None
        student, *teachers = (upcast(step.signal(ref)) for ref in self.refs)
        teacher = torch.stack([value.detach() for value in teachers]).mean(0)
        return scores_told_apart(self.network(student), self.network(teacher))


class ConfidentMse(Term):
    """See `confident_mse`."""

    def __init__(self, student: str, teacher: str, share: float):
        super().__init__(f"confident_mse({student})")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.outputs, self.share = [Ref("self", "logits"), Ref("teacher", "logits")], share

    def needs(self) -> list[Ref]:
        return [*self.refs, *self.outputs]

    def values(self, step: Step) -> Tensor:
        student, teacher = (upcast(step.signal(ref)) for ref in self.refs)
        if student.shape != teacher.shape:
            raise SignalError(f"{self.name!r} compares {list(student.shape)} with {list(teacher.shape)}.")
        outputs = [upcast(step.signal(ref)) for ref in self.outputs]
        sure = joint_confidence(outputs[0], outputs[1], self.share)
        return sure * (student - teacher.detach()).square().flatten(1).mean(1)


def view_contrast(tap: str, *, views: Sequence[str] = ("one", "two"), width: int = 128,
                  temperature: float = 0.1) -> ViewContrast:  # fmt: skip
    """Tell the two views of a sample from those of all others of the batch, by a tap of the student; a scalar.

    `functional.nt_xent` between the student's roles of two `views` ("": as the data give them) behind a network of one hidden
    layer to `width` numbers, which belongs to the objective; with width 0 of the tap as it is. Maps and tokens are pooled. Not
    additive: it compares the rows of a batch, and wants a large one.
    """
    return ViewContrast(tap, views, width, temperature)


def told_apart(teachers: Sequence[str] = ("logits",)) -> ToldApart:
    """A discriminator of logits: the student's against the mean of those of all `teachers`. Values [batch].

    `functional.told_apart` of the scores of three layers C, C / 8, C / 64, 2 (ours: at least 8 and 4 wide), a ReLU after each,
    the last one too. Discriminator and student descend the same loss, as in the released code: it is no game, the student makes
    itself easier to tell by what the discriminator looks at (MEAL V2, Shen and Savvides, 2020).
    """
    return ToldApart(teachers)


def confident_mse(student: str, teacher: str, *, share: float = 0.5) -> ConfidentMse:
    """MSE of two taps, the mean over each sample, times the confidence of both models together. Values [batch].

    The confidence is the largest of (1 - share) p_teacher + share p_student at temperature 1, without gradient.
    """
    return ConfidentMse(student, teacher, share)
