"""What holds around a whole stage: teachers in eval mode, and a Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from limbeck.evaluation.modes import eval_mode
from limbeck.teachers.base import ModuleTeacher


@contextlib.contextmanager
def teaching(teachers: Iterable[ModuleTeacher]) -> Iterator[None]:
    """Teachers in eval mode for the whole stage, so that no step has to see to it."""
    teachers = list(teachers)
    with contextlib.ExitStack() as modes:
        for teacher in teachers:
            modes.enter_context(eval_mode(teacher.running))
            teacher.settled = True
        try:
            yield
        finally:
            for teacher in teachers:
                teacher.settled = False


class Stop:
    """Ctrl-C and SIGTERM set `asked`, so that the loop ends after its step, with a checkpoint; a second Ctrl-C at once."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
