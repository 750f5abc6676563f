"""Top-k log-probabilities in one byte each, and what compression loses: for stores of language models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError

if TYPE_CHECKING:
    from limbeck.signals.store_encode import Signal

LEVELS = 255


def to_levels(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [..., k] uint8 of descending log-probabilities [..., k], and their largest and smallest [..., 2] float16.

    The code of v is that of sqrt((largest - v) / (largest - smallest)): levels are close where the probability is.
    """
    ends = torch.stack([values[..., 0], values[..., -1]], -1).to(torch.float16).float()
    width = (ends[..., :1] - ends[..., 1:]).clamp(min=1e-6)
    place = ((ends[..., :1] - values.float()) / width).clamp(0, 1).sqrt()
    return (place * LEVELS).round().to(torch.uint8), ends.to(torch.float16)


def from_levels(codes: Tensor, ends: Tensor) -> Tensor:
    """Log-probabilities [..., k] in float32 of `to_levels`."""
    ends = ends.float()
    return ends[..., :1] - (ends[..., :1] - ends[..., 1:]) * (codes.float() / LEVELS).square()


def rows_of(value: Any, most: int) -> Tensor:
    """Up to `most` rows [n, classes] of whole or lazy logits [..., classes], evenly spread."""
    count = math.prod(value.shape[:-1])
    rows = torch.arange(0, count, max(1, count // most), device=value.device)[:most]
    found = value.block(rows) if hasattr(value, "block") else value.reshape(count, value.shape[-1])[rows]
    return found.detach().double()


def k_for(value: Any, mass: float, most: int = 2048) -> int:
    """The smallest k whose k largest classes hold a mean probability of `mass` or more over rows of logits."""
    if isinstance(mass, bool) or not 0 < mass < 1:
        raise ArgumentError(f"top_mass={mass!r}: expected a probability between 0 and 1, such as 0.98.")
    ordered = rows_of(value, most).softmax(-1).sort(-1, descending=True).values
    return int((ordered.cumsum(-1).mean(0) < mass).sum()) + 1


def lost(signal: Signal, value: Any, most: int = 512) -> dict[str, float]:
    """What keeping logits as `signal` says loses, in the mean over rows of some: `kl` of the teacher from what is read back
    (nats), the probability that the k classes hold (`mass`), and `bytes` of a row."""
    rows = rows_of(value, most)
    kept = type(signal)(signal.encoding, signal.dtype, rows.shape[1:], signal.k)
    back = kept.decode(kept.encode(rows)).dense().double()  # type: ignore[union-attr]
    log_p = rows.log_softmax(-1)
    p = log_p.exp()
    gap = (p * (log_p - back.log_softmax(-1)).masked_fill(p == 0, 0)).sum(-1)
    mass = p.topk(signal.k or 1, -1).values.sum(-1)
    return {
        "k": float(signal.k or 0), "kl": float(gap.mean()), "mass": float(mass.mean()),
        "bytes": float(sum(column.width for column in kept.columns(""))),
    }  # fmt: skip
