"""The thin part of evaluation that runs models: outputs of a whole part, and the scores of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.data.base import Data, Part
from limbeck.errors import ArgumentError, DataError, ModelError, nearest
from limbeck.evaluation import loyalty
from limbeck.evaluation.calibration import reliability
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.evaluation.shapes import columns
from limbeck.tasks.base import Task

Progress = Callable[[int, int], None]
_remembered: WeakKeyDictionary[nn.Module, dict[int, tuple[Part, Tensor]]] = WeakKeyDictionary()
MOST_CLASSES_OF_A_TABLE = 100  # a larger confusion matrix is no longer read by anyone


@contextmanager
def remembering(*modules: nn.Module) -> Iterator[None]:
    """While this is open, `predict` runs these modules, which do not change, once on each part."""
    for module in modules:
        _remembered[module] = {}
    try:
        yield
    finally:
        for module in modules:
            _remembered.pop(module, None)


@contextmanager
def _at(module: nn.Module, device: torch.device):
    """A module on another device for a while."""
    home = device_of(module)
    try:
        if device != home:
            module.to(device)
        yield
    finally:
        if device != home:
            module.to(home)


def _teacher_device(teacher: Any) -> torch.device:
    modules = teacher.modules() if hasattr(teacher, "modules") else []
    return device_of(next(iter(modules), None))


def predict(module: Any, part: Part, task: Task, device: torch.device | str | None = None, batch_size: int = 256,
            progress: Progress | None = None) -> Tensor:  # fmt: skip
    """The logits (or values) of every sample of a part, in order: [n, ...] float32 on the CPU.

    `module` is a module, run in eval mode without gradient and put back into the modes it had, or a teacher (anything
    with `.read(batch, taps, task)`). `device` None is where it lies. `progress(done, n)` is called after each batch.
    Raises DataError for an empty part, ModelError when outputs are NaN or have no row for each sample.
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size}: expected 1 or more.")
    if not len(part):
        raise DataError(f"The part {part.name!r} has no samples to predict.")
    kept = _remembered.get(module) if isinstance(module, nn.Module) else None
    if kept is not None and kept.get(id(part), (None,))[0] is part:
        return kept[id(part)][1]
    if callable(getattr(module, "read", None)):
        place = torch.device(device) if device is not None else _teacher_device(module)
        outputs = _collect(part, batch_size, progress, lambda batch: module.read(batch.to(place), ["logits"], task))
    elif isinstance(module, nn.Module):
        place = torch.device(device) if device is not None else device_of(module)

        def signals(batch: Any) -> dict[str, Any]:
            return task.signals(task.forward(module, task.view(batch.to(place), module, "student")))

        with _at(module, place), evaluating(module):
            outputs = _collect(part, batch_size, progress, signals)
    else:
        raise ModelError(
            f"A {type(module).__name__} cannot be run. Expected a torch module, or a teacher (limbeck.teachers.as_teacher)."
        )
    broken = outputs.flatten(1).isnan().any(1) if outputs.ndim > 1 else outputs.isnan()
    if bool(broken.any()):
        first = part.ids[broken][:5].tolist()
        raise ModelError(
            f"{int(broken.sum())} of {len(outputs)} rows of outputs on the part {part.name!r} are NaN "
            f"(first sample ids: {first}). Look for missing or huge values in these inputs, or a diverged training."
        )
    if kept is not None:
        kept[id(part)] = (part, outputs)
    return outputs


def _collect(part: Part, batch_size: int, progress: Progress | None, read: Callable[[Any], dict[str, Any]]) -> Tensor:
    chunks: list[Tensor] = []
    total = len(part)
    for start in range(0, total, batch_size):
        positions = torch.arange(start, min(start + batch_size, total))
        logits = read(part.batch(positions))["logits"]
        logits = logits.whole() if hasattr(logits, "whole") else torch.as_tensor(logits)
        logits = logits.detach().float().cpu()
        if logits.ndim == 0 or len(logits) != len(positions):
            raise ModelError(f"The model gave outputs of shape {list(logits.shape)} for {len(positions)} samples; "
                             "expected one row for each.")  # fmt: skip
        if chunks and logits.shape[1:] != chunks[0].shape[1:]:
            raise ModelError(f"The model gave rows of shape {list(chunks[0].shape[1:])} and then "
                             f"{list(logits.shape[1:])}; expected one shape for all batches.")  # fmt: skip
        chunks.append(logits)
        if progress is not None:
            progress(start + len(positions), total)
    return torch.cat(chunks)


def evaluate(module: Any, data: Data, task: Task, part: str = "test", teacher: Any = None,
             batch_size: int = 256, device: torch.device | str | None = None) -> dict[str, Any]:  # fmt: skip
    """Run a model on one part of the data and measure it, by itself and beside a teacher.

    `module` as in `predict`; `teacher` likewise, or the teacher's logits on this part [n, ...] where they are known.
    Gives {"part", "count", "scores", "agreement", "reliability", "confusion"}, in the shapes of report.json:
    scores are empty without labels, agreement without a teacher; reliability and confusion are for classes only
    (confusion for at most 100). Raises ArgumentError when the data have no such part.
    """
    if part not in data.parts:
        raise ArgumentError(f"The data {data.name!r} have no part {part!r}.{nearest(part, data.parts)}")
    samples = data.parts[part]
    if task.measures:
        return {"part": part, "count": len(samples), "confusion": None, **task.measure(module, samples, teacher)}
    logits = predict(module, samples, task, device, batch_size)
    labelled = bool(samples.is_labelled().any())
    labels = samples.labels if labelled else None
    result: dict[str, Any] = {
        "part": part, "count": len(samples), "agreement": {}, "reliability": [], "confusion": None,
        "scores": {} if labels is None else task.scores(logits, labels, data.classes),
    }  # fmt: skip
    classes = task.name == "classification" or data.target == "classes"
    if classes and labels is not None:
        result["reliability"] = reliability(columns(logits).softmax(-1), labels)
    if teacher is None:
        return result
    theirs = teacher if isinstance(teacher, Tensor) else predict(teacher, samples, task, device, batch_size)
    if len(theirs) != len(logits):
        raise ModelError(f"The teacher's outputs have {len(theirs)} rows, the part {part!r} has {len(logits)} samples.")
    if not classes:
        if task.name == "regression" or data.target == "values":
            result["agreement"] = {"regression_loyalty": loyalty.regression_loyalty(logits, theirs)}
        return result
    result["agreement"] = loyalty.agreement(logits, theirs, labels)
    ours, named = columns(logits), columns(theirs)
    width = ours.shape[-1]
    if width <= MOST_CLASSES_OF_A_TABLE:
        table = loyalty.confusion(ours.argmax(-1), named.argmax(-1), width)
        names = list(data.classes) if data.classes and len(data.classes) == width else [str(i) for i in range(width)]
        result["confusion"] = {"rows": "student", "columns": "teacher", "labels": names, "matrix": table.tolist()}
    return result
