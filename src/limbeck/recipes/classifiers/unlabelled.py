"""Recipes for many inputs without labels: of the task itself, or of a kind that the teacher was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.classifiers.pretraining import stage_before
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch.nn import Module

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Big Self-Supervised Models are Strong Semi-Supervised Learners", year=2020, field="classifiers",
        needs=("labels",))  # fmt: skip
def simclr_v2(job: Job, big: str = "", augment: str = "shift:1", pretrain: float = 0.4, finetune: float = 0.1,
              temperature: float = 0.1, soft: float = 1.0,
              soft_temperature: float = 1.0) -> Generator[Stage, Result, None]:  # fmt: skip
    """Pretrain a big network on all inputs without labels, fine-tune it on few labels, and let a small one follow it on all.

    limbeck distill simclr_v2 student=... data=... labelled=50 big="cnn(width=64)" augment=crop_flip

    Stage 1: NT-Xent between two views by `augment`, behind a head of three layers. Stage 2: CE from the head's FIRST layer on.
    Stage 3: soft * cross-entropy between the big network's probabilities and the student's, no T^2, + (1 - soft) CE (Chen et
    al., 2020). The shares of the length, `pretrain` and `finetune`, are ours; the paper's views are crops, colours and blur.
    Without `big` it is a copy of the teacher, if one is given, and else fresh and like the student (self-distillation).
    """
    from limbeck.data.augment import make_augmentation
    from limbeck.training.headed import deepen
    from limbeck.training.second_view import two_views

    if not (pretrain > 0 and finetune > 0 and pretrain + finetune < 1 and 0 < soft <= 1):
        raise ArgumentError(
            f"pretrain={pretrain}, finetune={finetune}, soft={soft}: expected shares above 0, of which the first two leave a "
            "rest for the student."
        )
    network = deepen(job, big)
    contrast = o.view_contrast("first", temperature=temperature)
    views = two_views(job, network, make_augmentation(augment))
    yield stage_before(job, contrast, pretrain, "pretraining", student=network, **views)
    tuning = job.settings.portion(finetune, epochs=True)
    tuned = yield job.stage(o.cross_entropy(), student=network, part=job.labelled(), name="fine-tuning", **tuning)
    follow = soft * o.soft_cross_entropy(temperature=soft_temperature)
    objective = follow if soft == 1 else (1 - soft) * o.cross_entropy() + follow
    rest = job.settings.portion(1 - pretrain - finetune, epochs=True)
    yield job.stage(objective, teacher=tuned.student, name="distillation", **rest)


@recipe(paper="Distribution Shift Matters for Knowledge Distillation with Webly Collected Images", year=2023,
        field="classifiers", needs=("features", "logits"))  # fmt: skip
def kd3(job: Job, rounds: int = 3, keep: float = 0.5, trust: float = 0.5, weight: float = 1.0, invariance: float = 0.1,
        temperature: float = 4.0) -> Generator[Stage, Result, None]:  # fmt: skip
    """Learn from images of another kind than the teacher's: choose the useful ones, share its classifier, ignore their style.

    limbeck distill kd3 teacher=... student=... data=WEB_IMAGES keep=0.5

    In each round the share `keep` of the images counts that are surest, class by class, by (1 - r) p_teacher + r p_student, r
    from 0 to `trust`. T^2 KL + weight * confidence * MSE of the student's projected vector, which the TEACHER'S frozen
    classifier reads, to the teacher's + invariance * NT-Xent between an image and itself in another's brightness and contrast
    (after Tang et al., 2023; no code is published, details ours). Projector and the teacher's classifier are part of the
    student. No label is looked at. For images.
    """
    from limbeck.training.asking import sure_part
    from limbeck.training.headed import share_classifier
    from limbeck.training.inside import classifier
    from limbeck.training.second_view import mixed_statistics

    if rounds < 1 or not 0 < keep <= 1 or not 0 <= trust <= 1:
        raise ArgumentError(
            f"rounds={rounds}, keep={keep}, trust={trust}: expected one round or more, a share above 0 and one from 0 to 1."
        )
    features = f"{classifier(job, 'teacher')}#input"
    student: Module = share_classifier(job)
    for number in range(rounds):
        share = trust * number / max(1, rounds - 1)
        objective = o.forward_kl(temperature=temperature) + weight * o.confident_mse("projector", features, share=share)
        objective += invariance * o.view_contrast("projector", views=("", "mixed"), width=0)
        part = sure_part(job, student, share, keep)
        result = yield job.stage(objective, student=student, part=part, name=f"{len(part)} images",
                                 **mixed_statistics(job, student), **job.settings.portion(1 / rounds, epochs=True))  # fmt: skip
        student = result.student
