"""Terms over the tokens of transformers, layer by layer, in which padding does not count."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck import functional as f
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.objectives.projectors import projector
from limbeck.signals.layers import Attention
from limbeck.signals.step import Ref, Step

CALL = Ref("self", "#call")  # what the student is called with, its mask of padding among it


class Look(NamedTuple):
    """Two signals [batch, tokens, width] of a model whose products, over heads, are compared with another's."""

    query: str
    key: str
    heads: int


class Tokens(Term):
    """Pairs of signals of tokens, student's and teacher's. Subclasses say what a pair's `refs` are and its values."""

    def __init__(self, name: str, student: Sequence[Any], teacher: Sequence[Any]):
        super().__init__(name)
        if not student or len(student) != len(teacher):
            raise ArgumentError(
                f"{name}: {len(student)} places of the student and {len(teacher)} of the teacher; give as many."
            )
        self.pairs = list(zip(student, teacher, strict=True))

    @abstractmethod
    def refs(self, ours: Any, theirs: Any) -> list[Ref]:
        """The signals of a pair."""

    @abstractmethod
    def of(self, step: Step, ours: Any, theirs: Any, tokens: Tensor | None) -> Tensor:
        """The values of a pair, [batch], over the tokens [batch, tokens] that count (None: all)."""

    def needs(self) -> list[Ref]:
        return [CALL, *dict.fromkeys(ref for pair in self.pairs for ref in self.refs(*pair))]

    def values(self, step: Step) -> Tensor:
        tokens = tokens_of(step)
        return torch.stack([self.of(step, *pair, tokens) for pair in self.pairs]).sum(0)

    def read(self, step: Step, ours: str, theirs: str) -> tuple[Tensor, Tensor]:
        """A signal of student and teacher, [batch, tokens, width] each; of one text the same tokens."""
        mine, other = Ref.parse(ours, "self"), Ref.parse(theirs, "teacher")
        student, teacher = upcast(step.signal(mine)), upcast(step.signal(other)).detach()
        if student.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
            raise SignalError(
                f"{self.name!r} compares tokens [batch, tokens, width]; {str(mine)!r} is {list(student.shape)} and "
                f"{str(other)!r} {list(teacher.shape)}. Tap layers of transformers with one tokenizer, which cuts texts at one "
                "length."
            )
        return student, teacher

    def __str__(self) -> str:
        told = []
        for pair in self.pairs:
            ours, theirs = (
                " x ".join(r.tap for r in self.refs(*pair) if (r.role == "self") == mine) for mine in (True, False)
            )
            told.append(f"{ours} > {theirs}")
        return f"{self.name}({', '.join([*told, *self.options()])})"

    def options(self) -> list[str]:
        """What else decides its values, in words."""
        return []


def tokens_of(step: Step) -> Tensor | None:
    """Which tokens of the student's batch are no padding, [batch, tokens]; None where it is called without a mask."""
    _, named = step.signal(CALL)
    mask = named.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        raise SignalError(
            f"The attention_mask is {list(mask.shape)}; expected [batch, tokens], 1 for a token and 0 for padding."
        )
    return mask


class Hidden(Tokens):
    """See `hidden_mse`."""

    def __init__(self, student: Sequence[str], teacher: Sequence[str], project: bool):
        super().__init__("hidden_mse", student, teacher)
        self.project = project
        self.projector: nn.Module | None = None

    def refs(self, ours: str, theirs: str) -> list[Ref]:
        return [Ref.parse(ours, "self"), Ref.parse(theirs, "teacher")]

    @property
    def is_built(self) -> bool:
        return self.projector is not None or not self.project

    def make(self, step: Step, seed: int) -> None:
        if not self.is_built:
            student, teacher = self.read(step, *self.pairs[0])
            self.projector = projector("linear", tuple(student.shape), tuple(teacher.shape), seed)
            self.projector.to(student.device, student.dtype)

    def options(self) -> list[str]:
        return [f"project={self.project}"]

    def of(self, step: Step, ours: str, theirs: str, tokens: Tensor | None) -> Tensor:
        student, teacher = self.read(step, ours, theirs)
        student = student if self.projector is None else self.projector(student)
        if student.shape != teacher.shape:
            raise SignalError(
                f"{self.name!r}: {ours!r} is {student.shape[-1]} wide, {theirs!r} {teacher.shape[-1]}. Give project=True, for "
                "a linear map that is learned."
            )
        return f.hidden_mse(student, teacher, tokens=tokens, reduction="none")


class Looks(Tokens):
    """Scores of pairs of tokens, compared over heads. See `attention_mse`, `attention_kl`, `relation_kl`."""

    def __init__(self, name: str, measure: Callable[..., Tensor], student: Sequence[Look], teacher: Sequence[Look]):
        super().__init__(name, student, teacher)
        self.measure = measure
        for ours, theirs in self.pairs:
            if ours.heads != theirs.heads:
                raise ArgumentError(
                    f"{name} compares head with head: the student has {ours.heads} heads in {ours.query!r}, the teacher "
                    f"{theirs.heads} in {theirs.query!r}. Build the student with as many (encoder(heads={theirs.heads})), or "
                    "use minilm_v2, which splits both into as many relation heads."
                )

    def refs(self, ours: Look, theirs: Look) -> list[Ref]:
        roles = [("self", ours.query), ("self", ours.key), ("teacher", theirs.query), ("teacher", theirs.key)]
        return list(dict.fromkeys(Ref.parse(tap, role) for role, tap in roles))

    def options(self) -> list[str]:
        return [f"heads={', '.join(str(heads) for heads in dict.fromkeys(ours.heads for ours, _ in self.pairs))}"]

    def of(self, step: Step, ours: Look, theirs: Look, tokens: Tensor | None) -> Tensor:
        query, its_query = self.read(step, ours.query, theirs.query)
        key, its_key = (query, its_query) if ours.query == ours.key else self.read(step, ours.key, theirs.key)
        try:
            scores = f.attention_scores(query, key, ours.heads), f.attention_scores(its_query, its_key, theirs.heads)
        except ValueError as error:
            raise SignalError(
                f"{self.name!r}: {error}. Choose a number of heads that divides both models' widths."
            ) from error
        return self.measure(*scores, tokens=tokens, reduction="none")


def hidden_mse(*, student: Sequence[str], teacher: Sequence[str], project: bool = True) -> Hidden:
    """Sum over pairs of taps of the MSE of hidden states, over the width and a sample's tokens. Values [batch].

    With `project`, one linear map of the student's states for all pairs, learned beside the student (TinyBERT, 2020). Taps of
    [batch, tokens, width]; the padding is what the student is called with as `attention_mask`.
    """
    return Hidden(student, teacher, project)


def attention_mse(*, student: Sequence[Attention], teacher: Sequence[Attention]) -> Looks:
    """Sum over layers of the MSE of attention scores before the softmax, `functional.attention_mse`. Values [batch]."""
    return Looks("attention_mse", f.attention_mse, *(_looks(each) for each in (student, teacher)))


def attention_kl(*, student: Sequence[Attention], teacher: Sequence[Attention]) -> Looks:
    """Sum over layers of the KL of the teacher's attention to the student's, `functional.attention_kl`. Values [batch]."""
    return Looks("attention_kl", f.attention_kl, *(_looks(each) for each in (student, teacher)))


def relation_kl(*, student: Sequence[str], teacher: Sequence[str], heads: int | tuple[int, int]) -> Looks:
    """Sum over pairs of taps of the KL of softmax(X X^T / sqrt(width of a head)), X the signal over `heads`. Values [batch].

    Taps of [batch, tokens, width], such as a layer's values (MiniLM, 2020) or each of its queries, keys and values (MiniLMv2,
    2021). `heads`: how many parts both are split into, whatever heads they have, or the (student's, teacher's).
    """
    ours, theirs = (heads, heads) if isinstance(heads, int) else heads
    sides = [Look(tap, tap, ours) for tap in student], [Look(tap, tap, theirs) for tap in teacher]
    return Looks("relation_kl", f.attention_kl, *sides)


def _looks(places: Sequence[Attention]) -> list[Look]:
    return [Look(place.query, place.key, place.heads) for place in places]
