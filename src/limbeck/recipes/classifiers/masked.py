"""Recipes of masked autoencoders: vision transformers that first learn from images of which they see a few patches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.classifiers.pretraining import stage_before
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Masked Autoencoders Are Scalable Vision Learners", year=2022, field="classifiers", needs=("labels",))
def mae(job: Job, ratio: float = 0.75, normalised: bool = False, decoder_width: int = 0, decoder_depth: int = 2,
        before: float = 0.5) -> Generator[Stage, Result, None]:  # fmt: skip
    """Fill in the hidden patches of images first, whether they have labels or not, and learn the labels after that.

    limbeck distill mae student="vit(width=64,depth=4)" data=... labelled=0.1

    Stage 1: MSE of the pixels of the hidden patches, `ratio` of all, of which the encoder sees nothing; `normalised`: of each
    patch's normalised pixels. Stage 2: CE (He et al., 2022, whose decoder is 512 wide and 8 deep; 0: as wide as the student,
    sizes and `before` ours). The decoder is not part of the student. With before=1 nothing but stage 1 is done, and what is
    saved is the autoencoder, its decoder too: the `pretrained` of dmae and g2sd.
    """
    from limbeck.training.masking import masked_view, with_decoder

    model = with_decoder(job, decoder_width, decoder_depth)
    view, patch = masked_view(model.encoder, ratio), model.encoder.patch
    fill = o.reconstruction(view.kept, patch, normalised=normalised)
    if before == 1:
        stage = job.stage(fill, name="reconstruction", student=model, views={"student": view})
        stage.evaluate = None
        yield stage
        return
    result = yield stage_before(job, fill, before, "reconstruction", student=model, views={"student": view})
    trained: Any = result.student
    length = job.settings.portion(1 - before, epochs=True)
    yield job.stage(o.cross_entropy(), student=trained.encoder, part=job.labelled(), **length)


@recipe(paper="Masked Autoencoders Enable Efficient Knowledge Distillers", year=2023, field="classifiers",
        needs=("features", "labels"))  # fmt: skip
def dmae(job: Job, pretrained: Any = None, ratio: float = 0.75, at: float = 0.75, weight: float = 1.0,
         normalised: bool = False, decoder_width: int = 0, decoder_depth: int = 2,
         before: float = 0.5) -> Generator[Stage, Result, None]:  # fmt: skip
    """While filling in hidden patches, have the teacher's features of the few that are seen; learn the labels after that.

    limbeck distill dmae teacher=... student="vit(width=64,depth=4)" data=... pretrained=FOLDER labelled=0.1

    Stage 1: MSE of the pixels of hidden patches + `weight` * mean L1 of W h_S and h_T, each token of length 1, at `at` of
    either depth, over the class token and the patches that are seen, which are the same for both (Bai et al., 2023: 3/4 of the
    depth, weight 1, AdamW of betas 0.9 and 0.95). The teacher runs on those patches, up to that block. Stage 2: CE.
    `pretrained`: the teacher's masked autoencoder before any label, as in the paper (mae with before=1); without it `teacher`
    is read. W and the decoder are not part of the student; its sizes and `before` are ours, and so is W at equal widths.
    """
    from limbeck.functional import token_directions
    from limbeck.training.masking import (
        MaskedTeacher,
        block_at,
        encoder_of,
        masked_view,
        pretrained_teacher,
        with_decoder,
    )

    teacher = pretrained_teacher(job, pretrained)
    theirs, prefix = encoder_of(teacher, "teacher")
    model = with_decoder(job, decoder_width, decoder_depth)
    view, patch = masked_view(model.encoder, ratio, [theirs]), model.encoder.patch
    taps = f"encoder.{block_at(model.encoder, at)}", prefix + block_at(theirs, at)
    align = o.feature_l1().on(*taps).projected("linear").through(token_directions)
    inside = o.reconstruction(view.kept, patch, normalised=normalised) + weight * align
    assert teacher is not None
    result = yield stage_before(job, inside, before, "features", student=model, views={"student": view},
                                roles={"teacher": MaskedTeacher(teacher, view)})  # fmt: skip
    trained: Any = result.student
    length = job.settings.portion(1 - before, epochs=True)
    yield job.stage(o.cross_entropy(), student=trained.encoder, part=job.labelled(), **length)


@recipe(paper="Generic-to-Specific Distillation of Masked Autoencoders", year=2023, field="classifiers",
        needs=("features", "logits", "labels"))  # fmt: skip
def g2sd(job: Job, pretrained: Any = None, ratio: float = 0.75, at: float = 0.5, decoder_width: int = 0,
         decoder_depth: int = 2, before: float = 0.5) -> Generator[Stage, Result, None]:  # fmt: skip
    """Learn what the teacher's decoder makes of hidden patches first, and labels and the teacher's own answers after that.

    limbeck distill g2sd teacher=... student="vit(width=64,depth=4)" data=... pretrained=FOLDER labelled=0.1

    Generic: smooth L1 (beta 2) of the student's decoded tokens, its last, behind a predictor, and the `pretrained`
    autoencoder's at half of its decoder, layer-normalised; all positions, one mask for both. Specific: (CE of the labels + CE
    of the teacher's best class) / 2, by a head each, `teacher` the fine-tuned one (Huang et al., 2023, whose student decodes in
    4 blocks of 256, and has a token for the second head: here both heads read the mean of the patches, ours). The prediction
    is the mean of both heads' probabilities. Without `pretrained` the teacher must be an autoencoder itself. Decoder and
    predictor are not part of the student.
    """
    from limbeck.students.masked import MaskedAutoencoder
    from limbeck.training.headed import two_heads
    from limbeck.training.masking import MaskedTeacher, block_at, masked_view, pretrained_teacher, with_decoder

    teacher = pretrained_teacher(job, pretrained)
    if not isinstance(teacher, MaskedAutoencoder):
        raise ArgumentError(
            f"g2sd follows the decoder of a masked autoencoder, and a {type(teacher).__name__} has none: give pretrained=, a "
            "folder that `limbeck distill mae ... before=1` wrote."
        )
    model = with_decoder(job, decoder_width, decoder_depth)
    view = masked_view(model.encoder, ratio, [teacher.encoder])
    taps = f"decoder.blocks.{decoder_depth - 1}", f"decoder.{block_at(teacher.decoder, at)}"
    generic = o.standardised_smooth_l1().on(*taps).projected("predictor")
    result = yield stage_before(job, generic, before, "generic", student=model, views={"student": view},
                                roles={"teacher": MaskedTeacher(teacher, view)})  # fmt: skip
    trained: Any = result.student
    specific = 0.5 * o.cross_entropy().on("hard") + 0.5 * o.argmax_cross_entropy().on("soft", "logits")
    yield job.stage(specific, name="specific", student=two_heads(replace(job, student=trained.encoder)),
                    **job.settings.portion(1 - before, epochs=True))  # fmt: skip
