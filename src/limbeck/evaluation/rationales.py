"""How alike are two written answers? Edits, steps of reasoning, the final answer: of texts, and of a run's samples.

Plain Python on short texts. A word is what stands between white space; a step is a line, or a sentence where a text is one
line. After the report card of On the Generalization vs Fidelity Paradox in Knowledge Distillation (2025).
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LONGEST = 2000  # words of a text that are compared; the work grows with the square


def edit_similarity(first: str, second: str) -> float:
    """1 minus the Levenshtein distance of the words, divided by the longer text's count; 1 for two empty texts."""
    one, two = first.split()[:LONGEST], second.split()[:LONGEST]
    longest = max(len(one), len(two))
    return 1 - _edits(one, two) / longest if longest else 1.0


def _edits(one: Sequence[str], two: Sequence[str]) -> int:
    """Insertions, deletions and replacements that make one of the other."""
    before = list(range(len(two) + 1))
    for row, word in enumerate(one, start=1):
        here = [row]
        for column, other in enumerate(two, start=1):
            here.append(min(before[column] + 1, here[-1] + 1, before[column - 1] + (word != other)))
        before = here
    return before[-1]


def steps(text: str) -> list[str]:
    """The steps of a rationale: its lines, or the sentences of a single line; lower case, without marks at the ends."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = re.split(r"(?<=[.!?;])\s+", lines[0])
    found = [" ".join(line.lower().split()).strip(" .!?;,-*#") for line in lines]
    return [line for line in found if line]


def step_overlap(first: str, second: str) -> float:
    """The F1 score of the steps that both texts have, each counted as often as it stands in both; 1 for two empty texts."""
    one, two = Counter(steps(first)), Counter(steps(second))
    total = one.total() + two.total()
    return 2 * (one & two).total() / total if total else 1.0


def final_answer(text: str) -> str:
    """What a text comes to: its last number; without one, the last step. A number is written without commas, 12.0 as 12."""
    numbers = _NUMBER.findall(text)
    if numbers:
        return f"{float(numbers[-1].replace(',', '')):.12g}"
    return (steps(text) or [""])[-1]


def answer_agreement(first: str, second: str) -> bool:
    """Whether both texts come to the same final answer."""
    return final_answer(first) == final_answer(second)


def rationale_fidelity(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Means over pairs of texts (student, teacher): `edit_similarity`, `step_overlap`, `answer_agreement`; {} for none."""
    found = [(edit_similarity(*each), step_overlap(*each), float(answer_agreement(*each))) for each in pairs]
    names = ("edit_similarity", "step_overlap", "answer_agreement")
    return {name: statistics.fmean(values) for name, values in zip(names, zip(*found))}


def of_samples(samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """`rationale_fidelity` of a run's samples, those with both a text of the "student" and one of the "teacher"."""
    return rationale_fidelity(
        (sample["student"], sample["teacher"]) for sample in samples
        if isinstance(sample.get("student"), str) and isinstance(sample.get("teacher"), str)
    )  # fmt: skip
