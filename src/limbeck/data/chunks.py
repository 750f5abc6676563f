"""Rationales cut into chunks of whole sentences: evenly, or where a student's loss says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from limbeck.errors import ArgumentError


def even_cuts(ends: Sequence[int], count: int) -> list[int]:
    """Where `count` chunks of about equally many tokens end: increasing, some of `ends`, the last one included.

    `ends` increasing: the sizes [sentences] at which sentences end, the last one that of the whole. Each inner cut is the
    sentence end nearest to its even place of those that leave every chunk a sentence; of fewer sentences than chunks each is
    a chunk.
    """
    if count < 1 or not len(ends):
        raise ArgumentError(f"count={count} chunks of {len(ends)} sentences: expected 1 or more of both.")
    count, cuts, first = min(count, len(ends)), [], 0
    for number in range(1, count):
        last = len(ends) - (count - number)  # of the sentences that may end this chunk, the first is `first`
        wanted = ends[-1] * number / count
        first = min(range(first, last), key=lambda place: abs(ends[place] - wanted))
        cuts.append(ends[first])
        first += 1
    return [*cuts, ends[-1]]


def chunk_losses(losses: Sequence[float] | Tensor, cuts: Sequence[int]) -> list[float]:
    """The mean of the losses [tokens] of each chunk, [chunks]; `cuts` are their ends."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(losses, dtype=np.float64))])
    starts = [0, *cuts[:-1]]
    return [(sums[end] - sums[start]) / (end - start) for start, end in zip(starts, cuts)]


def searched_cuts(losses: Sequence[float] | Tensor, ends: Sequence[int], count: int, rounds: int = 10) -> list[int]:
    """`even_cuts`, moved: each inner cut to the sentence end before or behind it, as long as the sum of `chunk_losses` falls.

    `losses` [tokens]: a student's, reading all tokens before each. The search goes over the cuts in order until none moves,
    `rounds` times at most, and ends in a local minimum of what chunk-wise training minimises.
    """
    cuts = even_cuts(ends, count)
    places = [list(ends).index(cut) for cut in cuts]
    best = sum(chunk_losses(losses, cuts))
    for _ in range(rounds):
        moved = False
        for number in range(len(places) - 1):
            low, high = (places[number - 1] if number else -1), places[number + 1]
            for step in (-1, 1):
                place = places[number] + step
                if not low < place < high:
                    continue
                tried = [ends[place] if other == number else ends[p] for other, p in enumerate(places)]
                value = sum(chunk_losses(losses, tried))
                if value < best - 1e-12:
                    best, places[number], moved = value, place, True
        if not moved:
            break
    return [ends[place] for place in places]
