"""Answers that models write: how they are sampled, what comes back, and the rows that they are trained on.

A `Sampler` has one method, `generate(prompts, sampling, generator)`. `limbeck.data.generate_models.sampler_of` makes one of
whatever can write: a Transformers model, a module, an ensemble, a vLLM engine, a function from texts to texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.base import Batch
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError, DataError, ModelError


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `max_new_tokens` at most, from softmax(logits / temperature), all of it unless cut.

    `top_k`: only the k likeliest tokens (0: all). `top_p`: the fewest likeliest tokens with that much mass (1: all).
    `greedy`: always the likeliest token; nothing is drawn then.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("top_k", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(f"{name}={value!r}: expected a whole number of {least} or more.")
        if not 0 < self.temperature < float("inf"):
            raise ArgumentError(f"temperature={self.temperature!r}: expected a positive number; greedy=True for none.")
        if not 0 < self.top_p <= 1:
            raise ArgumentError(f"top_p={self.top_p!r}: expected a number above 0, at most 1.")

    def numbers(self, count: int, generator: torch.Generator | None) -> Tensor | None:
        """What `count` answers are drawn by: [count, max_new_tokens] float64 from [0, 1), one for each token to come.

        All are drawn at once, so that an answer does not depend on how long the others become, nor on which of them are
        generated together. None where nothing is drawn.
        """
        if self.greedy:
            return None
        if generator is None:
            raise ArgumentError("Sampling needs a torch.Generator, so that it can be repeated. For none: greedy=True.")
        return torch.rand(count, self.max_new_tokens, generator=generator, dtype=torch.float64)


@dataclass
class Answers:
    """Token ids of the answers [int64, on the CPU], each with the end token that it chose; which came to such an end.

    An answer that is not finished was cut at `max_new_tokens`, or where the model takes no more.
    """

    tokens: list[Tensor]
    finished: Tensor  # [answers] bool

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sizes(self) -> Tensor:
        """Tokens of each answer, its end counted, [answers] int64."""
        return torch.tensor([len(row) for row in self.tokens], dtype=torch.int64)

    @property
    def empty(self) -> Tensor:
        """Which answers say nothing before their end, [answers] bool."""
        return self.sizes - self.finished.long() == 0

    def select(self, positions: Tensor | Sequence[int]) -> Answers:
        """Some of the answers, in the given order."""
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        return Answers([self.tokens[i] for i in chosen.tolist()], self.finished[chosen])

    def texts(self, tokenizer: Any = None) -> list[str]:
        """What they say, without special tokens; the numbers of the tokens before the end where there is no tokenizer."""
        if tokenizer is not None:
            return [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in self.tokens]
        ends = self.finished.tolist()
        return [" ".join(map(str, row.tolist()[: len(row) - end])) for row, end in zip(self.tokens, ends)]

    def counts(self) -> dict[str, int]:
        """How many samples and tokens there are, and how many samples are empty or unfinished."""
        return {
            "samples": len(self), "tokens": int(self.sizes.sum()), "empty": int(self.empty.sum()),
            "unfinished": int((~self.finished).sum()),
        }  # fmt: skip

    @classmethod
    def cut(cls, rows: Sequence[Sequence[int] | Tensor] | Tensor, ends: Sequence[int]) -> Answers:
        """From generated ids: each row up to its first end token, which is kept; what follows is padding."""
        tokens, finished = [], []
        for row in rows:
            ids = torch.as_tensor(row, dtype=torch.int64).cpu()
            hits = torch.isin(ids, torch.tensor(ends, dtype=torch.int64)).nonzero()[:, 0]
            tokens.append(ids[: int(hits[0]) + 1].clone() if len(hits) else ids.clone())
            finished.append(bool(len(hits)))
        return cls(tokens, torch.tensor(finished, dtype=torch.bool))


class Sampler:
    """Writes answers to prompts. Subclasses define `generate`.

    `prompts`: as `language_parts.prompts` gives them, padded on the left. `numbers` [prompts, max_new_tokens], from [0, 1):
    what is drawn by, in place of the generator's own. The same numbers give the same answers; global random state, the
    modes of modules and gradients are left alone.
    """

    def generate(self, prompts: Batch, sampling: Sampling, generator: torch.Generator | None = None, *,
                 numbers: Tensor | None = None) -> Answers:  # fmt: skip
        raise NotImplementedError(f"{type(self).__name__} does not say how it writes")


def choose(logits: Tensor, sampling: Sampling, numbers: Tensor | None = None) -> Tensor:
    """The next tokens [rows] of logits [rows, vocabulary]: drawn by numbers [rows] from [0, 1), or the likeliest ones.

    By inverting the cumulative distribution, in float64 where the device has it. Raises ModelError for logits that are NaN.
    """
    if bool(logits.isnan().any()):
        raise ModelError("The model that writes gives logits that are NaN: look at its weights, or at its precision.")
    if sampling.greedy:
        return logits.argmax(-1)
    assert numbers is not None
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    scaled = logits.to(exact) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k, dim=-1).values[..., -1:], -torch.inf)
    p = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = p.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p  # the likeliest always stays
        p = p.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0)
    reached = p.cumsum(-1)
    target = numbers.to(p.device, exact).clamp(max=1 - 1e-7)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True)[:, 0]


def picked(prompts: Batch, places: Tensor) -> Batch:
    """The prompts at some places [n] int64 of a batch of prompts."""

    def take(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value[places] for key, value in values.items()}

    return replace(prompts, inputs=take(prompts.inputs), ids=prompts.ids[places], extra=take(prompts.extra))


def repeated(prompts: Batch, times: int) -> Batch:
    """Every prompt so many times in a row, for several answers to each; `extra["group"]` numbers the prompts."""
    places = torch.arange(len(prompts)).repeat_interleave(times)
    found = picked(prompts, places)
    found.extra["group"] = places
    return found


def as_prompts(rows: Sequence[Sequence[int]], padding: int = 0) -> Batch:
    """Token ids, one row for each prompt, as `language_parts.prompts` gives prompts: padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    return Batch(inputs, torch.arange(len(rows)), extra={"prompt": mask.sum(1)})


def bare(prompts: Batch) -> list[list[int]]:
    """The token ids of prompts, without padding."""
    ids, mask = prompts.inputs["input_ids"].tolist(), prompts.inputs["attention_mask"].bool().tolist()
    return [[token for token, kept in zip(row, keep) if kept] for row, keep in zip(ids, mask)]


def answered(prompts: Batch, answers: Answers, *, padding: int, ids: Tensor | None = None,
             name: str = "generated") -> TokenRows:  # fmt: skip
    """Rows to train on: prompt and answer, of which the answer with its end is predicted; like every `TokenRows`.

    `padding` may be the end token: what is padding is known by its place. Raises DataError for an answer without any token.
    """
    sizes = answers.sizes
    if not bool((sizes > 0).all()):
        raise DataError(f"{int((sizes == 0).sum())} of {len(answers)} answers have no token to learn: leave them out.")
    documents = [
        Document.of(np.r_[np.asarray(prompt, dtype=np.int32), answer.numpy()], len(prompt), prompt=len(prompt))
        for prompt, answer in zip(bare(prompts), answers.tokens)
    ]
    ids = prompts.ids if ids is None else ids
    return TokenRows(name, documents, prompts.ids.tolist(), ids=ids, padding=padding)


def told(rows: TokenRows, number: int, tokenizer: Any, ends: Sequence[int]) -> tuple[str, str]:
    """Prompt and given answer of a document as texts, as `Answers.texts` writes them."""
    ids, size = rows.document(number), int(rows.prompts[number])
    (prompt,) = Answers([ids[:size]], torch.zeros(1, dtype=torch.bool)).texts(tokenizer)
    (answer,) = Answers.cut([ids[size:]], ends).texts(tokenizer)
    return prompt, answer
