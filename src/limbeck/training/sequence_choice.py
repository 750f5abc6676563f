"""DASD's two ways to bring the student into its data: answers it could not have written, and its own ones, completed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.generate import Answers, Sampling, bare
from limbeck.data.language_parts import prompts
from limbeck.data.language_tokens import Document
from limbeck.data.sentences import Sentences
from limbeck.functional.sentences import sentence_kinds, sentence_probabilities, teacher_share
from limbeck.signals.step import derive

if TYPE_CHECKING:
    from limbeck.data.answers_kept import AnswerFilter
    from limbeck.training.answer_writer import AnswerWriter

SORTED = 8  # groups of like caps that the student answers one after the other


def first_highest(values: Tensor, group: Tensor) -> Tensor:
    """The place of the first highest of values [n] in each group [n], in the order of the groups: [groups] int64."""
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    ahead = group[order]
    return order[torch.cat([ahead.new_ones(1, dtype=torch.bool), ahead[1:] != ahead[:-1]])] if len(order) else order


def teacher_shares(writer: AnswerWriter, places: Tensor, answers: Answers, student: Any, *, ends: str,
                   threshold: float) -> Tensor:  # fmt: skip
    """The share of teacher sentences in each answer, [answers]: how much of it the teacher would say and the student not."""
    part = writer.part("candidates", places, answers)
    cut = Sentences(writer.tokenizer, ends)
    found = []
    for tokens, *values in zip(
        answers.tokens, *(writer.log_probabilities(model, part) for model in (writer.teacher, student))
    ):
        number = cut.number(tokens)
        teacher, student_ = (sentence_probabilities(value.double(), number) for value in values)
        kinds = sentence_kinds(teacher, student_, threshold=threshold)
        for name, kind in (("student", -1), ("shared", 0), ("teacher", 1)):
            writer.counts[f"sentences_{name}"] += int((kinds == kind).sum())
        found.append(teacher_share(kinds))
    return torch.tensor(found, dtype=torch.float64)


def completed(writer: AnswerWriter, student: Any, places: Tensor, lengths: Tensor, *, cap: float, sampling: Sampling,
              keep: AnswerFilter) -> list[tuple[Document, int]]:  # fmt: skip
    """Answers that the student begins and the teacher ends, with their samples, where the student came to no end by itself.

    `lengths` [n]: tokens of the teacher's answers to the documents `places` [n]. The student may write `cap` times as many;
    what is longer is cut at a random token of its second half and written on by the teacher. All of the answer is
    predicted, the student's part too: DASD's ablation lost by leaving it out. Source: DASD (Yan et al., 2026).
    """
    caps = (cap * lengths.double()).ceil().long().clamp(min=1)
    order = caps.argsort(stable=True)
    begun: list[tuple[int, Tensor]] = []
    for number, some in enumerate(order.split(math.ceil(len(order) / SORTED)) if len(order) else ()):
        limit = Sampling(int(caps[some].max()), sampling.temperature, sampling.top_k, sampling.top_p)
        written = writer.answers(f"student-{number}", student, places[some], limit)
        for which, tokens, finished in zip(some.tolist(), written.tokens, written.finished.tolist()):
            if len(tokens) > caps[which] or not finished:
                begun.append((which, tokens[: int(caps[which])]))
    writer.counts["student_written"] += len(places)
    writer.counts["student_cut_off"] += len(begun)
    if not begun:
        return []
    chance = torch.Generator().manual_seed(derive(writer.job.settings.seed, "completed"))
    drawn = torch.rand(len(begun), generator=chance, dtype=torch.float64).tolist()
    cuts = [max(1, math.floor(len(tokens) * (1 + share) / 2)) for (_, tokens), share in zip(begun, drawn)]
    heads = [tokens[:size] for (_, tokens), size in zip(begun, cuts)]
    mine = places[torch.tensor([which for which, _ in begun])]
    asked = bare(prompts(writer.rows, mine))
    documents = [Document.of(np.r_[prompt, head], len(prompt) + len(head), len(prompt) + len(head))
                 for prompt, head in zip(asked, heads)]  # fmt: skip
    samples = writer.rows.samples[mine].tolist()
    rows = writer.documents("begun", documents, samples)
    rest = writer.answers("completed", writer.teacher, torch.arange(len(rows)), sampling, rows)
    whole = Answers([torch.cat([head, tail]) for head, tail in zip(heads, rest.tokens)], rest.finished)
    good, reasons = keep(whole, whole.texts(writer.tokenizer))
    for reason, count in reasons.items():
        writer.counts[f"completed_{reason}"] += count
    return [
        (
            Document.of(np.r_[asked[place], whole.tokens[place].numpy()], len(asked[place]), len(asked[place])),
            samples[place],
        )
        for place in good.nonzero()[:, 0].tolist()
    ]
