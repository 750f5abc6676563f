"""Recipes that ask for few answers, or keep few samples: which ones is chosen by what a model says of them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage

Choice = Literal["pcoreset", "random", "entropy", "margin", "core_set", "badge", "rad"]


@recipe(paper="PCoreSet: Effective Active Learning through Knowledge Distillation from Vision-Language Models", year=2025,
        field="classifiers", needs=("logits", "labels"))  # fmt: skip
def activekd_pcoreset(job: Job, selector: Choice = "pcoreset", rounds: int = 8, queries: int = 0, shots: int = 1,
                      temperature: float = 2.0, hard: float = 0.5) -> Generator[Stage, Result, None]:  # fmt: skip
    """Ask for labels round by round, where the student's probabilities leave the most uncovered, while the teacher teaches all.

    limbeck distill activekd_pcoreset teacher=... student=... data=... rounds=8 queries=10

    One label of each class at first. Each round trains a new student with two heads, 0.5 CE(hard head) + 0.5 KD(soft head),
    half of every batch labelled; then PCoreSet asks about `queries` samples (0: as many as classes): each the farthest, in the
    space of probabilities, from all that are known or chosen (2025, erjui/PCoreSet). The labels of the data are the oracle:
    those not asked for are hidden. The run's length is that of each round.
    """
    from limbeck.training.asking import Asked
    from limbeck.training.headed import two_heads

    size = job.settings.batch_size
    if rounds < 0 or queries < 0 or shots < 1:
        raise ArgumentError(
            f"rounds={rounds}, queries={queries}, shots={shots}: expected 0 or more, and one shot or more."
        )
    if size == "all" or int(size) < 2 or not 0 < hard < 1:
        raise ArgumentError(
            f"batch_size={size}, hard={hard}: expected a number of 2 or more, and a share between 0 and 1."
        )
    asked = Asked(job, selector, labels=True)
    asked.start_per_class(shots)
    for number in range(rounds + 1):
        student = two_heads(replace(job, student=job.fresh_student(number + 1)))
        part = asked.labelled()
        both = "unlabelled" in part.kinds()
        soft = (2.0 if both else 1.0) * (1 - hard) * o.forward_kl(temperature=temperature).on("soft", "logits")
        result = yield job.stage(
            hard * o.cross_entropy().on("hard") + soft, student=student, part=part, name=f"{int(asked.known.sum())} labels",
            labelled_per_batch=int(size) // 2 if both else None,
        )  # fmt: skip
        if number < rounds:
            asked.next(result.student, "hard#input", queries or len(job.data.classes or []))


@recipe(paper="Robust Active Distillation", year=2023, field="classifiers", needs=("logits",))
def rad(job: Job, selector: Choice = "rad", rounds: int = 5, queries: int = 50, start: int = 50, wrong: float = -1.0,
        temperature: float = 1.0) -> Generator[Stage, Result, None]:  # fmt: skip
    """Ask a teacher that costs, and is sometimes wrong, about samples that teach most even if an adversary chose its mistakes.

    limbeck distill rad teacher=... student=... data=... rounds=5 queries=50

    `start` samples by chance at first. Each round trains a new student by KL on what was answered; then `queries` samples are
    drawn without replacement by the distribution that is best against the worst `wrong` share of mistakes, of gains 1 - (first
    - second probability of the student) (Baykal et al., 2023). Below 0, `wrong` is the teacher's error on the validation part.
    The teacher reads nothing else of the training part. The run's length is that of each round.
    """
    from limbeck.data.base import SubsetPart
    from limbeck.training.asking import Asked, last_inputs, share_of_wrong

    if rounds < 0 or queries < 1 or start < 1:
        raise ArgumentError(f"rounds={rounds}, queries={queries}, start={start}: expected 0 or more, and 1 or more.")
    features = last_inputs(job)
    asked = Asked(job, selector, labels=False, wrong=share_of_wrong(job, wrong))
    asked.start(start)
    for number in range(rounds + 1):
        part = SubsetPart(job.data.train, asked.places(), "answered")
        result = yield job.stage(o.forward_kl(temperature=temperature), student=job.fresh_student(number + 1), part=part,
                                 name=f"{len(part)} answers")  # fmt: skip
        if number < rounds:
            asked.next(result.student, features, queries)


@recipe(paper="Distilling the Knowledge in Data Pruning", year=2024, field="classifiers", needs=("logits", "labels"))
def data_pruning_kd(job: Job, fraction: float = 0.5, score: Literal["random", "el2n"] = "random", soft: float = -1.0,
                    temperature: float = 4.0, before: float = 0.2) -> Generator[Stage, Result, None]:  # fmt: skip
    """Keep a part of the data: with a teacher that has seen all of it, chance keeps as well as a score does.

    limbeck distill data_pruning_kd teacher=... student=... data=... fraction=0.3

    (1 - soft) CE + soft * KD on a `fraction` of the labelled samples: by chance, or the hardest by EL2N, |p - onehot|, of a
    student trained on all labels for the share `before` of the length. Below 0, `soft` is 1 - fraction / 2: the less is kept,
    the more the teacher counts (2024, no code is published; this rule, and EL2N of one network rather than ten, are ours).
    Steps count, not epochs: give steps=.
    """
    import torch

    from limbeck.data.base import SubsetPart
    from limbeck.functional.pool import error_norm
    from limbeck.signals.step import derive
    from limbeck.teachers.base import ModuleTeacher
    from limbeck.training.inside import signals_of_train

    if not 0 < fraction <= 1 or soft > 1:
        raise ArgumentError(
            f"fraction={fraction}, soft={soft}: expected a share above 0, and one up to 1 (below 0: by fraction)."
        )
    share = soft if soft >= 0 else 1 - fraction / 2
    places = job.data.train.is_labelled().nonzero()[:, 0]
    count = max(1, round(fraction * len(places)))
    if score == "random":
        draw = torch.Generator().manual_seed(derive(job.settings.seed, "kept") % 2**62)
        kept = places[torch.randperm(len(places), generator=draw)[:count]]
    else:
        part = SubsetPart(job.data.train, places, "labelled")
        probe = job.stage(o.cross_entropy(), student=job.fresh_student(1), part=part, name="probe",
                          **job.settings.portion(before))  # fmt: skip
        probe.evaluate = None
        said = signals_of_train(job, ModuleTeacher((yield probe).student), ["logits"])["logits"].softmax(-1)
        labels = job.data.train.labels
        assert labels is not None
        kept = places[error_norm(said[places], labels[places]).argsort(descending=True, stable=True)[:count]]
    objective = (1 - share) * o.cross_entropy() + share * o.forward_kl(temperature=temperature)
    yield job.stage(objective, part=SubsetPart(job.data.train, kept.sort().values, f"{count} kept"))
