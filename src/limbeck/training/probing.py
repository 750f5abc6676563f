"""Probe a stage with one batch before anything is trained: shapes, in-place modules, projectors, misfits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, LimbeckError, ModelError, SignalError, nearest
from limbeck.signals.step import Ref, Step, derive
from limbeck.signals.taps import ChangedInPlace
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.learner import Learner, Reading
from limbeck.training.stage import Stage


@dataclass
class Probed:
    """What the probe found. `batches` and `signals` of teachers are used again for step 0, so that nothing is paid twice."""

    reading: Reading
    batches: list[Batch] | None
    signals: dict[str, dict[str, Any]]
    shapes: dict[str, list[int]] = field(default_factory=dict)


def probe(stage: Stage, modules: Mapping[str, nn.Module], device: torch.device) -> Probed:
    """Run every role once, in eval mode and without gradient, and make the learnable parts of the objectives."""
    settings = stage.settings
    # where layers are not to lie whole, or to keep nothing, autocast must not keep their rounded weights either
    cached = not (settings.shard or settings.checkpointing)
    reading = Reading(stage.task, stage.learners, stage.derived, stage.views, settings.precision, device, cached)
    _check_roles(stage, reading)
    modes = {child: child.training for learner in stage.learners.values() for child in learner.modules()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(stage.settings.seed, "probe"))
        for learner in stage.learners.values():
            learner.eval()
        try:
            batches = stage.source.micro_batches(0, modules)
            step = Step(batches[0].to(device), seed=stage.settings.seed, modules=modules)
            signals = _read(stage, reading, step)
            for number, learner in enumerate(stage.learners.values()):
                mine = step.seen_by(learner.name, set(stage.learners))
                _own(learner, reading, mine)
                learner.objective.prepare(mine, derive(stage.settings.seed, "projectors", number) % 2**31)
                learner.objective.to(device)
                _try(learner, mine)
        finally:
            for child, mode in modes.items():
                child.training = mode
    shapes = {str(ref): list(value.shape) for ref, value in step.signals.items() if hasattr(value, "shape")}
    keep = {role: value for role, value in signals.items() if not getattr(stage.teachers[role], "live", False)}
    return Probed(reading, batches, keep, shapes)


def _check_roles(stage: Stage, reading: Reading) -> None:
    known = [*stage.learners, *stage.roles]
    for role in reading.taps:
        if role.partition("/")[0] not in stage.learners and role not in stage.roles:
            hint = " This recipe needs a teacher: give teacher=." if role == "teacher" else nearest(role, known)
            raise ArgumentError(f"The objective looks at a role {role!r} that the stage does not have.{hint}")


def _read(stage: Stage, reading: Reading, step: Step) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        for role, taps in reading.teachers.items():
            teacher = stage.teachers[role]
            with reading.autocast():
                try:
                    found[role] = teacher.read(step.batch, taps, stage.task, progress=0.0)
                except ChangedInPlace:
                    assert isinstance(teacher, ModuleTeacher)
                    teacher.clone |= set(taps)
                    found[role] = teacher.read(step.batch, taps, stage.task, progress=0.0)
            _check_finite(role, found[role], stage.settings.precision)
            step.put(role, found[role])
        for name, learner in stage.learners.items():
            for role, taps in reading.own(name).items():
                with reading.autocast():
                    try:
                        signals = learner.read(stage.task, step, role, taps, reading.views)
                    except ChangedInPlace:
                        learner.clone |= set(taps)
                        signals = learner.read(stage.task, step, role, taps, reading.views)
                missing = [tap for tap in taps if tap not in signals]
                if missing:
                    raise SignalError(f"The role {role!r} gives no signal {missing}; it has {sorted(signals)}.")
                _check_finite(role, signals, stage.settings.precision)
                step.put(role, signals)
    return found


def _check_finite(role: str, signals: Mapping[str, Any], precision: str) -> None:
    """A model that gives NaN or infinity on the first batch already is named, and so is the half precision it runs in."""
    for tap, value in signals.items():
        values = getattr(value, "hidden", value)  # of lazy logits: what they are made of
        if not isinstance(values, Tensor) or not values.is_floating_point():
            continue
        broken = values.isnan() | values.isposinf()  # what cannot be may be -inf
        if not bool(broken.any()):
            continue
        half = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(values.dtype, precision)
        way = "Look at its weights and at what it is given."
        if half == "fp16":
            way = "Numbers above 65,504 do not fit fp16: take precision=bf16 or no, and load a teacher in bf16."
        elif half == "bf16":
            way = "Try precision=no, and the model in float32: if it is not finite there either, look at its weights."
        what = "NaN" if bool(values.isnan().any()) else "infinity"
        raise ModelError(
            f"The {role} gives {what} as its signal {tap!r} for the first batch, from which nothing can be learnt "
            f"({int(broken.sum()):,} of {values.numel():,} values, in {str(values.dtype).removeprefix('torch.')} with "
            f"precision={precision}). {way}"
        )


def _own(learner: Learner, reading: Reading, step: Step) -> None:
    for role, taps in reading.own(learner.name).items():
        step.put("self" + role.removeprefix(learner.name), {tap: step.signal(Ref(role, tap)) for tap in taps})
    for role, derived in reading.derived(learner).items():
        with torch.no_grad(), reading.autocast():
            step.put(role, derived.derive(step, reading.taps[role], reading.task))


def _try(learner: Learner, step: Step) -> None:
    """Evaluate every term once, so that shapes that do not meet are found, and named, before training."""
    for weight, term in learner.objective.weighted():
        if not weight.is_zero:
            term.check(step)
        if weight.is_zero or any(isinstance(parameter, Tensor) for parameter in term.parameters()) or not term.needs():
            continue  # a projector's batch norm would move its statistics; it was built from these very shapes
        try:
            with torch.no_grad():
                term.evaluate(step) if term.is_lazy(step) else copy.copy(term).values(step)
        except LimbeckError:
            raise
        except ValueError as error:  # an option that the formula cannot take, such as temperature=0
            raise ArgumentError(f"The objective {term.name!r} cannot be computed: {error}.") from error
        except RuntimeError as error:
            shapes = {str(ref): list(getattr(step.signals.get(ref), "shape", [])) for ref in term.needs()}
            raise SignalError(
                f"{term.name!r} cannot compare {shapes}: {error}. Put a projector behind the student's signal with "
                ".projected(), or tap layers of equal shape."
            ) from error
