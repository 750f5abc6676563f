"""Factor transfer's parts (Kim et al., 2018): the paraphraser of the teacher's maps, and the translator of the student's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import SignalError

SLOPE = 0.1  # of the leaky ReLUs


def check_maps(shape: Sequence[int], who: str) -> None:
    if len(shape) != 4:
        raise SignalError(
            f"Factor transfer is for maps [batch, channels, height, width]; the {who}'s signal is {list(shape)}. Name a layer "
            f"of maps by {who}_layer=, or use a recipe of vectors (rkd) or outputs (kd)."
        )


def factors(channels: int, rate: float) -> int:
    """How many channels the factors of a teacher's maps have."""
    if not rate > 0:
        raise ValueError(f"rate={rate!r}: expected a positive number")
    return max(1, round(rate * channels))


def translator(student: Sequence[int], teacher: Sequence[int]) -> nn.Sequential:
    """Three 3x3 convolutions with BN and leaky ReLU from the student's maps to as many channels as the factors have."""
    check_maps(student, "student")
    check_maps(teacher, "teacher")
    layers: list[nn.Module] = []
    for before, behind in ((student[1], student[1]), (student[1], teacher[1]), (teacher[1], teacher[1])):
        layers += [nn.Conv2d(before, behind, 3, padding=1), nn.BatchNorm2d(behind), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """A convolutional autoencoder of maps [batch, channels, height, width]; forward gives the factors, its middle."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        down, up = (channels, channels, inner, inner), (inner, inner, channels, channels)
        self.encoder, self.decoder = (
            nn.Sequential(*(layer for before, behind in itertools.pairwise(sizes)
                            for layer in (kind(before, behind, 3, padding=1), nn.LeakyReLU(SLOPE))))
            for kind, sizes in ((nn.Conv2d, down), (nn.ConvTranspose2d, up))
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        return self.encoder(maps)
