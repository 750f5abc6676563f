"""Formulas of masked autoencoders: patches of images, their reconstruction, and features where one mask is shared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import Reduction, objective, reduce, same_shape


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Images [batch, channels, height, width] as patches [batch, patches, patch * patch * channels], row by row.

    The values of a patch are in the order row, column, channel (masked autoencoders, He et al., 2022). Raises SignalError for
    sides that are no multiples of `patch`.
    """
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise SignalError(f"Images of {height} x {width} are not cut into patches of {patch} x {patch}.")
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def patch_mse(student: Tensor, teacher: Tensor, *, normalised: bool = False, mask: Tensor | None = None,
              reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """The squared error of predicted patches, the mean over a patch's values. Values [batch, patches].

    Predicted and true patches [batch, patches, values]; `mask` [batch, patches] is 1 where a patch was hidden, and the mean is
    over those. `normalised`: each true patch is (x - mean) / sqrt(variance + 1e-6) first, the variance over n - 1 (He et al.,
    2022).
    """
    student, teacher = same_shape(student, teacher)
    if normalised:
        teacher = (teacher - teacher.mean(-1, keepdim=True)) / (teacher.var(-1, keepdim=True) + 1e-6).sqrt()
    return reduce((student - teacher).square().mean(-1), mask, reduction)


def token_directions(features: Tensor) -> Tensor:
    """Every token of [batch, tokens, width] divided by its L2 norm."""
    return F.normalize(features, dim=-1)


@objective(per="item", student="features", teacher="features")
def standardised_smooth_l1(student: Tensor, teacher: Tensor, *, beta: float = 2.0, mask: Tensor | None = None,
                           reduction: Reduction = "mean") -> Tensor:  # fmt: skip
    """Smooth L1 to the teacher's layer-normalised features, over all axes but the first of [batch, ..., width]. Values [batch].

    The target has mean 0 and variance 1 over the width (no affine part, 1e-6 beside the variance); below `beta` a difference d
    counts d^2 / (2 beta), above it |d| - beta / 2 (the generic stage of G2SD, Huang et al., 2023).
    """
    student, teacher = same_shape(student, teacher)
    target = F.layer_norm(teacher, teacher.shape[-1:], eps=1e-6)
    values = F.smooth_l1_loss(student, target, beta=beta, reduction="none")
    return reduce(values.flatten(1).mean(1), mask, reduction)


def kept_patches(batch: int, patches: int, keep: int, generator: torch.Generator) -> Tensor:
    """Which patches are seen, by chance: [batch, keep] of 0 to `patches` - 1, each sample's all different."""
    return torch.rand(batch, patches, generator=generator).argsort(1)[:, :keep]
