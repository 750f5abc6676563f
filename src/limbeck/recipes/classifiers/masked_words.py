"""Recipes that distil masked language models, and tune what they gave for the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.classifiers.pretraining import stage_before
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Distilling the Knowledge of Romanian BERTs Using Multiple Teachers", year=2022, field="classifiers",
        needs=("labels",))  # fmt: skip
def romanian_bert(job: Job, teachers: Any = None, general: Any = None, before: float = 0.5, soft: float = 5.0,
                  hard: float = 2.0, cosine: float = 1.0, temperature: float = 2.0, rate: float = 0.15,
                  begin: bool = True) -> Generator[Stage, Result, None]:  # fmt: skip
    """Begin at every second layer of a masked language model, and learn words from one such teacher or the mean of several.

    limbeck distill romanian_bert "teachers=[FOLDER, FOLDER]" student=... data=... general=sentences.txt

    Stage 1, on masked texts of `general` or of the task: 5 T^2 KL(mean of the teachers' probabilities || student) at T = 2,
    over all tokens, + 2 CE of the words left out + 1 (1 - cosine) of the last hidden states (Avram et al., 2022, after
    DistilBERT, Sanh et al., 2019; weights from memory). Ours: a mean over a text's tokens first, the mean of the cosines where
    there are several, at least one word of each text left out. Student and teachers have one tokenizer and width. Stage 2: CE,
    of a share 1 - `before`; with a teacher of the task 5 KD + 2 CE (ours). Without `teachers` there is only that. The report's
    loyalty tells how the student agrees with a teacher of the task, right or wrong.
    """
    from limbeck.training.general import general_part

    if min(soft, hard, cosine) < 0 or not soft + hard + cosine > 0 or not temperature > 0:
        raise ArgumentError(
            f"soft={soft}, hard={hard}, cosine={cosine}, temperature={temperature}: expected weights of 0 or more, not all 0, "
            "and a temperature above 0."
        )
    if teachers is not None:
        from limbeck.objectives.masked_words import masked_triple
        from limbeck.training.masked_words import masked_stage

        masked = masked_stage(job, teachers, rate, begin)
        triple = masked_triple(masked, soft, hard, cosine, temperature)
        yield stage_before(job, triple, before, "masked words", part=general_part(job, general) or job.data.train,
                           views=masked.views, roles=masked.roles)  # fmt: skip
    elif job.teacher is None:
        job.warn("romanian_bert without teachers= and teacher=: the student learned from the labels alone.")
    length = {} if teachers is None else job.settings.portion(1 - before, epochs=True)
    if job.teacher is None or not job.teacher.gives_logits:
        yield job.stage(o.cross_entropy(), part=job.labelled(), name="task", **length)
    else:
        yield job.stage(soft * o.forward_kl(temperature=temperature) + hard * o.cross_entropy(), name="task", **length)
