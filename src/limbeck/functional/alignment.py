"""Two tokenizations of one text, brought together: the smallest chunks that both end at the same byte.

`ends` are the bytes at which the tokens of a text end, [tokens] int64, growing; the text has `ends[-1]` bytes. A chunk is
numbered from 0; -1 stands for none. Alignment is NumPy, done once when data are loaded; the sums over chunks are torch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import ArgumentError, nearest

SPACES = np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8)


def shared_chunks(ends: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunk numbers [n] and [m] of the tokens of two tokenizations, and the bytes [chunks] at which the chunks end.

    A chunk ends wherever tokens of both end, so that no smaller span of bytes is made of whole tokens on both sides. Tokens
    of no bytes belong to the chunk that ends where they stand, at the start to the first one. Equal tokenizations give
    one chunk a token. Raises ArgumentError where the two texts differ in length, or ends fall.

    Source: ALM (Minixhofer et al., 2025) and GOLD (TRL, 2025), which walk both lists of tokens to the same effect.
    """
    last, other_last = (int(found[-1]) if len(found) else 0 for found in (ends, other))
    if last != other_last:
        raise ArgumentError(
            f"Two tokenizations of one text end at the same byte; these end at {last} and {other_last}."
        )
    for found in (ends, other):
        if len(found) and (found[0] < 0 or (np.diff(found) < 0).any()):
            raise ArgumentError("The bytes at which tokens end must grow from token to token, from 0 or more.")
    both = np.intersect1d(ends, other)
    both = both[both > 0]
    if not len(both):
        return np.full(len(ends), -1), np.full(len(other), -1), both
    return np.searchsorted(both, ends), np.searchsorted(both, other), both


def words_of_chunks(text: bytes, chunk_ends: np.ndarray) -> np.ndarray:
    """Numbers [chunks] of the coarser chunks that end before white space or at the end of the text only.

    `chunk_ends` as `shared_chunks` gives them. Where a tokenizer begins words with their space, these are words.
    """
    after = np.frombuffer(text, dtype=np.uint8)[np.minimum(chunk_ends, len(text) - 1)]
    closes = np.isin(after, SPACES) | (chunk_ends == len(text))
    return np.r_[0, np.cumsum(closes)[:-1]] if len(closes) else np.zeros(0, dtype=np.int64)


def chunk_sums(values: Tensor, chunks: Tensor, count: int) -> Tensor:
    """Sums [batch, count] of values [batch, tokens] over chunks [batch, tokens] int64, numbered by row (-1: in none).

    Of log-probabilities of tokens these are log-probabilities of the chunks' texts, given what stands before.
    """
    place = chunks.where(chunks >= 0, count)
    return values.new_zeros(len(values), count + 1).scatter_add(1, place, values.where(chunks >= 0, 0))[:, :count]


def chunk_rows(values: Tensor, chunks: Tensor, count: int, merge: str = "observed") -> tuple[Tensor, Tensor]:
    """The row that stands for each chunk [batch, count] int64, and the log-probability of the chunk's other tokens.

    `values` [batch, tokens] are the log-probabilities of the actual tokens. "observed": the first row, whose distribution
    is multiplied by the probabilities of the tokens that do come after it; "bayesian": the last row, by those of the
    tokens before it. A chunk without tokens gives row 0. Source: GOLD (TRL, 2025), which does not renormalise either.
    """
    if merge not in ("observed", "bayesian"):
        raise ArgumentError(f"merge={merge!r}.{nearest(merge, ('observed', 'bayesian'))}")
    first = merge == "observed"
    place = chunks.where(chunks >= 0, count)
    columns = torch.arange(chunks.shape[1], device=chunks.device).expand_as(chunks)
    rows = torch.full((len(chunks), count + 1), chunks.shape[1] if first else -1, device=chunks.device)
    rows = rows.scatter_reduce(1, place, columns, "amin" if first else "amax")[:, :count]
    rows = rows.where((rows >= 0) & (rows < chunks.shape[1]), 0)
    alone = chunks.gather(1, rows) == torch.arange(count, device=chunks.device)
    return rows, chunk_sums(values, chunks, count) - values.gather(1, rows).where(alone, 0)
