"""What models write for a recipe before a stage begins: answers of teacher or student, scored, chosen, continued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.generate import Answers, Sampling, bare, told
from limbeck.data.generate_models import find_ends, sampler_of
from limbeck.data.language_parts import PairPart, TokenRows, prompts
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError, DataError, RunError
from limbeck.signals.step import derive
from limbeck.training.rollouts import Rollout, documents, exchanged, log_probabilities
from limbeck.training.sources import PartSource

if TYPE_CHECKING:
    from limbeck.data.answers_kept import AnswerFilter
    from limbeck.training.job import Job

BATCH = 64


class AnswerWriter:
    """Writes for a job, by the prompts of its training part.

    All that is written is drawn by numbers of (seed, name, place in the list), so that it depends neither on batches nor
    on processes, which share the work; it is kept in the run's folder as it comes, and a resumed run reads it there. In a dry
    run nothing is written: the data's own answers stand for all others. `counts`: what was written and left out so far.
    """

    def __init__(self, job: Job):
        part = job.data.train
        self.job, self.rows = job, documents(part.chosen() if isinstance(part, PairPart) else part)
        self.tokenizer = getattr(job.task, "tokenizer", None) or getattr(job.student, "tokenizer", None)
        self.ends = find_ends(self.rows, job.teacher, job.student, tokenizer=self.tokenizer)
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def teacher(self) -> Any:
        assert self.job.teacher is not None
        if self.job.teacher.stored:
            raise ArgumentError(
                "The teacher is a store, which knows nothing of texts yet to be written. Give the model."
            )
        return self.job.teacher

    # writing
    def answers(
        self, name: str, model: Any, places: Tensor, sampling: Sampling, rows: TokenRows | None = None
    ) -> Answers:
        """Answers of a model to the prompts of documents [n], of this part or of other rows, kept under a name."""
        rows = self.rows if rows is None else rows
        if self.job.rehearsal:
            return self.given(places, rows)
        found = self._known(name, places, sampling)
        self._place(model)
        sampler = sampler_of(model, self.job.task, self.ends)
        rank, processes = self._process()
        for start in range(len(found), len(places), BATCH):
            these = torch.arange(start, min(start + BATCH, len(places)))
            mine = these[rank::processes]
            written = Rollout(mine, Answers([], torch.zeros(0, dtype=torch.bool)))
            if len(mine):
                numbers = (
                    None if sampling.greedy else torch.cat([self._numbers(name, i, sampling) for i in mine.tolist()])
                )
                written.answers = sampler.generate(prompts(rows, places[mine]), sampling, numbers=numbers)
            whole = exchanged(written, rank, processes).answers
            self._keep(name, rows, places[these], sampling, whole)
            found = Answers(found.tokens + whole.tokens, torch.cat([found.finished, whole.finished]))
        self.counts[f"{name}_answers"] += len(found)
        self.counts[f"{name}_tokens"] += int(found.sizes.sum())
        return found

    def given(self, places: Tensor, rows: TokenRows | None = None) -> Answers:
        """The data's own answers to the prompts of documents."""
        rows = self.rows if rows is None else rows
        pieces = [rows.document(place)[int(rows.prompts[place]) :] for place in places.tolist()]
        return Answers(pieces, torch.ones(len(pieces), dtype=torch.bool))

    def _numbers(self, name: str, place: int, sampling: Sampling) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.job.settings.seed, "written", name, place))
        numbers = sampling.numbers(1, generator)
        assert numbers is not None
        return numbers

    def _known(self, name: str, places: Tensor, sampling: Sampling) -> Answers:
        """What an interrupted run wrote already; every process has it from the first one."""
        lines: list[Any] = [self.job.shelf.read(name) if self.job.shelf is not None else []]
        if self._process()[1] > 1:
            torch.distributed.broadcast_object_list(lines, src=0)
        for line, place in zip(lines[0], places.tolist()):
            if line["document"] != place or line["sampling"] != asdict(sampling):
                raise RunError(
                    f"generated/{name}.jsonl in the run's folder holds other answers than this run would write. Remove the "
                    "file, or start anew with overwrite=true."
                )
        known = lines[0][: len(places)]
        return Answers(
            [torch.tensor(line["tokens"], dtype=torch.int64) for line in known],
            torch.tensor([line["finished"] for line in known], dtype=torch.bool),
        )

    def _keep(self, name: str, rows: TokenRows, places: Tensor, sampling: Sampling, answers: Answers) -> None:
        if self.job.shelf is None:
            return
        texts = answers.texts(self.tokenizer)
        self.job.shelf.add(name, [
            {"prompt": told(rows, place, self.tokenizer, self.ends)[0], "response": text, "document": place,
             "finished": finished, "tokens": tokens.tolist(), "sampling": asdict(sampling)}
            for place, text, tokens, finished in zip(places.tolist(), texts, answers.tokens, answers.finished.tolist())
        ])  # fmt: skip

    @staticmethod
    def _process() -> tuple[int, int]:
        from accelerate import PartialState

        state = PartialState()
        return state.process_index, state.num_processes

    @staticmethod
    def _place(model: Any) -> None:
        """Bring a model to where stages are trained: they begin only afterwards."""
        from accelerate import PartialState

        from limbeck.teachers.base import Teacher

        if isinstance(model, Teacher | nn.Module):
            model.to(PartialState().device)

    # what is known of it
    def texts(self, places: Tensor, answers: Answers) -> list[tuple[str, str, str]]:
        """Prompt, answer and the data's own answer as texts."""
        known = [told(self.rows, place, self.tokenizer, self.ends) for place in places.tolist()]
        return [(prompt, text, right) for (prompt, right), text in zip(known, answers.texts(self.tokenizer))]

    def log_probabilities(self, model: Any, part: TokenRows) -> list[Tensor]:
        """log p of every predicted token, one tensor for each row, in nats."""
        self._place(model)
        return log_probabilities(getattr(model, "module", model), self.job.task, part)

    def kept(self, name: str, places: Tensor, answers: Answers, keep: AnswerFilter) -> Tensor:
        """The numbers of the answers that a filter lets through. Raises DataError where there is none."""
        if self.job.rehearsal:
            return torch.arange(len(answers))
        good, reasons = keep(answers, [text for _, text, _ in self.texts(places, answers)])
        for reason, count in reasons.items():
            self.counts[f"{name}_{reason}"] += count
        if not bool(good.any()):
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise DataError(f"None of the {len(answers)} answers ({name}) is worth learning: {why}.")
        return good.nonzero()[:, 0]

    # what is trained on
    def part(self, name: str, places: Tensor, answers: Answers) -> TokenRows:
        """Rows of prompts and answers, of which the answers are predicted."""
        asked = bare(prompts(self.rows, places))
        made = [
            Document.of([*prompt, *answer.tolist()], len(prompt), prompt=len(prompt))
            for prompt, answer in zip(asked, answers.tokens)
        ]
        return self.documents(name, made, self.rows.samples[places].tolist())

    def documents(self, name: str, made: Sequence[Document], samples: Sequence[int]) -> TokenRows:
        """Rows of documents, numbered anew."""
        return TokenRows(name, made, samples, ids=torch.arange(len(made)), padding=self.rows.padding)

    def source(self, part: TokenRows) -> WrittenSource:
        """What a stage reads such rows by."""
        settings = self.job.settings
        seed = derive(settings.seed, "source", part.name)
        return WrittenSource(part, settings.batch_size, accumulate=settings.accumulate, seed=seed,
                             workers=settings.workers, counts=dict(self.counts))  # fmt: skip


class WrittenSource(PartSource):
    """Shuffled batches of rows that were written, of mixed lengths; their counts go into the metrics and the run's record."""

    def __init__(self, part: TokenRows, batch_size: int | str, *, counts: dict[str, int], **options: Any):
        super().__init__(part, batch_size, **options)
        self.counts = counts

    def summary(self) -> dict[str, float]:
        return {name: float(count) for name, count in self.counts.items()}
