"""Selectors: which samples of a pool to ask about next. One interface, `choose(pool, count)`: places in the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, nearest
from limbeck.functional import pool as f


@dataclass
class Pool:
    """What a model says of the samples that may be asked about, and of those that are known.

    `probabilities` [n, classes] and `features` [n, width] (the last layer's inputs); `known_probabilities` and
    `known_features` of the samples that are known; `wrong`: how many of the pool's answers may be false; `draw`: chance.
    """

    probabilities: Tensor
    features: Tensor
    known_probabilities: Tensor
    known_features: Tensor
    draw: torch.Generator
    wrong: float = 0.0

    def __len__(self) -> int:
        return len(self.probabilities)


Selector = Callable[[Pool, int], Tensor]


def at_random(pool: Pool, count: int) -> Tensor:
    return torch.randperm(len(pool), generator=pool.draw)[:count]


def entropy(pool: Pool, count: int) -> Tensor:
    return f.prediction_entropy(pool.probabilities).argsort(descending=True, stable=True)[:count]


def margin(pool: Pool, count: int) -> Tensor:
    return f.margin_gain(pool.probabilities).argsort(descending=True, stable=True)[:count]


def core_set(pool: Pool, count: int) -> Tensor:
    return f.farthest_first(pool.features, count, pool.known_features, "cosine")


def badge(pool: Pool, count: int) -> Tensor:
    """Farthest-first among gradients, the most uncertain first: lengths are all 1, so that they cannot say which."""
    first = int(f.prediction_entropy(pool.probabilities).argmax())
    return f.farthest_first(f.gradient_embedding(pool.probabilities, pool.features), count, None, "cosine", first)


def pcoreset(pool: Pool, count: int) -> Tensor:
    return f.farthest_first(pool.probabilities, count, pool.known_probabilities)


def robust(pool: Pool, count: int) -> Tensor:
    """Drawn without replacement by RAD's distribution; where it has too few samples, the others by their gain."""
    gains = f.margin_gain(pool.probabilities)
    chances = f.robust_distribution(gains, pool.wrong)
    some = int((chances > 0).sum())
    found = torch.multinomial(chances, min(count, some), generator=pool.draw)
    if some < count:
        rest = gains.clone()
        rest[found] = -torch.inf
        found = torch.cat([found, rest.argsort(descending=True, stable=True)[: count - some]])
    return found


SELECTORS: dict[str, Selector] = {
    "random": at_random, "entropy": entropy, "margin": margin, "core_set": core_set, "badge": badge, "pcoreset": pcoreset,
    "rad": robust,
}  # fmt: skip


def selector_of(given: str | Selector) -> Selector:
    """A selector by its name, or as it is. Raises ArgumentError for an unknown name."""
    if callable(given):
        return given
    if given not in SELECTORS:
        raise ArgumentError(f"selector={given!r}.{nearest(str(given), SELECTORS)}")
    return SELECTORS[given]


def choose(given: str | Selector, pool: Pool, count: int) -> Tensor:
    """Places of `count` samples of the pool, or of all where there are no more; each once."""
    count = min(count, len(pool))
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    found = selector_of(given)(pool, count).long().cpu()
    if len(found) != count or len(found.unique()) != count or bool(((found < 0) | (found >= len(pool))).any()):
        raise ArgumentError(
            f"The selector gave {len(found)} places, {len(found.unique())} of them different; expected {count} of the pool's "
            f"{len(pool)}."
        )
    return found
