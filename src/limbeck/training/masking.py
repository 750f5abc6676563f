"""One random mask of patches in a step, for all who look: the student, its teacher, and what is reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.data.base import Batch, Inputs
from limbeck.errors import ArgumentError
from limbeck.functional.masked import kept_patches
from limbeck.signals.step import Ref, Step, derive
from limbeck.students.declare import seeded
from limbeck.students.masked import Decoder, MaskedAutoencoder, VisionTransformer, autoencoder_around
from limbeck.tasks.base import Task
from limbeck.teachers.base import ModuleTeacher
from limbeck.teachers.live import Derived

if TYPE_CHECKING:
    from limbeck.training.job import Job


@dataclass
class Masked:
    """What is seen of a batch of images: `keep` of their `patches`, by chance, drawn once in a step."""

    patches: int
    keep: int

    def kept(self, step: Step) -> Tensor:
        """The places of the kept patches, [batch, keep]."""
        count = len(step.batch)
        return step.once("kept patches", lambda generator: kept_patches(count, self.patches, self.keep, generator))

    def __call__(self, batch: Batch, step: Step) -> Inputs:
        return {"images": batch.inputs, "keep": self.kept(step).to(batch.ids.device)}


class MaskedTeacher(Derived):
    """A teacher that reads the kept patches alone, and no further than the last signal that is asked for."""

    def __init__(self, module: nn.Module, view: Masked):
        self.base, self.view = ModuleTeacher(module), view

    def sources(self, taps: Sequence[str]) -> list[Ref]:
        return []

    def derive(self, step: Step, taps: Sequence[str], task: Task) -> dict[str, Any]:
        self.base.to(step.batch.ids.device)
        batch = replace(step.batch, inputs=self.view(step.batch, step))
        return self.base.read(batch, taps, task, progress=step.progress)


def encoder_of(module: nn.Module | None, role: str) -> tuple[VisionTransformer, str]:
    """The vision transformer of a model, and what comes before its names in a tap. Raises ArgumentError for another model."""
    if isinstance(module, MaskedAutoencoder):
        return module.encoder, "encoder."
    if not isinstance(module, VisionTransformer):
        raise ArgumentError(
            f"The {role} is a {type(module).__name__}, which cannot read a part of the patches of an image. This recipe takes "
            "Limbeck's vision transformers (student='vit(width=64, depth=4)') and masked autoencoders around them (what "
            "`limbeck distill mae ... before=1` gives), not those of other libraries."
        )
    return module, ""


def masked_view(encoder: VisionTransformer, ratio: float, others: Sequence[VisionTransformer] = ()) -> Masked:
    """The view that hides the share `ratio` of the patches from an encoder and from `others`, which must cut images alike."""
    keep = int(encoder.patches * (1 - ratio) + 1e-9) if 0 < ratio < 1 else 0
    if not 0 < keep < encoder.patches:
        raise ArgumentError(
            f"ratio={ratio!r}: expected a share above 0 and below 1 that leaves one or more of {encoder.patches} patches, and "
            "hides one or more. Smaller patches (patch=2) are more of them."
        )
    for other in others:
        if (other.side, other.patch) != (encoder.side, encoder.patch):
            raise ArgumentError(
                f"Student and teacher share their patches, and the student has {encoder.side} x {encoder.side} of "
                f"{encoder.patch} pixels, the teacher {other.side} x {other.side} of {other.patch}: give the student patch="
                f"{other.patch}."
            )
    return Masked(encoder.patches, keep)


def with_decoder(job: Job, width: int, depth: int, heads: int = 0) -> MaskedAutoencoder:
    """A masked autoencoder around the job's student; 0: as wide, with as many heads, as the student. Raises ArgumentError."""
    encoder, _ = encoder_of(job.student, "student")
    first: Any = encoder.blocks[0]
    with seeded(derive(job.settings.seed, "decoder") % 2**31):
        made = autoencoder_around(encoder, width or encoder.width, depth, heads or first.attention.heads)
    return made.to(encoder.class_token.device)


def pretrained_teacher(job: Job, given: Any) -> nn.Module | None:
    """The module of the model that `pretrained` names; without it the job's teacher."""
    teacher = job.model(given, "pretrained") or job.teacher
    return teacher.module if isinstance(teacher, ModuleTeacher) else None


def block_at(encoder: VisionTransformer | Decoder, share: float) -> str:
    """The tap of the block that ends a share of the depth: block 9 of 12 at 3/4."""
    if not 0 < share <= 1:
        raise ArgumentError(f"at={share!r}: expected a share of the depth, above 0 and up to 1.")
    return f"blocks.{max(1, round(share * len(encoder.blocks))) - 1}"
