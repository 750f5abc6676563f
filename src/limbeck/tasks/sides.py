"""Student and teacher with different tokenizers: whose tokens a module reads, and what both can be compared on."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs
from limbeck.data.token_bytes import TokenBytes, same_tokens
from limbeck.errors import ModelError, SignalError
from limbeck.functional.alignment import chunk_sums
from limbeck.functional.core import UNLABELLED
from limbeck.signals.scores import label_log_probabilities
from limbeck.tasks.text import tokenizer_of


class Sides:
    """The tokenizers of "student" and "teacher", where they differ, and which modules read whose tokens.

    A module that has a tokenizer is on that side; one without is on the teacher's once it was one.
    """

    def __init__(self) -> None:
        self.tokenizers: dict[str, Any] = {}
        self._known: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._sizes: dict[str, Tensor | None] = {}

    def set(self, student: Any, teacher: Any) -> None:
        """`teacher` is None where it has the student's tokenizer, or none."""
        self.tokenizers = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
        self._sizes = {}
        self._known.clear()

    def of(self, module: nn.Module | None, role: str) -> str:
        """ "student" or "teacher": whose tokens this module reads."""
        side = "teacher" if role.partition("/")[0] == "teacher" else "student"
        if module is None or module in self._known:
            return side if module is None else self._known[module]
        own, theirs = tokenizer_of(module), self.tokenizers.get("teacher")
        told = theirs is not None and hasattr(own, "get_vocab")
        if told:
            side = "teacher" if same_tokens(own, theirs) else "student"
        if told or side == "teacher":
            self._known[module] = side
        return side

    def inputs(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        """What this module sees of a batch of token ids."""
        if self.of(module, role) == "student" or ("twin" not in batch.extra and "teacher" not in self.tokenizers):
            return batch.inputs
        if "twin" not in batch.extra:
            raise SignalError(
                "The teacher has another tokenizer than the student, and this batch holds the student's tokens only. Use a "
                "recipe that compares given texts (alm, uld), or a student that has the teacher's tokenizer."
            )
        return batch.extra["twin"]["inputs"]

    def vocabulary(self, module: nn.Module | None, known: int | None) -> int | None:
        """How many tokens the tokenizer of a module knows; `known` is the student's."""
        theirs = self.tokenizers.get("teacher")
        if theirs is None or module is None or self._known.get(module) != "teacher":
            return known
        return max(theirs.get_vocab().values()) + 1

    def bytes(self, labels: Tensor, side: str) -> int | None:
        """How many bytes of text the labelled tokens are; None where the tokenizer is not known."""
        if side not in self._sizes:
            tokenizer = self.tokenizers.get(side)
            self._sizes[side] = None if tokenizer is None else torch.from_numpy(TokenBytes(tokenizer).sizes)
        sizes = self._sizes[side]
        return None if sizes is None else int(sizes[labels[labels != UNLABELLED].cpu()].sum())

    def check(self, data: Data, models: dict[str, nn.Module], known: Any) -> None:
        """Raise ModelError where a model has another tokenizer than the one that made the tokens it is to read."""
        twin = any(part.tokenizations == 2 for part in data.parts.values())
        student = known or next((tokenizer_of(m) for r, m in models.items() if r == "student"), None)
        for role, module in models.items():
            own = tokenizer_of(module)
            made = self.tokenizers.get("teacher", own) if twin and role == "teacher" else student
            if hasattr(own, "get_vocab") and hasattr(made, "get_vocab") and not same_tokens(own, made):
                raise ModelError(
                    f"The {role} has another tokenizer than the one that the data {data.name!r} were read by. Give the texts "
                    "instead of data that are already tokens, and the student's own tokenizer by tokenizer=; then alm and uld "
                    "distil across the two."
                )
            self.of(module, role)


class ChunkGaps:
    """The mean over chunks of |log p_T - log p_S| in nats, added up over batches."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, student: Any, teacher: Any, batch: Batch, labels: Tensor) -> None:
        """Logits of both, lazy or whole; `labels` are the student's."""
        batch, labels = batch.to(student.device), labels.to(student.device)
        worth = batch.extra["populations"]["chunk"]
        mine, theirs = (
            chunk_sums(label_log_probabilities(logits, tokens), batch.extra["chunks"][side], worth.shape[1])
            for logits, tokens, side in (
                (student, labels, "student"), (teacher, batch.extra["twin"]["labels"], "teacher"),
            )
        )  # fmt: skip
        self.total += float(((theirs - mine).abs() * worth).sum())
        self.count += int(worth.sum())

    def mean(self) -> dict[str, float]:
        return {"chunk_gap": self.total / self.count} if self.count else {}
