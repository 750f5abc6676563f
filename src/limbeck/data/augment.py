"""Augmentations. A finite set of views can be stored and replayed exactly; each sample's view is a number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import ArgumentError, nearest


class CropFlip:
    """Zero padding, a crop of the old size, and a horizontal flip: (2 padding + 1)^2 places, twice with flips.

    The view of place (dy, dx) and flip f is (dy * (2 padding + 1) + dx) * (2 if flip else 1) + f; `identity` is the image
    as it is. Padding 4 and flips: 162 views, the augmentation of the CIFAR benchmarks.
    """

    def __init__(self, padding: int = 4, flip: bool = True):
        if padding < 0:
            raise ArgumentError(f"CropFlip(padding={padding}): expected 0 or more pixels.")
        self.padding, self.flip = padding, flip
        self.places = 2 * padding + 1
        self.count: int = self.places**2 * (2 if flip else 1)
        self.identity = (padding * self.places + padding) * (2 if flip else 1)

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Views for `number` samples, [number] int64, all equally likely."""
        return torch.randint(self.count, (number,), generator=generator)

    def apply(self, inputs: Tensor, view: Tensor) -> Tensor:
        """Images [batch, channels, height, width], float or uint8, each in its view [batch]."""
        batch, channels, height, width = inputs.shape
        place, mirrored = (view // 2, view % 2) if self.flip else (view, torch.zeros_like(view))
        dy, dx = (place // self.places).to(inputs.device), (place % self.places).to(inputs.device)
        rows = dy[:, None] + torch.arange(height, device=inputs.device)
        columns = torch.arange(width, device=inputs.device).expand(batch, width)
        columns = dx[:, None] + torch.where(mirrored.to(inputs.device).bool()[:, None], columns.flip(1), columns)
        padded = F.pad(inputs, (self.padding,) * 4)
        flat = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
        return padded.flatten(2).gather(2, flat).view(batch, channels, height, width)


class Flip(CropFlip):
    """A horizontal flip: 2 views."""

    def __init__(self) -> None:
        super().__init__(padding=0, flip=True)


class Shift(CropFlip):
    """A shift by up to `pixels`, zeros moving in: (2 pixels + 1)^2 views."""

    def __init__(self, pixels: int = 1):
        super().__init__(padding=pixels, flip=False)


class GaussianNoise:
    """Noise of a standard deviation. Not a finite set: each sample's view is the seed of its noise."""

    count = None

    def __init__(self, std: float = 0.1):
        if not std > 0:
            raise ArgumentError(f"GaussianNoise(std={std!r}): expected a positive number.")
        self.std = std

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Seeds for `number` samples, [number] int64."""
        return torch.randint(2**31, (number,), generator=generator)

    def apply(self, inputs: Tensor, view: Tensor) -> Tensor:
        """Inputs [batch, ...] plus each sample's noise, which depends on its view alone."""
        noise = [torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in view.tolist()]
        return inputs + self.std * torch.stack(noise).to(inputs)


NAMES = {"crop_flip": CropFlip, "flip": Flip, "shift": Shift, "noise": GaussianNoise}


def make_augmentation(spec: object) -> object:
    """An augmentation from its name ("crop_flip", "crop_flip:4", "shift:1", "noise:0.1", "flip"), or itself."""
    if spec is None or not isinstance(spec, str):
        return spec
    name, _, value = spec.partition(":")
    if name not in NAMES:
        raise ArgumentError(f"There is no augmentation {name!r}.{nearest(name, NAMES)}")
    try:
        return NAMES[name](*([float(value) if name == "noise" else int(value)] if value else []))
    except ValueError as error:
        raise ArgumentError(f"augment={spec!r}: {value!r} is not a number.") from error
