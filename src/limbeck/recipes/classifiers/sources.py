"""Recipes that learn from models of other tasks: no teacher knows our classes, and some know something near them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage

Similarity = Literal["parc", "leep"]


@recipe(paper="Distilling from Similar Tasks for Transfer Learning on a Budget", year=2023, field="classifiers",
        needs=("labels",))  # fmt: skip
def distill_weighted(job: Job, sources: Any = None, hard: float = 0.8, power: float = 12.0, similarity: Similarity = "parc",
                     dimensions: int = 32) -> Stage:  # fmt: skip
    """Learn few labels, and on all other samples the classes of models of other tasks, each by how near its task is to ours.

    limbeck distill distill_weighted "sources=[FOLDER, FOLDER]" student=... data=... labelled=100

    hard CE(labelled) + (1 - hard) sum_s a_s CE(p_s, q_s)(unlabelled), each a mean over its samples; p_s the source's own
    classes, q_s a linear head for them on the student's features, trained beside it and not part of it; a_s = max(e_s, 0)^power
    over their sum, e_s its PARC on the labelled samples, of `dimensions` principal components (0: none), or exp(LEEP)
    (Borup et al., 2023; no code is published: `hard` and `power` are of memory, the halves of a batch ours, and that a
    component needs 4 samples, since with as many as samples all pairs are equally far). The report tells each similarity with
    its bootstrap interval. Where all samples are labelled, the sources speak about all. Without sources the teacher is the
    one; without a teacher, labels are learned alone.
    """
    if not power > 0:
        raise ArgumentError(
            f"power={power}: expected a number above 0; the larger, the more the most similar source counts."
        )
    return _from_sources(job, sources, hard, power, similarity, dimensions)


@recipe(paper="Distilling from Similar Tasks for Transfer Learning on a Budget (of one source)", year=2023,
        field="classifiers", needs=("labels",))  # fmt: skip
def distill_nearest(job: Job, sources: Any = None, hard: float = 0.8, similarity: Similarity = "parc",
                    dimensions: int = 32) -> Stage:  # fmt: skip
    """Of many models of other tasks choose the one whose task is nearest to ours, and learn its classes beside few labels.

    limbeck distill distill_nearest "sources=[FOLDER, FOLDER]" student=... data=... labelled=100

    `distill_weighted` with all the weight on the most similar source (Borup et al., 2023).
    """
    return _from_sources(job, sources, hard, None, similarity, dimensions)


def _from_sources(
    job: Job, given: Any, hard: float, power: float | None, similarity: Similarity, dimensions: int
) -> Stage:
    from limbeck.training.inside import classifier
    from limbeck.training.similar import Marked, load_sources, measure, tell, weigh

    size = job.settings.batch_size
    both = {"labels", "unlabelled"} <= job.data.train.kinds()
    if not 0 < hard < 1 or dimensions < 0:
        raise ArgumentError(f"hard={hard}, dimensions={dimensions}: expected a share between 0 and 1, and 0 or more.")
    if both and (size == "all" or int(size) < 2):
        raise ArgumentError(f"batch_size={size}: half of every batch is labelled; give a number of 2 or more.")
    sources = load_sources(job, given)
    if not sources:
        job.warn("No sources were given, and no teacher: the student learned from the labels alone. Give sources=.")
        return job.stage(o.cross_entropy(), part=job.labelled())
    samples = measure(job, sources, similarity, dimensions)
    weigh(sources, similarity, power)
    tell(job, sources, similarity, samples)
    features, loss, roles = f"{classifier(job, 'student')}#input", hard * o.cross_entropy(), {}
    for number, source in enumerate(sources):
        if source.weight > 1e-4:
            follow = o.soft_cross_entropy().on(features, f"source{number}:logits").projected("linear")
            follow = follow.among("unlabelled") if both else follow
            loss = loss + (1 - hard) * source.weight * follow.named(f"source({source.name})")
            roles[f"source{number}"] = source.teacher
    if not both:
        return job.stage(loss, roles=roles)
    return job.stage(loss, roles=roles, part=Marked(job.data.train), labelled_per_batch=int(size) // 2)
