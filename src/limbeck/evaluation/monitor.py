"""Watches a training for teacher hacking: the distances to teacher and truth, at steps that suit a logarithmic axis."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.data.base import Part
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.hacking import hacking
from limbeck.tasks.base import Task

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.loop import Loop
    from limbeck.training.metrics import Metrics

Record = dict[str, Any]
FEWEST = 16  # held-out samples below which nobody is watched who has not asked for it
GROWTH = 1.25  # of the steps between measurements, while training is young or of unknown length


class Monitor:
    """A watcher of a loop. `part`: held-out samples; `oracle`: the truth, or None for the part's labels or text; `warmup`:
    the share of the steps with a rising learning rate.

    What it measures goes into metrics.jsonl as {"stage", "step", "monitor": {name: value, ...}}, which is all its state.
    """

    def __init__(self, task: Task, part: Part, teacher: Any, oracle: Any = None, warmup: float = 0.0):
        self.task, self.part, self.teacher, self.oracle, self.warmup = task, part, teacher, oracle, warmup

    def step(self, loop: Loop) -> None:
        if loop.rank == 0 and due(loop.number, loop.total):
            self._measure(loop)

    def _measure(self, loop: Loop) -> None:
        try:
            proxy, golden = self.task.distances(loop.candidate, self.part, self.teacher, self.oracle)
        except ModelError:  # its outputs are no numbers any more: the loop says so, with the way out
            return
        found = {"proxy": proxy[1], "golden": golden[1], "names": [proxy[0], golden[0]]}
        loop.metrics.add({"stage": loop.index, "step": loop.number, "monitor": found})

    def record(self, metrics: Metrics) -> Record | None:
        """The curve of the last stage that was followed, and what it says; None where nothing was measured."""
        rows = [record for record in metrics.records if "monitor" in record]
        rows = [record for record in rows if record["stage"] == rows[-1]["stage"]]
        if not rows:
            return None
        curves = {name: [record["monitor"][name] for record in rows] for name in ("proxy", "golden")}
        steps, truth = [record["step"] for record in rows], self.truth
        finding = hacking(steps, **curves, start=self.warmup * steps[-1])
        names = rows[-1]["monitor"]["names"]
        return {
            "step": steps, **curves, "names": names, "truth": truth, "part": self.part.name,
            "finding": asdict(finding), "alarm": finding.alarm, "sentence": finding.sentence(truth),
        }  # fmt: skip

    @property
    def truth(self) -> str:
        """What the golden distance is to, in words."""
        kind = "text" if self.task.tokenized else "labels"
        return "the oracle" if self.oracle is not None else f"the held-out {kind}"


def make_monitor(job: Job, asked: bool | None = None, oracle: Any = None) -> Monitor | None:
    """The monitor of a job, or None. `asked` None: for language models that learn from a module and have 16 held-out samples,
    and wherever there is an oracle.

    Raises ArgumentError where one was asked for and there is nothing to follow. It is tried on two samples before training.
    """
    from limbeck.data.splits import take
    from limbeck.teachers.base import ModuleTeacher, as_teacher

    part, module = job.data.parts.get("valid"), isinstance(job.teacher, ModuleTeacher)
    there = part is not None and len(part) > 0 and (oracle is not None or bool(part.is_labelled().any()))
    enough = there and len(part) >= FEWEST  # type: ignore[arg-type]
    wanted = oracle is not None or (asked if asked is not None else job.task.tokenized and module and enough)
    if not wanted:
        return None
    named = "oracle=" if oracle is not None else "monitor=true"
    if asked is False:
        raise ArgumentError("monitor=false and oracle= contradict each other: an oracle is for the monitor alone.")
    if job.teacher is None:
        raise ArgumentError(f"{named} follows the student's distance to its teacher: give teacher=.")
    if part is None or not there:
        raise ArgumentError(f"{named} needs held-out samples, with labels where there is no oracle: give valid=0.1.")
    if not job.teacher.covers(part):
        raise ArgumentError(
            f"{named}: the stored teacher has no signals of the valid part. Store it with parts=[train,valid]."
        )
    if oracle is None and not bool((known := part.is_labelled()).all()):
        part = take(part, known.nonzero()[:, 0], part.name)
    teacher, truth = (each.module if isinstance(each, ModuleTeacher) else each
                      for each in (job.teacher, None if oracle is None else as_teacher(oracle)))  # fmt: skip
    monitor = Monitor(job.task, part, teacher, truth, job.settings.warmup)
    if isinstance(truth, nn.Module):
        _check_tokens(job.task, truth)
        job.task.check(job.data, {"oracle": truth})
    if asked or oracle is not None:
        job.task.distances(job.student, part, teacher, truth, most=2)
    return monitor


def _check_tokens(task: Task, oracle: nn.Module) -> None:
    """An oracle with another tokenizer speaks of other tokens."""
    own, theirs = getattr(task, "tokenizer", None), getattr(oracle, "tokenizer", None)
    if own is not None and theirs is not None and own.get_vocab() != theirs.get_vocab():
        raise ArgumentError(
            "The oracle's tokenizer is not the one of the data, so that its probabilities are of other tokens. Give an oracle "
            "with the student's tokenizer, or none: the held-out text is then taken for the truth."
        )


def due(number: int, total: int | None) -> bool:
    """Whether to measure after step `number` of `total`: at steps that grow by a quarter, from 1/100 to 1/5 of the way, and at
    each twentieth of the way and at the end; where the length is not known, at steps that grow by a quarter from 8 on."""
    if total is not None and (number == total or number * 20 // total > (number - 1) * 20 // total):
        return True
    first = 8 if total is None else max(1, total // 100)
    if number < first or (total is not None and number * 5 > total):
        return False
    place = math.floor(math.log(number / first) / math.log(GROWTH) + 1e-9)
    return number == math.ceil(first * GROWTH**place - 1e-9)
