"""Which parts of a teacher's images a place is made of: prototypes, and how student and teacher assign places to them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class AssignmentKl(Term):
    """See `assignment_kl`."""

    prototypes: Tensor

    def __init__(self, student: str, teacher: str, prototypes: Tensor, temperature: float):
        super().__init__("assignment_kl")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.register_buffer("prototypes", F.normalize(prototypes, dim=-1))
        self.temperature = temperature

    def needs(self) -> list[Ref]:
        return self.refs

    def values(self, step: Step) -> Tensor:
        student, teacher = (upcast(step.signal(ref)) for ref in self.refs)
        if student.ndim != 4 or teacher.ndim != 4:
            raise SignalError(
                f"{self.name!r} compares maps; {str(self.refs[0])!r} is {list(student.shape)}, {str(self.refs[1])!r} "
                f"{list(teacher.shape)}."
            )
        theirs = F.adaptive_avg_pool2d(teacher.detach(), (student.shape[2], student.shape[3]))
        cosines = F.normalize(theirs, dim=1).permute(0, 2, 3, 1) @ self.prototypes.to(theirs).T
        log_p = (cosines / self.temperature).log_softmax(-1)
        log_q = student.permute(0, 2, 3, 1).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).flatten(1).mean(1)


def assignment_kl(student: str, teacher: str, prototypes: Tensor, *, temperature: float = 0.1) -> AssignmentKl:
    """KL between how teacher and student assign the places of a map to prototypes, the mean over places. Values [batch].

    `student`: a tap of the student's logits of assignment [batch, prototypes, height, width]; `teacher`: one of the teacher's
    maps [batch, width, ...], pooled to the student's grid, whose cosines to `prototypes` [prototypes, width] are divided by
    `temperature`.
    """
    return AssignmentKl(student, teacher, prototypes, temperature)
