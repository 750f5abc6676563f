"""Batches that models write while a student is trained: its own samples, a teacher's, old ones, or the data as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Part
from limbeck.data.generate import Answers, Sampler, Sampling, answered, picked, repeated, told
from limbeck.data.generate_models import find_ends, room, sampler_of
from limbeck.data.language_parts import prompts
from limbeck.errors import ArgumentError, DataError, DivergedError, ModelError
from limbeck.functional.pace import GenerationThreshold
from limbeck.objectives.weights import Weight, as_weight
from limbeck.signals.step import derive
from limbeck.teachers.base import Teacher, as_teacher
from limbeck.training.repair import repaired
from limbeck.training.rollout_rows import RolloutRows
from limbeck.training.rollouts import Rollout, documents, exchanged, log_probabilities
from limbeck.training.samples import Samples
from limbeck.training.sources import Models, PartSource

if TYPE_CHECKING:
    from limbeck.evaluation.checkers import Checker
    from limbeck.tasks.base import Task

Judge = Callable[[Rollout], Mapping[str, list[Tensor]]]


class OnPolicy(PartSource):
    """The prompts of a part, in shuffled batches, each batch answered by the student, by the teacher, or as in the data.

    Who answers is drawn for each step: the student with the probability `student`, the teacher with `teacher_share`, numbers
    or schedules of progress; else the batch is the data's. With a `threshold` (DistiLLM) the student's probability follows
    the validation loss, and batches may come from a buffer of old answers. `sampling`: how answers are drawn.
    `mix`: the teacher's share in the distribution that the student's answers are drawn from (MiniLLM). `repair`: each of the
    student's answers gets the teacher's token where the two differ most, and is written anew from there (see `repaired`).

    `answers` to each prompt, of which `batch_size` has so many fewer: `extra["group"]` numbers the prompts. A `checker`
    (prompt, answer, reference) -> float gives `extra["reward"]`. `score`: "old" and/or "teacher", whose log-probabilities of
    the answers' tokens come as `extra[name]` [batch, tokens], by the weights that wrote them. `judge` makes more such values
    from the whole step's rollout (advantages), as lists of one tensor for each row. `reuse`: steps on one rollout.
    `beside`: a part of which as many rows join each batch; the groups "own" and "given" tell the two apart (`Term.among`).

    A student's answer that is its end alone is kept: to stop is a choice, which a teacher or a reward must be able to correct.
    Unfinished ones are kept too, without an end that was never chosen. A teacher answers each prompt once; its empty and
    unfinished answers are left out, and a batch with none left is the data's. All is counted (`summary`), and the same for
    any number of micro-batches and processes. `store`: a JSON Lines file for the teacher's answers.
    """

    draws = True

    def __init__(self, part: Part, task: Task, batch_size: int | str, *, sampling: Sampling, student: float | Weight = 1.0,
                 teacher_share: float | Weight = 0.0, teacher: Any = None, mix: float = 0.0, repair: bool = False,
                 threshold: GenerationThreshold | None = None, answers: int = 1, checker: Checker | None = None,
                 score: tuple[str, ...] = (), judge: Judge | None = None, reuse: int = 1, beside: Part | None = None,
                 start: int | None = None, store: Path | None = None, accumulate: int = 1, seed: int = 0):  # fmt: skip
        rows = documents(part, start)
        count = len(rows) if batch_size == "all" else int(batch_size)
        if count % answers:
            raise ArgumentError(f"batch_size={count} is no multiple of answers={answers}, the answers to each prompt.")
        super().__init__(rows, count // answers, accumulate=accumulate, seed=seed)
        self.rows, self.task, self.sampling, self.teacher, self.mix = rows, task, sampling, teacher, mix
        self.student, self.teacher_share, self.threshold = as_weight(student), as_weight(teacher_share), threshold
        self.repair = repair
        self.follows = threshold is not None
        # as it begins: a stage's description does not change while it runs
        self.who = str(threshold or f"student {self.student}, teacher {self.teacher_share}")
        self.answers, self.checker, self.score, self.judge, self.reuse = answers, checker, score, judge, reuse
        self.beside = None if beside is None else documents(beside, whole=True)
        self.written = Samples(store, sampling)  # the teacher's
        self.buffer: Rollout | None = None
        self.current: tuple[int, Rollout] | None = None
        self.counts: Counter[str] = Counter()
        self.rewards = [0.0, 0.0]  # their sum and number since the last summary, whose mean is
        self.reward: float | None = None
        self._samplers: dict[int, Sampler] = {}
        self._check()
        assert self.steps_per_epoch is not None
        self.steps_per_epoch *= reuse

    def _check(self) -> None:
        asks = bool(self.mix or self.repair or "teacher" in self.score or not self.teacher_share.is_zero)
        if asks and self.teacher is None:
            raise ArgumentError("Answers are to be written or scored by a teacher, and there is none: give teacher=.")
        once = [self.answers > 1, self.checker is not None, bool(self.score), self.judge is not None, self.reuse > 1]
        if any(once) and (self.threshold is not None or not self.teacher_share.is_zero):
            raise ArgumentError(
                "Groups, rewards and scores are those of the student's own new answers: student=1.0 alone."
            )
        if self.reuse < 1 or self.answers < 1:
            raise ArgumentError(f"reuse={self.reuse}, answers={self.answers}: expected whole numbers of 1 or more.")

    def describe(self) -> str:
        more = {
            "answers": self.answers,
            "mix": self.mix,
            "repair": self.repair,
            "reuse": self.reuse,
            "score": self.score,
        }
        beside = "" if self.beside is None else f"; beside {self.beside.describe()}"
        return f"{super().describe()}; {self.who}; {self.sampling}; {more}{beside}"

    def models(self) -> list[Teacher | nn.Module]:
        return [self.teacher] if isinstance(self.teacher, Teacher | nn.Module) else []

    def scored(self, scores: Mapping[str, float]) -> None:
        if self.threshold is not None and "nll" in scores:
            self.threshold = self.threshold.after(scores["nll"])

    # a step
    def micro_batches(self, number: int, models: Models | None = None) -> list[Batch]:
        if not self._samplers:
            self._prepare(models or {})
        first = number - number % self.reuse  # the step of which everything is drawn
        if self.current is not None and self.current[0] == first:
            return self._rows(self.current[1], number)
        kind = self._kind(first)
        self.counts[f"steps_{kind}"] += 1
        if kind == "data":
            return super().micro_batches(first)
        try:
            rollout = getattr(self, f"_{kind}")(first, models or {})
        except ModelError as error:
            if "NaN" in str(error):
                raise DivergedError(f"The {kind} could not write answers at step {number}. {error}", number) from error
            raise
        if not len(rollout):
            self.counts["steps_without_answers"] += 1
            if self.rows.labels is None:
                raise DataError(
                    f"The teacher finished none of its answers to the prompts of step {number} within "
                    f"{self.sampling.max_new_tokens} tokens, and the data have none to take instead. Raise max_new_tokens."
                )
            return super().micro_batches(first)
        self.current = (first, rollout) if self.reuse > 1 else None
        return self._rows(rollout, number)

    def _rows(self, rollout: Rollout, number: int) -> list[Batch]:
        rows = RolloutRows(self.rows, rollout, self.answers, self.beside, self._generator("beside", number))
        return rows.micro_batches(self.accumulate, self.rank, self.processes)

    def positions(self, number: int) -> Tensor:
        assert self.steps_per_epoch is not None
        epoch, place = divmod(number // self.reuse, self.steps_per_epoch // self.reuse)
        return self._permutation("order", epoch, len(self.rows))[place * self.size : (place + 1) * self.size]

    def _kind(self, number: int) -> str:
        drawn = float(torch.rand((), generator=self._generator("kind", number)))
        if self.threshold is not None:
            kind = self.threshold.choose(drawn, self.progress, 0 if self.buffer is None else len(self.buffer))
            return {"generate": "student"}.get(kind, kind)
        student, teacher = (float(weight(self.progress)[0]) for weight in (self.student, self.teacher_share))
        return "student" if drawn < student else "teacher" if drawn < student + teacher else "data"

    def _generator(self, *purpose: object) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, *purpose))

    def _student(self, number: int, models: Models) -> Rollout:
        student = models["student"]
        places = self.positions(number).repeat_interleave(self.answers)
        asked = repeated(prompts(self.rows, self.positions(number)), self.answers)
        numbers = self.sampling.numbers(len(asked), self._generator("answers", number))
        mine = torch.arange(len(asked))[self.rank :: self.processes]
        found = Rollout(places[mine], Answers([], torch.zeros(0, dtype=torch.bool)))
        if len(mine):
            asked, numbers = picked(asked, mine), None if numbers is None else numbers[mine]
            found.answers = self._samplers[id(student)].generate(asked, self.sampling, numbers=numbers)
            if self.repair:
                again = self.sampling.numbers(len(places), self._generator("repair", number))
                found.answers, _ = repaired(
                    asked, found.answers, student, as_teacher(self.teacher), self.task, self._samplers[id(student)],
                    self.sampling, None if again is None else again[mine], self.rows.padding,
                )  # fmt: skip
        self._evaluate(found, asked, student)
        rollout = exchanged(found, self.rank, self.processes)
        self._count("student", rollout.answers)
        if rollout.rewards is not None:
            self.rewards = [self.rewards[0] + float(rollout.rewards.sum()), self.rewards[1] + len(rollout)]
        if self.judge is not None:
            rollout.tokens |= self.judge(rollout)
        if self.threshold is not None:
            kept = rollout if self.buffer is None else Rollout.joined([self.buffer, rollout])
            self.buffer = kept.select(torch.arange(len(kept))[-self.threshold.capacity :])
        return rollout

    def _evaluate(self, found: Rollout, asked: Batch, student: nn.Module) -> None:
        """Rewards, and log-probabilities by the weights of now, of this process's part."""
        if self.checker is not None:
            values = [float(self.checker(*texts)) for texts in self._texts(found.places, found.answers, student)]
            found.rewards = torch.tensor(values, dtype=torch.float32)
        for name in self.score:
            model = student if name == "old" else getattr(self.teacher, "module", self.teacher)
            found.tokens[name] = []
            if len(found):
                rows = answered(asked, found.answers, padding=self.rows.padding)
                found.tokens[name] = log_probabilities(model, self.task, rows)

    def _replay(self, number: int, models: Models) -> Rollout:
        assert self.buffer is not None
        order = torch.randperm(len(self.buffer), generator=self._generator("replay", number))
        return self.buffer.select(order[: self.size])

    def _teacher(self, number: int, models: Models) -> Rollout:
        places = self.positions(number)
        missing = torch.tensor([p for p in places.tolist() if p not in self.written], dtype=torch.int64)
        mine = missing[self.rank :: self.processes]
        found = Rollout(mine, Answers([], torch.zeros(0, dtype=torch.bool)))
        if len(mine):
            drawn = [self.sampling.numbers(1, self._generator("teacher", place)) for place in mine.tolist()]
            numbers = None if self.sampling.greedy else torch.cat([row for row in drawn if row is not None])
            found.answers = self._samplers[id(self.teacher)].generate(
                prompts(self.rows, mine), self.sampling, numbers=numbers
            )
        fresh = exchanged(found, self.rank, self.processes)
        self._count("teacher", fresh.answers)
        texts = self._texts(fresh.places, fresh.answers, models.get("student")) if self.written.path else []
        self.written.add(fresh, [] if self.rank else [(prompt, text) for prompt, text, _ in texts])
        return self.written.of(places)

    # what is needed for it
    def _prepare(self, models: Models) -> None:
        """Make the samplers, so that a prompt without room for an answer, or a model that cannot write, is found at once."""
        student = models["student"] if self.threshold is not None or not self.student.is_zero else None
        teacher = None if self.teacher_share.is_zero else self.teacher
        for model in (student, teacher):
            if model is None:
                continue
            ends = find_ends(self.rows, model, tokenizer=getattr(self.task, "tokenizer", None))
            mix = (self.teacher, self.mix) if self.mix and model is student else None
            inner = [getattr(each, "module", each) for each in (model, mix and mix[0])]
            room(inner, int(self.rows.prompts.max()), self.sampling)
            self._samplers[id(model)] = sampler_of(model, self.task, ends, mix=mix)

    def _texts(self, places: Tensor, answers: Answers, student: Any) -> list[tuple[str, str, str]]:
        """Prompt, answer and reference of documents as texts."""
        tokenizer = getattr(self.task, "tokenizer", None) or getattr(student, "tokenizer", None)
        ends = find_ends(self.rows, student, tokenizer=tokenizer)
        known = [told(self.rows, place, tokenizer, ends) for place in places.tolist()]
        return [(prompt, text, right) for (prompt, right), text in zip(known, answers.texts(tokenizer))]

    def _count(self, who: str, answers: Answers) -> None:
        for name, value in answers.counts().items():
            self.counts[f"{who}_{name}"] += value

    # what is kept of it
    def summary(self) -> dict[str, float]:
        """What was generated so far, and the mean reward between the last two evaluations."""
        found: dict[str, float] = dict(self.counts)
        if self.threshold is not None:
            found |= {"threshold": self.threshold.threshold, "buffered": 0 if self.buffer is None else len(self.buffer)}
        if self.written.left_out:
            found["teacher_left_out"] = self.written.left_out
        if self.rewards[1]:
            self.reward, self.rewards = self.rewards[0] / self.rewards[1], [0.0, 0.0]
        return found if self.reward is None else {**found, "reward": self.reward}

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts), "rewards": list(self.rewards), "reward": self.reward,
            "written": self.written.state_dict(),
            "threshold": None if self.threshold is None else self.threshold.to_dict(),
            "buffer": None if self.buffer is None else self.buffer.state_dict(),
            "current": None if self.current is None else [self.current[0], self.current[1].state_dict()],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.rewards = Counter(state["counts"]), list(state["rewards"])
        self.reward = state["reward"]
        self.written.load_state_dict(state["written"])
        if self.threshold is not None:
            self.threshold = GenerationThreshold.from_dict(state["threshold"])
        self.buffer = None if state["buffer"] is None else Rollout.of(state["buffer"])
        self.current = None if state["current"] is None else (state["current"][0], Rollout.of(state["current"][1]))
