"""A student's answer mended where it and the teacher differ most, and written anew from there (SCRG)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch
from limbeck.data.generate import Answers, Sampler, Sampling, answered, as_prompts, bare
from limbeck.data.generate_models import room


def worst_tokens(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
    """q(y) - p(y) of the tokens y that were written, where the two would take different ones; -1 where they agree. [rows]"""
    assert labels is not None
    size = min(student.shape[-1], teacher.shape[-1])
    q, p = (each[..., :size].softmax(-1) for each in (student, teacher))
    gap = (q - p).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return gap.where(student[..., :size].argmax(-1) != teacher[..., :size].argmax(-1), -1.0)


def teachers_choice(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
    """The teacher's likeliest tokens [rows], as numbers that a sweep over blocks can give."""
    size = min(student.shape[-1], teacher.shape[-1])
    return teacher[..., :size].argmax(-1).to(torch.float64 if student.dtype == torch.float64 else torch.float32)


def repaired(asked: Batch, answers: Answers, student: nn.Module, teacher: Any, task: Any, sampler: Sampler, sampling: Sampling,
             numbers: Tensor | None, padding: int) -> tuple[Answers, Tensor]:  # fmt: skip
    """Answers in which one token is the teacher's and what follows is the student's again; and which were mended [answers].

    The token y_e with the largest q(y) - p(y) among those at which student and teacher would choose differently becomes the
    teacher's first choice, and the student goes on from there, by `numbers`, to the length that the answer may have in all.
    Answers without such a token stay as they are. Sequence correction and re-generation of multi-granularity semantic
    revision (Liu et al., 2024; no code is published, our reading).
    """
    rows = answered(asked, answers, padding=padding)
    gaps, chosen = _by_token(rows, student, teacher, task)
    mended = torch.tensor([float(gap.max()) > -1 for gap in gaps])
    places = [int(gap.argmax()) for gap in gaps]
    given, ends = bare(asked), set(getattr(sampler, "ends", ()))
    new = room([student], max(map(len, given)), sampling)
    tokens = [row.clone() for row in answers.tokens]
    finished, going = answers.finished.clone(), []
    for number in mended.nonzero()[:, 0].tolist():
        place, token = places[number], int(chosen[number][places[number]])
        tokens[number] = torch.cat([tokens[number][:place], torch.tensor([token])])
        finished[number] = token in ends
        if token not in ends and place + 1 < new:
            going.append(number)
    if going:
        begun = [given[number] + tokens[number].tolist() for number in going]
        some = None if numbers is None else numbers[going]
        rest = sampler.generate(as_prompts(begun, padding), sampling, numbers=some)
        for number, more, ended in zip(going, rest.tokens, rest.finished.tolist()):
            left = new - len(tokens[number])
            finished[number] = ended and len(more) <= left
            tokens[number] = torch.cat([tokens[number], more[:left]])
    return Answers(tokens, finished), mended


def _by_token(rows: Any, student: nn.Module, teacher: Any, task: Any) -> tuple[list[Tensor], list[Tensor]]:
    """For every answer: how much too likely its tokens are to the student, and what the teacher would have taken."""
    from limbeck.evaluation.modes import device_of, evaluating
    from limbeck.signals.scores import token_values

    gaps: list[Tensor] = []
    chosen: list[Tensor] = []
    for some in torch.arange(len(rows)).split(32):
        batch = rows.batch(some).to(device_of(student))
        with torch.no_grad(), evaluating(student):
            own = task.signals(task.forward(student, task.view(batch, student, "student")))["logits"]
            theirs = teacher.read(batch, ["logits"], task)["logits"]
            mask = batch.extra["mask"]
            for found, function in ((gaps, worst_tokens), (chosen, teachers_choice)):
                values = token_values(own, theirs, batch.labels, mask, function)
                found += [row[kept].cpu() for row, kept in zip(values, mask.bool())]
    return gaps, chosen
