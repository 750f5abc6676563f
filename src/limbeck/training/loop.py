"""The loop: probe once, then read, compare, learn, until the stage's length is reached."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch
from limbeck.errors import DivergedError, Interrupted, ModelError, RunError
from limbeck.shards import local
from limbeck.signals.step import Ref, Step, derive
from limbeck.students.adapters import has_adapters, weights_print
from limbeck.teachers.base import ModuleTeacher
from limbeck.teachers.live import Average, Moving
from limbeck.training.around import Stop, teaching
from limbeck.training.best import Best
from limbeck.training.checkpoint import Checkpoints
from limbeck.training.gathering import gatherer, populations
from limbeck.training.learner import Learner, check_terms
from limbeck.training.ledger import Ledger, add_logs, check_finite
from limbeck.training.metrics import Metrics
from limbeck.training.optimizers import make_optimizers, set_rate, split
from limbeck.training.placement import place
from limbeck.training.probing import probe
from limbeck.training.recompute import recompute
from limbeck.training.stage import Result, Stage
from limbeck.training.state import rest_of, restore, weights_of

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
Watcher = Any  # an object with any of: begin(loop), step(loop), scored(loop, scores), end(loop)


class Loop:
    """One stage being run. `number` counts finished optimizer steps."""

    def __init__(self, stage: Stage, accelerator: Accelerator, *, index: int = 0, metrics: Metrics | None = None,
                 folder: Path | None = None, watchers: tuple[Watcher, ...] = (), checkpoint_seconds: float = 30.0):  # fmt: skip
        self.stage, self.accelerator, self.index = stage, accelerator, index
        self.settings, self.learners = stage.settings, stage.learners
        self.metrics = metrics or Metrics()
        self.checkpoints = Checkpoints(folder) if folder else None
        self.checkpoint_seconds = checkpoint_seconds
        self.watchers = watchers
        self.device = accelerator.device
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.number, self.samples, self.tokens = 0, 0.0, 0.0
        self.best = Best(stage.settings, stage.task.best)
        self.last_scores: dict[str, float] = {}
        self.ledger = Ledger(self.metrics, self.settings, accelerator, index)
        self.stop = Stop()
        self.prepare()

    # before the first step
    def prepare(self) -> None:
        """Probe with one batch, make what learns, its optimizers, and wrap the learners."""
        stage, settings = self.stage, self.settings
        stage.source.place(self.rank, self.processes)
        self.movers = {role: teacher for role, teacher in stage.teachers.items() if isinstance(teacher, Moving)}
        self.averaged = Average(stage.keep, settings.ema) if settings.ema else None
        moving = [*self.movers.values(), *([self.averaged] if self.averaged else [])]
        for mover in moving:
            mover.follow({name: learner.module for name, learner in self.learners.items()})
        self.placement = place(self.accelerator, settings)
        self.placement.take(stage, [mover.inner for mover in moving if mover.inner is not None])
        self.modules: dict[str, nn.Module] = {name: learner.module for name, learner in self.learners.items()}
        self.probed = self._inside(lambda: probe(stage, self.modules, self.device))
        self.reading = self.probed.reading
        # checkpoints leave the frozen weights under adapters out, and know them by this
        self.frozen = {
            name: weights_print(learner.module, frozen=True)
            for name, learner in self.learners.items()
            if self.checkpoints and has_adapters(learner.module)
        }
        for learner in self.learners.values() if settings.checkpointing else ():
            recompute(learner.module)
        check_terms(self.learners, settings)
        for learner in self.learners.values():
            self.placement.finish_learner(learner)
        for learner in self.learners.values():
            learner.train()  # a wrapper may say that it is in train mode when what it wraps is not
        self.optimizers = {name: make_optimizers(learner, settings) for name, learner in self.learners.items()}
        self.parameters = {
            name: [p for p in learner.parameters() if p.requires_grad] for name, learner in self.learners.items()
        }
        self._clipped = {
            name: [p for group in split(learner)[:2] for p in group] for name, learner in self.learners.items()
        }
        self.wrapped = {
            # a head above the last tap, or a learner read by others only, has parameters that get no gradient
            name: self.placement.wrap(
                learner, len(self.learners) > 1 or not set(stage.task.outputs) & {ref.tap for ref in learner.needs()}
            )
            for name, learner in self.learners.items()
        }
        self.scaler = torch.amp.GradScaler(self.device.type) if settings.precision == "fp16" else None
        # frozen modules inside a learner's graph must not collect gradients, nor a critic its student's
        self._bounded = len(self.learners) > 1 or bool(stage.derived)
        each = stage.source.steps_per_epoch
        self.total = settings.length(each)
        if self.total is not None:
            each = min(each or self.total, max(1, self.total))
            each = max(each, self.total // 20, 1)
        self.evaluate_every = settings.evaluate_every or each or 100

    def _inside(self, run: Callable[[], T]) -> T:
        """Run something that calls the learners' modules outside of their own passes."""
        more = [self.averaged.module] if self.averaged else []
        return self.placement.inside(run, [*self.modules.values(), *more])

    @property
    def progress(self) -> float:
        """From 0 at the first step to 1 at the end."""
        if self.total is not None:
            return self.number / self.total if self.total else 1.0
        s = self.settings
        return min(1.0, self.samples / s.samples if s.samples is not None else self.tokens / (s.tokens or 1))

    @property
    def candidate(self) -> nn.Module:
        """What would be kept if the stage ended now: the kept learner's module, or its average."""
        return self.averaged.module if self.averaged else self.modules[self.stage.keep]

    # the steps
    def run(self, resume: bool = False) -> Result:
        """Train to the end of the stage (from the newest checkpoint when resuming) and return its result."""
        begun = time.perf_counter()
        if resume and self.checkpoints:
            restore(self)
        self._tell("begin")
        self._saved_at = time.monotonic()
        try:
            self._steps()
        except DivergedError as error:
            kept = self._last_good(error.step)
            half = self.settings.precision
            rounded = f", or precision='no' instead of {half!r}" if half != "no" else ""
            raise DivergedError(
                f"{error} {kept} Try a lower learning_rate, or clip=1.0{rounded}.", error.step
            ) from None
        self.finish()
        self._tell("end")
        return Result(self.modules[self.stage.keep], self.modules, self.last_scores, self.number,
                      time.perf_counter() - begun, self.stage.source.summary())  # fmt: skip

    def _steps(self) -> None:
        with self.stop.listening(), self.teaching():
            if self.stage.source.follows and self.number == 0 and self.stage.evaluate is not None:
                evaluate, module = self.stage.evaluate, self.modules[self.stage.keep]
                self.stage.source.scored(self._inside(lambda: evaluate(module)))
            batches = self.batches()
            done = self.progress >= 1
            while not done:
                self.stage.source.progress = self.progress
                self.step(next(batches))
                done = self.progress >= 1
                if self.number % self.evaluate_every == 0 or done:
                    done = self.evaluate() or done
                self._maybe_save()
        self.ledger.flush()

    def teaching(self) -> contextlib.AbstractContextManager[None]:
        """Teachers in eval mode while this is open: around steps that are not made by `run`."""
        teachers = [teacher for teacher in self.stage.teachers.values() if isinstance(teacher, ModuleTeacher)]
        return teaching([*teachers, *(mover.inner for mover in self.movers.values() if mover.inner is not None)])

    def batches(self) -> Iterator[list[Batch]]:
        """The steps still to do. The probe's batch is that of step 0, so that a source is asked for it once."""
        first, self.probed.batches = self.probed.batches, None
        if self.number == 0 and first is not None:
            yield first
            yield from self.stage.source.iterate(1, self.modules)
        yield from self.stage.source.iterate(self.number, self.modules)

    def step(self, batches: list[Batch]) -> None:
        """One optimizer step of every learner whose turn it is."""
        number, settings = self.number, self.settings
        self._reseed(number)
        batches = [batch.to(self.device) for batch in batches]
        counts, shares = populations(batches, self.accelerator)
        progress = self.progress
        turn = [learner for learner in self.learners.values() if learner.in_turn(number)]
        for learner in turn:
            set_rate(self.optimizers[learner.name], settings.rate(progress))
            if not learner.module.training:
                learner.train()
        logs: dict[str, dict[str, Tensor]] = {}
        for micro, batch in enumerate(batches):
            last = micro == len(batches) - 1
            seed = settings.seed if micro == self.rank == 0 else derive(settings.seed, "micro", micro, self.rank)
            step = Step(batch, progress, number, seed, counts, shares[micro], self.modules, processes=self.processes)
            if self.processes > 1:
                step.gather = gatherer(batch.weight, self.processes)
            with contextlib.ExitStack() as stack:
                for learner in turn:
                    stack.enter_context(self.placement.together(self.wrapped[learner.name], last))
                self.read(step, turn, first=number == 0 and micro == 0)
                for learner in turn:
                    loss, values = self._loss(learner, step, len(turn))
                    self._backward(learner, loss)
                    add_logs(logs, learner.name, loss.detach(), values)
        if self.device.type == "cpu" and self.processes == 1:
            check_finite(number, logs)  # before the step: the weights are still good
        self._update(turn)
        for learner in turn:
            if learner.objective.follows:
                learner.objective.hear(self._whole(logs[learner.name]), progress)
        for mover in self.movers.values():
            mover.update(self.modules, number)
        if self.averaged and self.learners[self.stage.keep].in_turn(number):
            self.averaged.update(self.modules, number)
        self.samples += counts.get("sample", 0.0)
        self.tokens += counts.get("token", 0.0)
        self.number += 1
        self.ledger.add(number, progress, logs)
        decided = self.stage.source.decided()
        if decided and self.rank == 0:
            self.metrics.add({"stage": self.index, "step": number, **decided})
        if self.watchers:
            self._tell("step")

    def read(self, step: Step, turn: list[Learner], first: bool = False) -> None:
        """Signals of teachers, and of learners that others look at; each module runs once."""
        for role, taps in self.reading.teachers.items():
            known = self.probed.signals.pop(role, None) if first else None
            teacher = self.stage.teachers[role]
            if known is None:
                with self.reading.autocast():
                    known = teacher.read(step.batch, taps, self.stage.task, progress=step.progress)
            step.put(role, known)
        if len(self.learners) == 1:
            return
        for name, learner in self.learners.items():
            if not self.reading.watchers.get(name, set()) & {other.name for other in turn}:
                continue
            if learner in turn:
                self.wrapped[name](step, self.reading, True)
            else:
                with torch.no_grad():
                    self.wrapped[name](step, self.reading, True)

    def _loss(self, learner: Learner, step: Step, many: int) -> tuple[Tensor, dict[str, Tensor]]:
        if len(self.learners) > 1:  # what belongs to another learner reaches this one detached
            step = step.seen_by(learner.name, set(self.learners))
        return self.wrapped[learner.name](step, self.reading)

    def _backward(self, learner: Learner, loss: Tensor) -> None:
        if self.processes > 1:
            loss = loss * self.processes  # DDP averages; the losses of the processes are parts of one sum
        if self.scaler:
            loss = self.scaler.scale(loss)
        inputs = self.parameters[learner.name] if self._bounded else None
        if not loss.requires_grad:
            raise RunError(f"The loss of {learner.name!r} does not depend on anything that it trains.")
        loss.backward(inputs=inputs)

    def _update(self, turn: list[Learner]) -> None:
        self.placement.settle()
        for learner in turn:
            for optimizer in self.optimizers[learner.name]:
                if self.scaler:
                    self.scaler.unscale_(optimizer)
            if self.settings.clip is not None:
                nn.utils.clip_grad_norm_(self._clipped[learner.name], self.settings.clip)
            for optimizer in self.optimizers[learner.name]:
                if self.scaler:
                    self.scaler.step(optimizer)
                else:
                    optimizer.step()
            for parameter in self.parameters[learner.name]:  # what zero_grad does, without its bookkeeping
                parameter.grad = None
        if self.scaler:
            self.scaler.update()

    def _whole(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The values of a learner's terms over all processes."""
        values = torch.stack([value.double() for value in terms.values()])
        if self.processes > 1:
            values = self.accelerator.reduce(values, "sum")
        return dict(zip(terms, values.tolist(), strict=True))

    def _reseed(self, number: int) -> None:
        # every draw of a step follows from (seed, step, rank): a resumed run draws what the uninterrupted one drew
        seed = derive(self.settings.seed, "global", number, self.rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)

    # what is measured on the way
    def _last_good(self, step: int) -> str:
        """Where the last good weights are, saved now if they are still in memory."""
        if not self.checkpoints:
            return "Nothing was saved because the run has no folder."
        if step == self.number and self._finite():  # the step was not taken
            self.ledger.waiting.clear()
            self.save()
        steps = self.checkpoints.steps()
        if not steps:
            return "No checkpoint had been written yet."
        kept = f"The last checkpoint with finite weights is {self.checkpoints.folder}/step-{steps[-1]:08d}"
        return f"{kept}, the one before it step-{steps[-2]:08d}." if len(steps) > 1 else f"{kept}."

    def _finite(self) -> bool:
        good = [bool(local(p).isfinite().all()) for learner in self.learners.values() for p in learner.parameters()]
        broken = torch.tensor(float(not all(good)), device=self.device)
        return float(self.accelerator.reduce(broken, "sum") if self.processes > 1 else broken) == 0

    def evaluate(self) -> bool:
        """Score the kept learner; returns whether the stage should end early."""
        self.ledger.flush()
        made = self.stage.source.summary()
        if made and self.rank == 0:
            self.metrics.add({"stage": self.index, "step": self.number, "generated": made})
        if self.stage.evaluate is None:
            return False
        module, evaluate = self.candidate, self.stage.evaluate
        try:
            scores = self._inside(lambda: evaluate(module))
        except ModelError as error:  # after finite losses: the last updates blew the weights up
            raise DivergedError(
                f"{self.stage.keep!r} cannot be evaluated after step {self.number}: {error}", self.number - 1
            ) from error
        self.last_scores = scores
        if self.rank == 0:
            self.metrics.add({"stage": self.index, "step": self.number, "scores": scores})
        self.stage.source.scored(scores)
        self._tell("scored", scores)
        return self.best.offer(scores, module, self.number)

    def finish(self) -> None:
        """Put the kept weights into the kept learner's module, and every module into eval mode."""
        module = self.modules[self.stage.keep]
        self.placement.settle()
        if self.averaged:
            module.load_state_dict(self.averaged.module.state_dict())
        self.best.put_into(module)
        for each in self.modules.values():
            recompute(each, on=False)
        self.give_back()
        for each in self.modules.values():
            each.eval()

    def give_back(self) -> None:
        """The learners' modules are those that the stage was given, and whole."""
        self.placement.give_back(self.learners.values())
        self.modules = {name: learner.module for name, learner in self.learners.items()}

    # saving
    def save(self) -> None:
        """Write a checkpoint of the finished steps."""
        self.ledger.flush()
        if self.checkpoints and (self.rank == 0 or self.placement.sharded):
            weights, rest = weights_of(self), rest_of(self)
            if self.rank == 0:
                self.checkpoints.save(self.number, weights, self.best.weights, rest)
        self._saved_at = time.monotonic()

    def _maybe_save(self) -> None:
        every = self.settings.checkpoint_every
        due = self.number % every == 0 if every else time.monotonic() - self._saved_at > self.checkpoint_seconds
        stop = self.stop.asked
        if self.processes > 1:  # processes decide together, and not at every step
            if self.number % self.settings.log_every and not every:
                return
            asked = self.accelerator.reduce(torch.tensor([float(due), float(stop)], device=self.device), "sum")
            due, stop = bool(asked[0] > 0), bool(asked[1] > 0)
        if self.checkpoints and due:
            self.save()
        if stop:
            self.save()
            where = f"Saved after step {self.number}; run the same command with resume=true to go on."
            if not self.checkpoints:
                where = "The run has no folder, so that nothing was saved; give out= to keep what is done."
            raise Interrupted(f"Stopped. {where}")

    def _tell(self, event: str, *values: Any) -> None:
        for watcher in self.watchers:
            method = getattr(watcher, event, None)
            if method is not None:
                method(self, *values)


__all__ = ["Loop", "Ref"]
