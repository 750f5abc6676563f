"""Sources: models of other tasks that teach ours by their own classes, and how near their tasks are (DistillNearest, 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data.base import Part, SubsetPart
from limbeck.errors import ArgumentError, ModelError, SignalError
from limbeck.functional.similarity import bootstrap_interval, leep, parc, principal
from limbeck.signals.order import classifier_of
from limbeck.signals.step import derive
from limbeck.teachers.base import ModuleTeacher, Teacher
from limbeck.training.inside import running, signals_of_train

if TYPE_CHECKING:
    from limbeck.training.job import Job

Similarity = Literal["parc", "leep"]
PROBES = 500  # labelled samples that a similarity looks at, as in PARC
SHARE = 4  # samples to a component at least: with as many components as samples all pairs are equally far apart


@dataclass
class SourceModel:
    """A source: `similarity` to our task, its interval over resampled labels, and its `weight` among all."""

    name: str
    teacher: Teacher
    similarity: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))
    weight: float = 0.0


def load_sources(job: Job, given: Any) -> list[SourceModel]:
    """The models that `sources=` names, of whatever classes; without any the job's teacher, and none without one.

    A list, a mapping of names, or one model. They are not asked for the data's classes, only to take the data's inputs and to
    give a row of logits for each sample. Raises ArgumentError and ModelError.
    """
    from limbeck.teachers.load import load_model

    if given is None:
        return [] if job.teacher is None else [SourceModel("teacher", job.teacher)]
    if not isinstance(given, Mapping):
        given = {str(number): one for number, one in enumerate(given if isinstance(given, list | tuple) else [given])}
    if not given:
        raise ArgumentError("sources= is empty: give models of other tasks, as a list or a mapping of names to models.")
    found = []
    for name, one in given.items():
        module = load_model(one, task=job.task)
        module = module.module if isinstance(module, ModuleTeacher) else module
        if not isinstance(module, nn.Module):
            raise ArgumentError(
                f"The source {name!r} is a {type(module).__name__}; its features are read: give a model."
            )
        logits = job.task.probe(job.data, module, f"source {name!r}")  # type: ignore[attr-defined]
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ModelError(
                f"The source {name!r} gives {list(logits.shape)[1:]} for each sample; expected 2 classes or more."
            )
        found.append(SourceModel(str(name), ModuleTeacher(module)))
    return found


def measure(job: Job, sources: list[SourceModel], how: Similarity, dimensions: int) -> int:
    """Find the similarity of each source on labelled samples, with its interval; how many samples were looked at."""
    part = job.labelled()
    if len(part) > PROBES:
        draw = torch.Generator().manual_seed(derive(job.settings.seed, "probes") % 2**62)
        part = SubsetPart(part, torch.randperm(len(part), generator=draw)[:PROBES].sort().values)
    labels = part.labels
    assert labels is not None
    if len(labels.unique()) < 2:
        raise ArgumentError(
            "The labelled samples are of one class: no similarity can be told. Label some of each class."
        )
    few = replace(job, data=replace(job.data, parts={**job.data.parts, "train": part}))
    for source in sources:
        if how == "leep":
            values = signals_of_train(few, source.teacher, ["logits"])["logits"].softmax(-1)
        else:
            tap = _features(replace(few, teacher=source.teacher), source.name)
            values = signals_of_train(few, source.teacher, [tap])[tap]
            values = principal(values, min(dimensions, max(2, len(part) // SHARE))) if dimensions else values

        def score(places: Tensor, values: Tensor = values) -> float:
            if how == "leep":
                return leep(values[places], labels[places])
            return parc(values[places], labels[places], dimensions=None, samples=places)

        source.similarity = score(torch.arange(len(part)))
        source.interval = bootstrap_interval(score, len(part), seed=derive(job.settings.seed, source.name) % 2**62)
    return len(part)


def _features(job: Job, name: str) -> str:
    """What a source's classifier is given."""
    if not isinstance(job.teacher, ModuleTeacher):
        raise ArgumentError("PARC reads the teacher's features, and the teacher is no module. Say similarity=leep.")
    try:
        where = classifier_of(job.teacher.module, running(job, "teacher"), lambda out: job.task.signals(out)["logits"])
    except SignalError as error:
        raise SignalError(f"The source {name!r}: {error} Or say similarity=leep, which reads probabilities.") from error
    return f"{where}#input"


def weigh(sources: list[SourceModel], how: Similarity, power: float | None) -> None:
    """Weights that add up to 1: max(similarity, 0)^power over their sum; without a power 1 for the most similar.

    LEEP is below 0, and its exponential is taken. Where no similarity is above 0 the most similar has all the weight.
    """
    values = torch.tensor([source.similarity for source in sources], dtype=torch.float64).nan_to_num(-torch.inf)
    raised = torch.zeros_like(values)
    if power is not None:
        plain = values.exp() if how == "leep" else values.clamp(min=0)
        if float(plain.max()) > 0:
            raised = (plain / plain.max()) ** power
    if not float(raised.sum()):
        raised[int(values.argmax())] = 1.0
    for source, weight in zip(sources, (raised / raised.sum()).tolist(), strict=True):
        source.weight = weight


def tell(job: Job, sources: list[SourceModel], how: Similarity, samples: int) -> None:
    """Say in the report how similar each source is, how sure that is, and what it weighs."""
    each = "; ".join(
        f"{source.name} {source.similarity:.3g} ({source.interval[0]:.3g} to {source.interval[1]:.3g}), weight "
        f"{source.weight:.3g}" for source in sorted(sources, key=lambda source: -source.weight)
    )  # fmt: skip
    job.warn(f"Similarity of the sources by {how.upper()} on {samples} labelled samples, with the 95 % interval of 100 "
             f"resamples: {each}.")  # fmt: skip


class Marked(SubsetPart):
    """A part whose batches say which rows are "unlabelled", so that a term can look at these alone."""

    def __init__(self, part: Part):
        super().__init__(part, torch.arange(len(part)))
        self.unknown = ~part.is_labelled()

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return {**super().extra(positions), "unlabelled": self.unknown[positions]}
