"""Several trainings that take their steps in turn, so that what a teacher says of a batch is read once for all of them.

    teacher = shared(teacher)
    results = Lockstep({"kd": lambda turn: distill("kd", teacher=teacher, watchers=[turn], ...), "dkd": ...}).run()

Each training has a thread of its own, and only one thread runs at a time: it is handed on after every step. What a step draws
follows from its seed and number alone, so each training is what it would be by itself.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data.base import Batch
from limbeck.errors import Interrupted
from limbeck.tasks.base import Task
from limbeck.teachers.base import Teacher

REMEMBERED = 4  # batches of which the teacher's signals are kept: trainings of several lengths drift apart


class Turn:
    """One training's place in the order; a watcher of its loops.

    `seconds`: what it took, without waiting; `teaching`: how much of that a shared teacher read.
    """

    def __init__(self, name: str):
        self.name, self.steps, self.seconds, self.teaching = name, 0, 0.0, 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = self.stopping = False
        self._mine, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._since = 0.0

    def step(self, loop: Any) -> None:
        """Hand on after a step of a loop."""
        self.steps += 1
        self.seconds += time.perf_counter() - self._since
        self._back.release()
        self._mine.acquire()
        self._since = time.perf_counter()
        if self.stopping:
            loop.stop.asked = True  # it saves and ends

    def start(self, job: Callable[[Turn], Any]) -> None:
        """Begin the job, up to its first step or its end."""

        def work() -> None:
            self._mine.acquire()
            self._since = time.perf_counter()
            try:
                self.result = job(self)
            except BaseException as error:  # it is the others' business too, whatever it is
                self.error = error
            self.seconds += time.perf_counter() - self._since
            self.over = True
            self._back.release()

        threading.Thread(target=work, name=f"limbeck {self.name}", daemon=True).start()

    def go(self) -> None:
        """Let it take one step."""
        self._mine.release()
        self._back.acquire()


class Lockstep:
    """Jobs by name, each a function of its `Turn`, which it gives to its training as a watcher.

    `progress(name, step)` is told of each step. `reads`: of the teacher that they share.
    """

    def __init__(self, jobs: Mapping[str, Callable[[Turn], Any]], progress: Callable[[str, int], None] | None = None,
                 reads: Reads | None = None):  # fmt: skip
        self.jobs, self.progress, self.reads = jobs, progress, reads or Reads()
        self.turns = {name: Turn(name) for name in jobs}
        self._asked = 0

    def run(self) -> dict[str, Turn]:
        """Run all to their ends. A training that fails leaves the others at work; its error stands in its turn.

        Ctrl-C and SIGTERM let every training save and end, and then raise Interrupted; a second Ctrl-C ends at once.
        """
        before = self._listen()
        try:
            for name, turn in self.turns.items():
                turn.start(self.jobs[name])
            waiting = list(self.turns.values())
            while waiting:
                for turn in waiting:
                    turn.stopping = bool(self._asked)
                    before_it = self.reads.seconds
                    turn.go()
                    turn.teaching += self.reads.seconds - before_it
                    if self.progress is not None:
                        self.progress(turn.name, turn.steps)
                waiting = [turn for turn in waiting if not turn.over]
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        stopped = [turn.error for turn in self.turns.values() if isinstance(turn.error, Interrupted)]
        if stopped:
            raise stopped[0]
        return self.turns

    def _listen(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: Any) -> None:
        self._asked += 1
        if self._asked > 1:
            raise KeyboardInterrupt


class Reads:
    """What a shared teacher did: `passes` over batches, `asked` how often it was asked, the `seconds` of its passes."""

    def __init__(self) -> None:
        self.passes = self.asked = 0
        self.seconds = 0.0


def shared(teacher: Teacher) -> Reads:
    """Let a teacher remember what it said of the last batches; returns what it does from now on.

    A batch is the same where its samples, views and inputs are. All signals that anyone has asked for so far are read at once.
    """
    reads, known, every = Reads(), OrderedDict[Any, tuple[Any, dict[str, Any]]](), dict[str, None]()
    read = teacher.read

    def remembering(
        batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0, **options: Any
    ) -> dict[str, Any]:
        if options.get("replace") is not None:
            return read(batch, taps, task, progress=progress, **options)
        reads.asked += 1
        every.update(dict.fromkeys(taps))
        key = (_bytes(batch.ids), _bytes(batch.view), torch.is_autocast_enabled(batch.ids.device.type))
        found = known.get(key)
        if found is None or not set(taps) <= set(found[1]) or not _equal(found[0], batch.inputs):
            begun = time.perf_counter()
            found = (batch.inputs, read(batch, list(every), task, progress=progress, **options))
            reads.seconds += time.perf_counter() - begun
            reads.passes += 1
            known[key] = found
            known.move_to_end(key)
            while len(known) > REMEMBERED:
                known.popitem(last=False)
        return {tap: found[1][tap] for tap in taps}

    teacher.read = remembering  # type: ignore[method-assign]
    return reads


def _bytes(values: Tensor | None) -> bytes | None:
    return None if values is None else values.cpu().numpy().tobytes()


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and (one is two or torch.equal(one, two))
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    return bool(one == two)
