"""Messages between student and teacher in a space of their own (Talking Models)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.functional.response import forward_kl
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step

Reply = Callable[[Step, Tensor], Tensor]


class Conversation(Term):
    """See `conversation`."""

    def __init__(self, student: str, teacher: str, reply: Reply, width: int, align: float, consistency: float, asked: float,
                 temperature: float):  # fmt: skip
        super().__init__("conversation")
        for name, value in (("align", align), ("consistency", consistency), ("asked", asked)):
            if not value >= 0:
                raise ArgumentError(f"{name}={value!r}: expected a number of 0 or more.")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1 or not temperature > 0:
            raise ArgumentError(f"width={width!r}, temperature={temperature!r}: expected 1 or more, and more than 0.")
        self.refs = [Ref.parse(student, "self"), Ref.parse(teacher, "teacher")]
        self.outputs = [Ref("self", "logits"), Ref("teacher", "logits")]
        self.reply, self.width, self.temperature = reply, width, temperature
        self.align, self.consistency, self.asked = align, consistency, asked
        self.encoders: nn.ModuleList | None = None
        self.decoders: nn.ModuleList | None = None

    def needs(self) -> list[Ref]:
        return [*self.refs, *self.outputs]

    @property
    def is_built(self) -> bool:
        return self.encoders is not None

    def make(self, step: Step, seed: int) -> None:
        if self.encoders is None:
            given = self._states(step)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                sizes = [state.shape[-1] for state in given]
                self.encoders = nn.ModuleList(_network(size, self.width) for size in sizes)
                self.decoders = nn.ModuleList(_network(self.width, size) for size in sizes)
            self.to(given[0].device, given[0].dtype)

    def _states(self, step: Step) -> list[Tensor]:
        """Both states as [batch, places, width], the student's at the teacher's places."""
        student, teacher = upcast(step.signal(self.refs[0])), upcast(step.signal(self.refs[1])).detach()
        if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
            raise SignalError(
                f"{self.name!r} compares vectors with vectors, tokens with tokens and maps with maps; {str(self.refs[0])!r} is "
                f"{list(student.shape)}, {str(self.refs[1])!r} {list(teacher.shape)}. Name other layers."
            )
        if student.ndim == 4:
            student = F.adaptive_avg_pool2d(student, (teacher.shape[2], teacher.shape[3]))
        found = [_places(student), _places(teacher)]
        if found[0].shape[1] != found[1].shape[1]:
            raise SignalError(
                f"{self.name!r}: {found[0].shape[1]} tokens of the student, {found[1].shape[1]} of the teacher."
            )
        return found

    def values(self, step: Step) -> Tensor:
        assert self.encoders is not None and self.decoders is not None
        states = self._states(step)
        messages = [encode(state) for encode, state in zip(self.encoders, states, strict=True)]
        aligned = (messages[0] - messages[1]).square().flatten(1).mean(1)
        kept = torch.zeros_like(aligned)
        for decode, message, state in zip(self.decoders, messages, states, strict=True):
            state = state.detach()
            kept = kept + (decode(message) - state).square().flatten(1).mean(1) / state.square().mean().clamp(min=1e-6)
        put = _back(self.decoders[1](messages[0]), step.signal(self.refs[1]))
        reply = upcast(self.reply(step, put))
        student, teacher = (upcast(step.signal(ref)) for ref in self.outputs)
        understood = forward_kl(reply, teacher, temperature=self.temperature, reduction="none")
        learned = forward_kl(student, reply.detach(), temperature=self.temperature, reduction="none")
        return self.align * aligned + self.consistency * kept + self.asked * (understood + learned)

    def __str__(self) -> str:
        return (
            f"conversation({self.refs[0].tap} > {self.refs[1].tap}, width={self.width}, align={self.align:g}, "
            f"consistency={self.consistency:g}, asked={self.asked:g}, temperature={self.temperature:g})"
        )


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, 2 * outputs), nn.ReLU(), nn.Linear(2 * outputs, outputs)
    )


def _places(state: Tensor) -> Tensor:
    return state[:, None] if state.ndim == 2 else state if state.ndim == 3 else state.flatten(2).transpose(1, 2)


def _back(places: Tensor, like: Tensor) -> Tensor:
    """[batch, places, width] in the shape and type of a state."""
    moved = places.transpose(1, 2) if like.ndim == 4 else places
    return moved.reshape(like.shape).to(like.dtype)


def conversation(student: str, teacher: str, reply: Reply, *, width: int = 64, align: float = 1.0, consistency: float = 1.0,
                 asked: float = 1.0, temperature: float = 4.0) -> Conversation:  # fmt: skip
    """What student and teacher say to each other in the middle. Values [batch].

    `student`, `teacher`: taps of vectors, tokens or maps (the student's pooled to the teacher's places). Each model has an
    encoder of its state to a message of `width` numbers at each place, and a decoder back; all four belong to the objective.
    `reply(step, state)` gives the teacher's logits when it goes on from a state of the shape of its tap. The sum of align *
    |message_T - message_S|^2, consistency * what decoding loses of both states, relative to their size (without it messages may
    shrink to a constant), and asked * T^2 (KL(teacher || reply to the student's message) + KL(that reply || student)).
    """
    return Conversation(student, teacher, reply, width, align, consistency, asked, temperature)
