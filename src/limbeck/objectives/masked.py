"""What a masked autoencoder says of the patches that it did not see."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.masked import patch_mse, patches_of
from limbeck.objectives.algebra import Term
from limbeck.objectives.formula import upcast
from limbeck.signals.step import Ref, Step


class Reconstruction(Term):
    """See `reconstruction`."""

    def __init__(self, kept: Callable[[Step], Tensor], patch: int, normalised: bool, tap: str):
        super().__init__("reconstruction")
        self.kept, self.patch, self.normalised, self.ref = kept, patch, normalised, Ref.parse(tap, "self")

    def needs(self) -> list[Ref]:
        return [self.ref]

    def values(self, step: Step) -> Tensor:
        if not isinstance(step.batch.inputs, Tensor):
            raise SignalError("reconstruction compares patches of images, and the inputs of this batch are none.")
        predicted = upcast(step.signal(self.ref))
        hidden = torch.ones(predicted.shape[:2], device=predicted.device)
        hidden = hidden.scatter(1, self.kept(step).to(predicted.device), 0)
        errors = patch_mse(predicted, patches_of(step.batch.inputs, self.patch), normalised=self.normalised, mask=hidden,
                           reduction="none")  # fmt: skip
        return errors.sum(1) / hidden.sum(1)

    def __str__(self) -> str:
        return f"reconstruction(patch={self.patch}, normalised={self.normalised})"


def reconstruction(kept: Callable[[Step], Tensor], patch: int, *, normalised: bool = False,
                   tap: str = "predict") -> Reconstruction:  # fmt: skip
    """The mean squared error of the patches of a batch's images that were hidden; values [batch], see `functional.patch_mse`.

    `kept`: which patches of a step's samples were seen, [batch, keep]. `tap`: where all patches are predicted, [batch, patches,
    values] (masked autoencoders, He et al., 2022).
    """
    return Reconstruction(kept, patch, normalised, tap)
