"""Relations among the tokens of a batch (Token Relationship Graph)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.token_relations import token_context_mse, token_contrast, token_neighbour_kl
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class TokenGraph(Term):
    """See `token_graph`."""

    per = "batch"

    def __init__(self, student: str, teacher: str, local: float, context: float, contrast: float, neighbours: int,
                 most: int):  # fmt: skip
        super().__init__(f"token_graph({student})")
        for name, weight in (("local", local), ("context", context), ("contrast", contrast)):
            if not weight >= 0:
                raise ArgumentError(f"{name}={weight!r}: expected a weight of 0 or more.")
        if neighbours < 1 or most < 2:
            raise ArgumentError(f"neighbours={neighbours}, most={most}: expected 1 or more, and 2 or more.")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.local, self.context, self.contrast = local, context, contrast
        self.neighbours, self.most = neighbours, most
        self.projector: nn.Module | None = None

    def needs(self) -> list[Ref]:
        return self.refs

    @property
    def is_built(self) -> bool:
        return self.projector is not None

    def make(self, step: Step, seed: int) -> None:
        if self.projector is None:
            student, teacher = self._tokens(step)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projector = nn.Linear(student.shape[-1], teacher.shape[-1]).to(student.device, student.dtype)

    def _tokens(self, step: Step) -> tuple[Tensor, Tensor]:
        """Both signals as [batch, tokens, width] on one grid, without a class token."""
        student, teacher = (upcast(step.signal(ref)) for ref in self.refs)
        if student.ndim == teacher.ndim == 4:
            side = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
            student, teacher = (F.adaptive_avg_pool2d(x, side).flatten(2).transpose(1, 2) for x in (student, teacher))
        elif student.ndim == teacher.ndim == 3:
            student, teacher = _patches(student), _patches(teacher)
        if student.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
            raise SignalError(
                f"{self.name!r} relates maps with maps, or patches with as many patches; {str(self.refs[0])!r} is "
                f"{list(student.shape)}, {str(self.refs[1])!r} {list(teacher.shape)}. Name other layers."
            )
        return student, teacher.detach()

    def values(self, step: Step) -> Tensor:
        assert self.projector is not None
        student, teacher = self._tokens(step)
        if step.gather is not None:
            student, teacher = step.gather([student, teacher])
        elif step.batch.weight is not None:
            student, teacher = (x[step.batch.weight > 0] for x in (student, teacher))
        flat, theirs = student.flatten(0, 1), teacher.flatten(0, 1)
        chosen = torch.randperm(len(flat), generator=step.rng("tokens"))[: self.most].to(flat.device)
        flat, theirs = flat[chosen], theirs[chosen]
        total = self.local * token_neighbour_kl(flat, theirs, neighbours=self.neighbours)
        total = total + self.context * token_context_mse(student, teacher).mean()
        return total + self.contrast * token_contrast(self.projector(flat), theirs)

    def __str__(self) -> str:
        return (
            f"token_graph({self.refs[0].tap} > {self.refs[1].tap}, local={self.local:g}, context={self.context:g}, "
            f"contrast={self.contrast:g}, neighbours={self.neighbours})"
        )


def _patches(tokens: Tensor) -> Tensor:
    """Without the first token, where the others make a square and it does not."""
    root, whole = round((tokens.shape[1] - 1) ** 0.5), round(tokens.shape[1] ** 0.5)
    return tokens[:, 1:] if root**2 == tokens.shape[1] - 1 and whole**2 != tokens.shape[1] else tokens


def token_graph(student: str, teacher: str, *, local: float = 1.0, context: float = 1.0, contrast: float = 0.1,
                neighbours: int = 8, most: int = 512) -> TokenGraph:  # fmt: skip
    """How tokens are related across a batch and inside a sample; a scalar.

    `student`, `teacher`: taps of maps, of which the larger is pooled to the smaller, or of patches [batch, tokens, width],
    without a class token. local * `token_neighbour_kl` + contrast * `token_contrast` (behind a linear map that belongs to the
    objective), both over at most `most` tokens of the batch, drawn anew in each step and the same of both models, + context *
    `token_context_mse` over all. Not additive. Memory: two matrices most x most.
    """
    return TokenGraph(student, teacher, local, context, contrast, neighbours, most)
