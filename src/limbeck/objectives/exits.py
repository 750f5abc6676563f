"""Exits: small classifiers on a student's inner stages, which an objective owns. They are not part of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError

GRID = 7  # the largest grid of tokens on which an exit works


def exit_head(student: Sequence[int], teacher: Sequence[int], depth: int = 1, mixing: bool = True) -> nn.Module:
    """An exit from a stage's signal to logits of the width of the teacher's, after OFA-KD (Hao et al., 2023).

    Maps [batch, channels, height, width]: `depth` blocks of separable convolutions, each halving the side (while it is above
    1) and doubling the channels (ours), average pool, linear. Tokens [batch, tokens, width]: neighbours merged while the grid
    is larger than 7x7, max(depth, 1) transformer blocks, the class token (where the others are a square) or the mean, linear;
    without `mixing`, the first token and a linear layer. Vectors [batch, width]: linear. Raises SignalError for other shapes.
    """
    outputs = teacher[-1]
    if len(student) == 2:
        return nn.Linear(student[1], outputs)
    if len(student) == 4:
        return _of_maps(student[1], min(student[2:]), outputs, depth)
    if len(student) != 3:
        raise SignalError(
            f"An exit is for maps, tokens or vectors; the student's signal is {list(student)}. Tap another layer."
        )
    return TokenExit(student[1], student[2], outputs, depth) if mixing else FirstTokenExit(student[2], outputs)


def _of_maps(channels: int, side: int, outputs: int, depth: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for _ in range(depth):
        blocks.append(_separable(channels, 2 * channels, 2 if side > 1 else 1))
        channels, side = 2 * channels, (side + 1) // 2
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    def half(before: int, after: int, stride: int) -> list[nn.Module]:
        spread = nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False)
        return [spread, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(*half(inputs, inputs, stride), *half(inputs, outputs, 1))


class FirstTokenExit(nn.Module):
    """A linear layer on the first token: for texts, whose padding the others would mix in."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.fc = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(tokens[:, 0])


class TokenExit(nn.Module):
    """Patch tokens to logits: merge, mix, read out. See `exit_head`."""

    def __init__(self, tokens: int, width: int, outputs: int, depth: int):
        super().__init__()
        self.extra = 1 if math.isqrt(tokens) ** 2 != tokens and math.isqrt(tokens - 1) ** 2 == tokens - 1 else 0
        side = math.isqrt(tokens - self.extra)
        self.merges = nn.ModuleList()
        while side**2 == tokens - self.extra and side > GRID and side % 2 == 0:
            self.merges.append(nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, width, bias=False)))
            side, tokens = side // 2, (side // 2) ** 2 + self.extra
        heads = next(count for count in (4, 2, 1) if width % count == 0)
        self.blocks = nn.Sequential(*(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(max(depth, 1))
        ))  # fmt: skip
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        first, rest = tokens[:, : self.extra], tokens[:, self.extra :]
        for merge in self.merges:
            batch, count, width = rest.shape
            half = math.isqrt(count) // 2
            squares = rest.view(batch, half, 2, half, 2, width).transpose(2, 3)
            rest = merge(squares.reshape(batch, half * half, 4 * width))
        mixed = self.norm(self.blocks(torch.cat([first, rest], 1)))
        return self.fc(mixed[:, 0] if self.extra else mixed.mean(1))
