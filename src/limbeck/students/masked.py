"""A vision transformer for small images that can read some of the patches, and a masked autoencoder around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.students.declare import builder, whole


def sine_positions(side: int, width: int) -> Tensor:
    """Fixed positions of the class token (zeros) and of a square of patches, [1 + side * side, width].

    Half of the numbers tell the column, half the row, by sines and cosines of falling frequency, less their mean over the
    square: of a few patches most cosines are nearly 1, and what all patches share would drown what is in them.
    """
    rates = 10000 ** -(torch.arange(width // 4) / (width / 4))
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], 1)
    grid = torch.cat([line.repeat(side, 1), line.repeat_interleave(side, 0)], 1)
    return torch.cat([torch.zeros(1, width), grid - grid.mean(0)])


class Attention(nn.Module):
    """Self-attention of all tokens [batch, tokens, width]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer layer that normalises first: attention, then a network of four times the width."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches and a class token, layers, a norm, the mean of the patches, a classifier.

    Images [batch, channels, size, size] to [batch, outputs]. With `keep` [batch, n] only those patches are read.
    """

    positions: Tensor

    def __init__(self, channels: int, outputs: int, size: int, patch: int, width: int, depth: int, heads: int):
        super().__init__()
        self.channels, self.patch, self.side, self.width = channels, patch, size // patch, width
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sine_positions(self.side, width))
        self.blocks = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, outputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.class_token, std=0.02)

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return self.side**2

    def encode(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """The class token and the patches, or those that are kept, [batch, 1 + n, width]."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions[1:]
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, self.width))
        x = torch.cat([(self.class_token + self.positions[:1]).expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.fc(self.encode(images, keep)[:, 1:].mean(1))


class Decoder(nn.Module):
    """All patches out of those that were encoded: [batch, 1 + n, width] and their places to [batch, patches, values]."""

    positions: Tensor

    def __init__(self, encoder: VisionTransformer, width: int, depth: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", sine_positions(encoder.side, width))
        self.blocks = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, keep: Tensor) -> Tensor:
        seen = self.embed(encoded)
        places = keep[..., None].expand(-1, -1, seen.shape[2])
        every = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions) - 1, -1)
        x = torch.cat([seen[:, :1], every.scatter(1, places, seen[:, 1:])], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1:])


class MaskedAutoencoder(nn.Module):
    """An encoder of kept patches and a decoder that fills in the rest (He et al., 2022).

    With `keep` [batch, n] it predicts all patches [batch, patches, values]; without, it classifies as its encoder does.
    """

    def __init__(self, encoder: VisionTransformer, width: int, depth: int, heads: int):
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder, width, depth, heads)
        self.predict = nn.Linear(width, encoder.patch**2 * encoder.channels)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is None:
            return self.encoder(images)
        return self.predict(self.decoder(self.encoder.encode(images, keep), keep))


@builder
def vit(channels: int, outputs: int, size: int = 32, patch: int = 4, width: int = 64, depth: int = 4,
        heads: int = 4) -> VisionTransformer:  # fmt: skip
    """A vision transformer for images [batch, channels, size, size], with fixed positions and the mean of patches at its end.

    Taps: embed, blocks.0, blocks.1, ..., norm, fc.
    """
    if whole("size", size) % whole("patch", patch):
        raise ArgumentError(f"vit: patch={patch} does not divide the side of the images, {size}.")
    _fits("vit", width, depth, heads)
    return VisionTransformer(whole("channels", channels), whole("outputs", outputs), size, patch, width, depth, heads)


@builder
def masked_autoencoder(encoder: dict[str, Any], width: int, depth: int, heads: int) -> MaskedAutoencoder:
    """A `MaskedAutoencoder` with fresh weights, around a `vit` that is built by its own builder."""
    from limbeck.students.save import build_from

    built: Any = build_from(encoder)
    return MaskedAutoencoder(built, width, depth, heads)


def autoencoder_around(encoder: VisionTransformer, width: int, depth: int, heads: int) -> MaskedAutoencoder:
    """A `MaskedAutoencoder` with a fresh decoder around this very encoder, that knows how it is built again."""
    from limbeck.students.save import how_to_build

    _fits("decoder", width, depth, heads)
    made = MaskedAutoencoder(encoder, width, depth, heads)
    arguments = {"encoder": how_to_build(encoder), "width": width, "depth": depth, "heads": heads}
    spec: Any = {
        "builder": f"{masked_autoencoder.__module__}:{masked_autoencoder.__qualname__}",
        "arguments": arguments,
    }
    made.limbeck_spec = spec
    return made


def _fits(name: str, width: int, depth: int, heads: int) -> None:
    whole("depth", depth)
    if whole("width", width, 4) % whole("heads", heads) or width % 4:
        raise ArgumentError(f"{name}: width={width}, heads={heads}: expected a multiple of 4 and of the heads.")
