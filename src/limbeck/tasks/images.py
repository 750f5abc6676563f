"""Images as a pretrained model wants them: its size, its channels, its mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Wanted = tuple[tuple[int, int] | None, list[float] | None, list[float] | None]


def prepare_images(module: nn.Module | None, images: Tensor) -> Tensor:
    """Images [batch, channels, height, width] from 0 to 1, resized and normalised as the module's own processor says.

    A Transformers model brings a `processor`, a pretrained timm model its `pretrained_cfg`; any other module sees the
    images as they are. Grey images are repeated where the model has three channels.
    """
    wanted = None if module is None else _wanted(module)
    if wanted is None:
        return images
    size, mean, std = wanted
    if mean is not None and len(mean) == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    if size is not None and tuple(images.shape[2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    if mean is None or std is None:
        return images
    shape = (1, -1, 1, 1)
    middle = torch.tensor(mean, device=images.device, dtype=images.dtype).view(shape)
    return (images - middle) / torch.tensor(std, device=images.device, dtype=images.dtype).view(shape)


def _wanted(module: nn.Module) -> Wanted | None:
    """Size, mean and standard deviation that a module was trained with, None where nothing is known."""
    own = vars(
        module
    )  # not getattr: what a module lacks costs it a search through its parts and an error, at every step
    processor = own.get("processor")
    if processor is not None:
        normal = getattr(processor, "do_normalize", True)
        mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
        size = _size(getattr(processor, "size", None)) if getattr(processor, "do_resize", True) else None
        return size, list(mean) if normal and mean else None, list(std) if normal and std else None
    config = own.get("pretrained_cfg")
    if isinstance(config, Mapping) and own.get("limbeck_pretrained"):
        return None, list(config["mean"]), list(config["std"])
    return None


def _size(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if hasattr(size, "get"):
        if size.get("height"):
            return int(size["height"]), int(size["width"])
        if size.get("shortest_edge"):
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None
