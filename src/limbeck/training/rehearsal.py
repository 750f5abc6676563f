"""A dry run: what a stage would do, found by doing three steps of it and putting everything back."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from limbeck.evaluation.record import sample_counts
from limbeck.shards import local
from limbeck.training.execute import Plan
from limbeck.training.loop import Loop
from limbeck.training.placement import running
from limbeck.training.stage import Stage

if TYPE_CHECKING:
    from limbeck.training.job import Job


def rehearse(plan: Plan, job: Job, times: int = 1) -> dict[str, Any]:
    """Captured shapes, parameter groups, counts, and estimated time and memory of the first stage of a plan.

    Stages that depend on results cannot be rehearsed; the answer says so. `times`: how often all is trained (seeds,
    baseline). Memory is that of one process: weights, gradients, optimizer states, and the activations that one step keeps
    for backward.
    """
    from accelerate import Accelerator

    stage = plan if isinstance(plan, Stage) else next(iter(plan))
    loop = Loop(stage, Accelerator())
    before = copy.deepcopy({name: learner.state_dict() for name, learner in loop.learners.items()})
    seconds, activations = _steps(loop)
    for name, learner in loop.learners.items():
        learner.load_state_dict(before[name])
    groups = {
        name: [
            {"parameters": sum(p.numel() for p in group["params"]), "rate": group["initial_lr"],
             "weight_decay": group.get("weight_decay", 0.0), "optimizer": type(optimizer).__name__}
            for optimizer in loop.optimizers[name] for group in optimizer.param_groups
        ]
        for name in loop.learners
    }  # fmt: skip
    parameters = [p for learner in loop.learners.values() for p in learner.parameters()]
    states = [
        value
        for found in loop.optimizers.values() for optimizer in found for state in optimizer.state.values()
        for value in state.values() if isinstance(value, torch.Tensor)
    ]  # fmt: skip
    needed = {
        "teachers": _bytes(p for teacher in stage.teachers.values() for m in running(teacher) for p in m.parameters()),
        "weights": _bytes(parameters), "gradients": _bytes(p for p in parameters if p.requires_grad),
        "optimizer": _bytes(states), "activations": activations,
    }  # fmt: skip
    loop.give_back()
    return {
        "objective": str(next(iter(loop.learners.values())).objective), "stage": stage.describe(),
        "stages": "1" if isinstance(plan, Stage) else "several: later ones depend on the results of earlier ones",
        "shapes": loop.probed.shapes, "parameter_groups": groups,
        "samples": {name.removeprefix("train, "): count for name, count in sample_counts(job.data).items()},
        "steps": loop.total, "seconds_per_step": round(seconds, 6), "trainings": times,
        "estimated_seconds": None if loop.total is None else round(seconds * loop.total * times, 1),
        "estimated_bytes": needed, **_texts(job),
    }  # fmt: skip


def _texts(job: Job) -> dict[str, Any]:
    """Lengths of texts in tokens, what was cut and what was left out, of each part; nothing where data are no texts."""
    about = job.data.about
    if not (found := about.get("statistics")):
        return {}
    left = about.get("left_out") or {}
    return {"texts": {part: {**each, "left_out": sum((left.get(part) or {}).values())} for part, each in found.items()}}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What lies on this process."""
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)


def _steps(loop: Loop) -> tuple[float, int]:
    """Seconds of a step (the faster of two after a first one), and bytes that are kept for backward."""
    batches = loop.batches()
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loop.step(next(batches))
    times = []
    for _ in range(2):
        batch = next(batches)
        begun = time.perf_counter()
        loop.step(batch)
        times.append(time.perf_counter() - begun)
    return min(times), kept
