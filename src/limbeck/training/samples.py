"""A teacher's answers, one to each prompt: written once, kept, and stored as a file that can be trained on elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.generate import Answers, Sampling
from limbeck.errors import RunError
from limbeck.training.rollouts import Rollout


class Samples:
    """The answers to documents by their numbers. Empty and unfinished ones are remembered, and left out of what is trained.

    `path`: a JSON Lines file of prompt, response and how it was sampled, one line for each answer that is trained on; it can
    be given as data=. After a resumed run it holds what the uninterrupted run's would.
    """

    def __init__(self, path: Path | None, sampling: Sampling):
        self.path, self.sampling = path, sampling
        self.known: Rollout | None = None
        self.row: dict[int, int] = {}  # of documents
        self.left_out = 0
        self.lines: list[str] = []

    def __contains__(self, place: int) -> bool:
        return place in self.row

    def add(self, fresh: Rollout, texts: Sequence[tuple[str, str]]) -> None:
        """Answers that are new, and prompts and answers as texts for the file, if this process writes it."""
        if not len(fresh):
            return
        good = fresh.answers.finished & ~fresh.answers.empty
        self.left_out += int((~good).sum())
        start = 0 if self.known is None else len(self.known)
        self.known = fresh if self.known is None else Rollout.joined([self.known, fresh])
        self.row |= {place: start + number for number, place in enumerate(fresh.places.tolist())}
        how = {**asdict(self.sampling), "finished": True}
        lines = [
            json.dumps({"prompt": prompt, "response": answer, "document": place, "sampling": how}, ensure_ascii=False)
            for (prompt, answer), place, kept in zip(texts, fresh.places.tolist(), good.tolist()) if kept
        ]  # fmt: skip
        self._write(lines, anew=not self.lines)
        self.lines += lines

    def _write(self, lines: list[str], anew: bool) -> None:
        if self.path is None or not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w" if anew else "a", encoding="utf-8") as file:
                file.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise RunError(f"The teacher's answers could not be written to {self.path}: {error.strerror}.") from error

    def of(self, places: Tensor) -> Rollout:
        """The answers to documents that can be trained on: all that are finished and say something."""
        assert self.known is not None
        found = self.known.select(torch.tensor([self.row[place] for place in places.tolist()], dtype=torch.int64))
        return found.select((found.answers.finished & ~found.answers.empty).nonzero()[:, 0])

    def state_dict(self) -> dict[str, Any]:
        known = None if self.known is None else self.known.state_dict()
        return {"known": known, "left_out": self.left_out, "lines": list(self.lines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.known = None if state["known"] is None else Rollout.of(state["known"])
        places = [] if self.known is None else self.known.places.tolist()
        self.row = {place: number for number, place in enumerate(places)}
        self.left_out, self.lines = state["left_out"], list(state["lines"])
        self._write(self.lines, anew=True)


__all__ = ["Answers", "Samples"]
