"""Which written answers are worth learning: finished ones that do not run in circles and have all their parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.data.generate import Answers
from limbeck.errors import ArgumentError


def most_repeated(tokens: Sequence[int], length: int) -> int:
    """How often the most frequent stretch of `length` tokens occurs, overlaps counted; 0 where there is none so long."""
    found = Counter(tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1))
    return max(found.values(), default=0)


@dataclass(frozen=True)
class AnswerFilter:
    """Leaves out answers that are empty, cut off before their end, repetitive, or without a part that they must have.

    `repeats`: a stretch of `stretch` tokens may occur so often at most (0: not looked at). `required`: a regular expression
    that the text must match somewhere, such as r"</think>\\s*\\S" for an answer behind the thoughts. Source: DASD (Yan et al.,
    2026) names the reasons; the numbers are ours.
    """

    stretch: int = 16
    repeats: int = 4
    required: str = ""

    def __post_init__(self) -> None:
        if self.stretch < 1 or self.repeats < 0:
            raise ArgumentError(f"stretch={self.stretch}, repeats={self.repeats}: expected 1 or more, and 0 or more.")
        try:
            re.compile(self.required)
        except re.error as error:
            raise ArgumentError(f"required={self.required!r} is no regular expression: {error}.") from error

    def __call__(self, answers: Answers, texts: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
        """Which answers are kept, [answers] bool, and for what reason how many are not (the first that applies)."""
        kept, reasons = torch.ones(len(answers), dtype=torch.bool), Counter[str]()
        empty = answers.empty.tolist()
        for place, (row, text) in enumerate(zip(answers.tokens, texts)):
            reason = "empty" if empty[place] else "" if bool(answers.finished[place]) else "unfinished"
            if not reason and self.repeats and most_repeated(row.tolist(), self.stretch) > self.repeats:
                reason = "repetitive"
            if not reason and self.required and not re.search(self.required, text, flags=re.DOTALL):
                reason = "incomplete"
            if reason:
                kept[place] = False
                reasons[reason] += 1
        return kept, dict(reasons)
