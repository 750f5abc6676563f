"""A progress bar on the terminal: step, loss, score, time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip


@contextlib.contextmanager
def counting(title: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """A function of (done, total) that moves a bar, while this is open; None where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


class ProgressBar:
    """Watches a loop. Silent where standard error is no terminal, unless `always`."""

    def __init__(self, title: str = "", always: bool = False):
        self.title, self.shown = title, always or sys.stderr.isatty()
        self._bar: Any = None
        self._score = ""

    def begin(self, loop: Any) -> None:
        if not self.shown or loop.rank != 0:
            return
        self._bar = _bar()
        name = " ".join(filter(None, (self.title, loop.stage.name if loop.stage.name != "train" else "")))
        self._task = self._bar.add_task(name or "train", total=loop.total, completed=loop.number, note="")
        self._bar.start()

    def step(self, loop: Any) -> None:
        if self._bar is not None and loop.number % loop.settings.log_every == 0:
            self._bar.update(self._task, completed=loop.number, note=self._score)

    def scored(self, loop: Any, scores: dict[str, float]) -> None:
        name = loop.settings.best if loop.settings.best in scores else loop.stage.task.best[0]
        if name in scores:
            self._score = f"{name} {scores[name]:.4f}"

    def end(self, loop: Any) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Tracking:
    """Sends losses and scores to Accelerate's trackers (TensorBoard, MLflow, W&B)."""

    def __init__(self, accelerator: Any, config: dict[str, Any]):
        self.accelerator, self.begun = accelerator, False
        # trackers take plain values only; TensorBoard refuses lists
        self.config = {key: value for key, value in config.items() if isinstance(value, int | float | str | bool)}
        self.seen = self.before = 0

    def begin(self, loop: Any) -> None:
        if not self.begun:  # not before the run has taken its folder, where TensorBoard's files go
            self.accelerator.init_trackers("limbeck", config=self.config)
            self.begun = True
        # a resumed run has sent what was logged; steps are counted on over the stages
        self.seen, self.before = len(loop.metrics.records), loop.metrics.before(loop.index)

    def step(self, loop: Any) -> None:
        records = loop.metrics.records[self.seen :]
        self.seen = len(loop.metrics.records)
        for record in records:
            if "terms" in record:
                values = {f"{record['learner']}/{name}": value for name, value in record["terms"].items()}
                self.accelerator.log({**values, "rate": record["rate"]}, step=record["step"] + self.before)

    def scored(self, loop: Any, scores: dict[str, float]) -> None:
        self.accelerator.log({f"valid/{name}": value for name, value in scores.items()}, step=loop.number + self.before)

    def end(self, loop: Any) -> None:
        self.step(loop)  # the last steps are logged when the stage ends
