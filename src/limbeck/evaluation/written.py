"""What models write to prompts of a part, scored beside the given answers: exact match, ROUGE-L, tokens spent."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data.generate import Answers, Sampling, told
from limbeck.data.generate_models import find_ends, sampler_of
from limbeck.data.language_parts import PairPart, TokenRows, prompts
from limbeck.errors import ArgumentError
from limbeck.evaluation.checkers import Checker, as_checker

if TYPE_CHECKING:
    from limbeck.training.job import Job

COUNT, BATCH, MOST = 64, 32, 512  # prompts by default, answers at once, tokens of an answer


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, lower case, without marks; 1 for two empty texts (Lin, 2004)."""
    one, two = (re.findall(r"\w+", text.lower()) for text in (answer, reference))
    before = [0] * (len(two) + 1)
    for word in one:
        here = [0]
        for column, other in enumerate(two):
            here.append(before[column] + 1 if word == other else max(before[column + 1], here[-1]))
        before = here
    return 2 * before[-1] / (len(one) + len(two)) if one or two else 1.0


def written_scores(
    told: Sequence[tuple[str, str]], answers: Answers, texts: Sequence[str], check: Checker
) -> dict[str, float]:
    """Scores of answers, as tokens and as texts, to pairs (prompt, reference).

    `exact_match` (mean of the checker), `rouge_l`, `answer_tokens` (mean, the end counted), `unfinished_answers` (a share).
    """
    right = [float(check(prompt, text, reference)) for (prompt, reference), text in zip(told, texts)]
    return {
        "exact_match": statistics.fmean(right),
        "rouge_l": statistics.fmean(rouge_l(text, reference) for (_, reference), text in zip(told, texts)),
        "answer_tokens": float(answers.sizes.double().mean()),
        "unfinished_answers": float((~answers.finished).double().mean()),
    }


@dataclass
class Writing:
    """The same prompts for every model, answered greedily: what is compared is the models, not their luck."""

    rows: TokenRows
    places: Tensor  # [prompts] documents
    sampling: Sampling
    checker: str | Checker
    task: Any
    tokenizer: Any
    part: str

    @classmethod
    def of(cls, job: Job, part: str, count: int | None, checker: str | Checker = "final") -> Writing | None:
        """`count` documents of a part that have a prompt, spread evenly over it; None: 64 where there are any.

        Answers may be half as long again as the longest reference. Raises ArgumentError where prompts are asked for and
        there are none, and for a checker that is not known.
        """
        as_checker(checker)
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise ArgumentError(f"generate={count!r}: expected a number of prompts, 0 for none.")
        found = job.data.parts[part]
        rows = found.chosen() if isinstance(found, PairPart) and count != 0 else found
        usable = (rows.prompts > 0).nonzero()[:, 0] if isinstance(rows, TokenRows) else torch.zeros(0)
        if not len(usable) or count == 0:
            if count:
                raise ArgumentError(
                    f"generate={count}: the part {part!r} has no prompts to answer. Give data with prompts and responses, or "
                    "chats, or leave generate out."
                )
            return None
        assert isinstance(rows, TokenRows)
        number = min(count or COUNT, len(usable))
        places = usable[torch.linspace(0, len(usable) - 1, number).round().long()]
        places = places[rows.prompts[places].argsort(stable=True)]  # of like length together, so that little is padded
        references = (rows.starts[1:] - rows.starts[:-1] - rows.prompts)[places]
        sampling = Sampling(min(MOST, max(16, int(1.5 * int(references.max())))), greedy=True)
        tokenizer = getattr(job.task, "tokenizer", None) or getattr(job.student, "tokenizer", None)
        return cls(rows, places, sampling, checker, job.task, tokenizer, part)

    def describe(self, models: int = 1) -> dict[str, Any]:
        """What it is, and the most that it costs: prompts, and tokens of all `models` together."""
        name = self.checker if isinstance(self.checker, str) else getattr(self.checker, "__name__", "checker")
        most = self.sampling.max_new_tokens
        return {"prompts": len(self.places), "part": self.part, "max_new_tokens": most, "greedy": True, "checker": name,
                "tokens_at_most": models * len(self.places) * most}  # fmt: skip

    def told(self, model: Any = None) -> list[tuple[str, str]]:
        """Prompts and references as texts."""
        ends = find_ends(self.rows, model, tokenizer=self.tokenizer)
        return [told(self.rows, place, self.tokenizer, ends) for place in self.places.tolist()]

    def measure(self, model: Any) -> tuple[dict[str, float], list[str]]:
        """The scores of a model (module, teacher or sampler), and its answers as texts."""
        ends = find_ends(self.rows, model, tokenizer=self.tokenizer)
        sampler = sampler_of(model, self.task, ends)
        parts = [sampler.generate(prompts(self.rows, some), self.sampling) for some in self.places.split(BATCH)]
        answers = Answers([row for part in parts for row in part.tokens], torch.cat([part.finished for part in parts]))
        texts = answers.texts(self.tokenizer)
        return written_scores(self.told(model), answers, texts, as_checker(self.checker)), texts

    def side_by_side(self, texts: dict[str, list[str]]) -> list[dict[str, str]]:
        """One sample for each prompt: prompt, reference, and the answers by role."""
        return [
            {"prompt": prompt, "reference": reference, **{role: found[number] for role, found in texts.items()}}
            for number, (prompt, reference) in enumerate(self.told())
        ]
