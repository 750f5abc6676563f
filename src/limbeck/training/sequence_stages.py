"""What DASD trains on, stage by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.data.answers_kept import AnswerFilter
from limbeck.data.generate import Answers, Sampling
from limbeck.data.language_parts import TokenRows
from limbeck.errors import ArgumentError
from limbeck.objectives import cross_entropy
from limbeck.signals.step import derive
from limbeck.training.answer_writer import AnswerWriter
from limbeck.training.rollouts import document
from limbeck.training.sequence_choice import completed, first_highest, teacher_shares

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


class Dasd:
    """The parts of DASD's stages, in their order; each remembers the teacher's answers for the last one."""

    def __init__(self, job: Job, keep: AnswerFilter, max_new_tokens: int, ends: str, threshold: float):
        self.job, self.keep, self.size, self.ends, self.threshold = job, keep, max_new_tokens, ends, threshold
        self.writer = AnswerWriter(job)
        self.learnt: list[tuple[Tensor, Answers]] = []  # documents and the teacher's answers to them

    def split(self, share: float) -> tuple[Tensor, Tensor]:
        """The prompts of the first stage, a share of all, and those of the second, in random order."""
        if not 0 <= share <= 1:
            raise ArgumentError(f"low_share={share!r}: expected a share of the prompts, from 0 to 1.")
        order = torch.randperm(len(self.writer), generator=self._chance("order"))
        return order[: round(share * len(order))], order[round(share * len(order)) :]

    def stage(self, name: str, part: TokenRows, share: float) -> Stage:
        return self.job.stage(
            cross_entropy(), name=name, source=self.writer.source(part), **self.job.settings.portion(share)
        )

    def sure(self, places: Tensor, temperature: float) -> TokenRows:
        """One answer of the teacher to each prompt."""
        answers = self.writer.answers("low", self.writer.teacher, places, Sampling(self.size, temperature))
        good = self.writer.kept("low", places, answers, self.keep)
        return self._taught("low temperature", places[good], answers.select(good))

    def unlike(self, places: Tensor, temperature: float, candidates: int) -> TokenRows:
        """Of several answers of the teacher to each prompt, the one of which the student would say least."""
        if candidates < 1:
            raise ArgumentError(f"candidates={candidates}: expected the number of answers to each prompt, 1 or more.")
        group = torch.arange(len(places)).repeat_interleave(candidates)
        asked = places[group]
        answers = self.writer.answers("high", self.writer.teacher, asked, Sampling(self.size, temperature))
        good = self.writer.kept("high", asked, answers, self.keep)
        if candidates > 1 and not self.job.rehearsal:
            shares = teacher_shares(self.writer, asked[good], answers.select(good), self.job.student, ends=self.ends,
                                    threshold=self.threshold)  # fmt: skip
            good = good[first_highest(shares, group[good])]
        return self._taught("high temperature", asked[good], answers.select(good))

    def completed(self, share: float, temperature: float, cap: float, beside: float) -> TokenRows | None:
        """Answers that the student began and the teacher ended, beside some of before; None where there is none."""
        if not 0 < share < 1 or cap <= 0 or beside < 0:
            raise ArgumentError(
                f"mixed={share!r}, cap={cap!r}, beside={beside!r}: expected 0 < mixed < 1, cap > 0, beside >= 0."
            )
        places = torch.cat([places for places, _ in self.learnt])
        answers = Answers(
            [row for _, some in self.learnt for row in some.tokens], torch.ones(len(places), dtype=torch.bool)
        )
        mine = torch.randperm(len(places), generator=self._chance("mixed"))[: max(1, round(share * len(self.writer)))]
        found = completed(
            self.writer, self.job.student, places[mine], answers.sizes[mine], cap=cap,
            sampling=Sampling(self.size, temperature), keep=self.keep,
        )  # fmt: skip
        if not found:
            return None
        others = torch.randperm(len(places), generator=self._chance("beside"))[: round(beside * len(found))]
        before = self.writer.part("beside", places[others], answers.select(others))
        documents = [*(document(before, number) for number in range(len(before))), *(one for one, _ in found)]
        return self.writer.documents(
            "mixed policy", documents, [*before.samples.tolist(), *(sample for _, sample in found)]
        )

    def _taught(self, name: str, places: Tensor, answers: Answers) -> TokenRows:
        self.learnt.append((places, answers))
        return self.writer.part(name, places, answers)

    def _chance(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.job.settings.seed, "dasd", purpose))
