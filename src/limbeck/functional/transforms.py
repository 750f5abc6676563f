"""Pure functions of one signal, put before a comparison with `.through(...)`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled(features: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Maps [batch, channels, height, width] to their spatial mean [batch, channels], tokens [batch, tokens, width] to
    their mean [batch, width]; vectors [batch, width] as they are. `tokens` [batch, tokens]: 1 for those that count."""
    if features.ndim == 4:
        return features.flatten(2).mean(-1)
    if features.ndim != 3:
        return features
    if tokens is None or tokens.shape != features.shape[:2]:  # other places than those of the text
        return features.mean(1)
    exact = tokens.to(torch.promote_types(features.dtype, torch.float32))
    share = exact / exact.sum(1, keepdim=True).clamp(min=1)
    return (features * share[..., None]).sum(1).to(features.dtype)  # no product of matrices: autocast would round it


def first_token(features: Tensor) -> Tensor:
    """The first token [batch, width] of [batch, tokens, width] (the class token of an encoder)."""
    return features[:, 0]


def first_direction(features: Tensor) -> Tensor:
    """The first token [batch, width] of [batch, tokens, width], of length 1."""
    return F.normalize(first_token(features), dim=-1)


def pooled_to(height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A transform that average-pools maps [batch, channels, ...] to [batch, channels, height, width]."""

    def pooled_maps(features: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(features, (height, width))

    return pooled_maps
