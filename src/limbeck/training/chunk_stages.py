"""What Skip-Thinking trains on: rationales in chunks, and rationales without those that can be spared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data.chunks import even_cuts, searched_cuts
from limbeck.data.generate import Answers, Sampling, bare
from limbeck.data.language_parts import prompts
from limbeck.data.language_tokens import Document
from limbeck.data.sentences import Sentences
from limbeck.errors import ArgumentError
from limbeck.evaluation.checkers import as_checker
from limbeck.objectives import cross_entropy
from limbeck.signals.step import derive
from limbeck.training.answer_writer import AnswerWriter
from limbeck.training.chunk_source import ChunkedRows, ChunkSource

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


class SkipThinking:
    """The parts of the two stages. `kept` [rows]: for each rationale which of its chunks are learnt in the second one."""

    def __init__(self, job: Job, chunks: int, ends: str, checker: Any = "final"):
        if chunks < 1:
            raise ArgumentError(f"chunks={chunks}: expected the number of chunks of a rationale, 1 or more.")
        self.job, self.count, self.check = job, chunks, as_checker(checker)
        self.writer = AnswerWriter(job)
        self.sentences = Sentences(self.writer.tokenizer, ends)
        self.places = torch.arange(len(self.writer))
        self.given = self.writer.given(self.places)
        self.cuts: list[list[int]] = []

    def chunked(self, search: bool) -> ChunkedRows:
        """The rationales with their chunks, cut evenly or where the student's loss says."""
        rows = self.writer.part("rationales", self.places, self.given)
        losses = self.writer.log_probabilities(self.job.student, rows) if search and not self.job.rehearsal else []
        for place, tokens in enumerate(self.given.tokens):
            ends = self._ends(tokens)
            self.cuts.append(searched_cuts(-losses[place], ends, self.count) if losses else even_cuts(ends, self.count))
        return ChunkedRows.of(rows, self.cuts)

    def _ends(self, tokens: Tensor) -> list[int]:
        """Sizes at which the sentences of an answer end; every token where no tokenizer says what a sentence is."""
        if self.writer.tokenizer is None:
            return list(range(1, len(tokens) + 1))
        number = self.sentences.number(tokens)
        return [*(torch.nonzero(number[1:] != number[:-1])[:, 0] + 1).tolist(), len(tokens)]

    def one_chunk_at_a_time(self, rows: ChunkedRows, share: float) -> Stage:
        settings = self.job.settings
        source = ChunkSource(rows, settings.batch_size, count=self.count, accumulate=settings.accumulate,
                             seed=derive(settings.seed, "source", rows.name), workers=settings.workers)  # fmt: skip
        return self.job.stage(cross_entropy(), name="chunk-wise", source=source, **settings.portion(share))

    def shortened(self, rows: ChunkedRows, share: float) -> Stage:
        """The rationales without the chunks that the student, as it is now, can spare."""
        kept = [list(range(len(cuts))) for cuts in self.cuts]
        if not self.job.rehearsal:
            for middle in range(1, self.count - 1):
                self._try(middle, kept)
        documents = []
        for place, prompt in enumerate(bare(prompts(rows, self.places))):
            tokens = self._joined(place, kept[place])
            documents.append(Document.of([*prompt, *tokens.tolist()], len(prompt), prompt=len(prompt)))
        part = self.writer.documents("shortened", documents, rows.samples.tolist())
        before, after = int(rows.counts.sum()), int(part.counts.sum())
        self.writer.counts |= {"rationale_tokens": before, "shortened_tokens": after,
                               "shortened_rationales": sum(len(k) < len(c) for k, c in zip(kept, self.cuts))}  # fmt: skip
        return self.job.stage(
            cross_entropy(), name="skip-thinking", source=self.writer.source(part), **self.job.settings.portion(share)
        )

    def _joined(self, place: int, chunks: list[int]) -> Tensor:
        pieces = self.given.tokens[place].tensor_split(self.cuts[place][:-1])
        return torch.cat([pieces[chunk] for chunk in chunks])

    def _try(self, middle: int, kept: list[list[int]]) -> None:
        """Leave a chunk out of every rationale that has it between others, where the student's answer is right without it.

        It must come to it in no more tokens than the last chunk has: or else it writes what was left out itself.
        """
        tried = [place for place, chunks in enumerate(self.cuts) if middle < len(chunks) - 1]
        if not tried:
            return
        heads = [self._joined(place, [c for c in kept[place][:-1] if c != middle]) for place in tried]
        asked = bare(prompts(self.writer.rows, torch.tensor(tried)))
        documents = [Document.of([*prompt, *head.tolist()], len(prompt) + len(head), len(prompt) + len(head))
                     for prompt, head in zip(asked, heads)]  # fmt: skip
        rows = self.writer.documents("spared", documents, self.writer.rows.samples[tried].tolist())
        last = [len(self._joined(place, [len(self.cuts[place]) - 1])) for place in tried]
        answers = self.writer.answers(f"without-{middle}", self.job.student, torch.arange(len(tried)),
                                      Sampling(max(last), greedy=True), rows)  # fmt: skip
        whole = Answers([torch.cat(pair) for pair in zip(heads, answers.tokens)], answers.finished)
        short = answers.finished & (answers.sizes <= torch.tensor(last))
        for place, good, texts in zip(tried, short.tolist(), self.writer.texts(torch.tensor(tried), whole)):
            if good and self.check(*texts) > 0.5:
                kept[place] = [chunk for chunk in kept[place] if chunk != middle]
                self.writer.counts["chunks_left_out"] += 1
