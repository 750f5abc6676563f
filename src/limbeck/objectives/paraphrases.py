"""Learning to paraphrase: the stage before factor transfer, in which the student has no part."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives.algebra import Term
from limbeck.objectives.factors import Paraphraser, check_maps, factors
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Paraphrase(Term):
    """See `paraphrase`."""

    def __init__(self, tap: str, rate: float):
        super().__init__("paraphrase")
        self.ref, self.rate = Ref.parse(tap, "teacher"), rate
        self.module: Paraphraser | None = None

    def needs(self) -> list[Ref]:
        return [self.ref]

    @property
    def is_built(self) -> bool:
        return self.module is not None

    def make(self, step: Step, seed: int) -> None:
        if self.module is not None:
            return
        maps = upcast(step.signal(self.ref))
        check_maps(maps.shape, "teacher")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = Paraphraser(maps.shape[1], factors(maps.shape[1], self.rate))
        self.module.to(maps.device, maps.dtype)

    def values(self, step: Step) -> Tensor:
        assert self.module is not None
        maps = upcast(step.signal(self.ref)).detach()
        return (self.module.decoder(self.module.encoder(maps)) - maps).square().flatten(1).mean(1)

    def __str__(self) -> str:
        return f"paraphrase({self.ref.tap!r}, rate={self.rate:g})"


def paraphrase(*, tap: str, rate: float = 0.5) -> Paraphrase:
    """Squared error of an autoencoder that gives a teacher's maps again, `rate` of the channels in its middle. Values [batch].

    The mean over a sample's elements. `tap` is of maps [batch, channels, height, width]. Only the autoencoder learns, which is
    the term's `module` (factor transfer, Kim et al., 2018). Additive over samples.
    """
    return Paraphrase(tap, rate)
