"""Preference pairs of which one answer is a model's own."""

from __future__ import annotations

from typing import Any

import torch

from limbeck.data.generate import Sampling
from limbeck.data.generate_models import find_ends, sampler_of
from limbeck.data.language_parts import PairPart, TokenRows, prompts
from limbeck.data.language_tokens import Document


def answered_pairs(part: PairPart, model: Any, task: Any, sampling: Sampling, *, seed: int = 0,
                   batch_size: int = 64) -> PairPart:  # fmt: skip
    """The pairs of a part with the rejected answers replaced by those that a model writes to the prompts, one to each.

    What is drawn for a pair depends on the seed and the pair alone, so that a resumed run and every process have the same
    answers. An answer that is its end alone is kept; one that was cut at `max_new_tokens` has no end to be learnt. Raises
    ModelError for a model that cannot write, ArgumentError for a prompt that leaves no room.
    """
    rows, documents = part.rows, []
    ends = find_ends(part, model, tokenizer=getattr(task, "tokenizer", None))
    sampler = sampler_of(model, task, ends)
    for numbers in torch.arange(len(part)).split(batch_size):
        each = [sampling.numbers(1, _generator(seed, int(part.ids[number]))) for number in numbers]
        drawn = None if sampling.greedy else torch.cat([one for one in each if one is not None])
        answers = sampler.generate(prompts(part, 2 * numbers), sampling, numbers=drawn)
        for number, answer in zip((2 * numbers).tolist(), answers.tokens):
            start = int(rows.prompts[number])
            chosen = rows.document(number)
            documents.append(Document.of(chosen.numpy(), rows.predicted(number), start))
            documents.append(Document.of(torch.cat([chosen[:start], answer]).numpy(), start, start))
    owners = rows.samples.tolist()
    made = TokenRows(rows.name, documents, owners, ids=rows.ids, padding=rows.padding, even=rows.even)
    return PairPart(made)


def _generator(seed: int, pair: int) -> torch.Generator:
    from limbeck.signals.step import derive

    return torch.Generator().manual_seed(derive(seed, "answer", pair))
