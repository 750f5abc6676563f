"""Where learners and teachers lie: whole on one device, whole on each of several, or in pieces over all of them.

One process has all on its device. Several have copies, whose gradients DDP adds. With `shard=true` they have pieces: of
weights, gradients and optimizer states (FSDP2), and of the weights of teachers. A layer is made whole while it runs.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from limbeck.errors import ArgumentError, ModelError
from limbeck.shards import whole
from limbeck.signals.stages import stages
from limbeck.teachers.base import ModuleTeacher, Teacher, module_teachers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.training.learner import Learner
    from limbeck.training.settings import Settings
    from limbeck.training.stage import Stage

T = TypeVar("T")
Context = contextlib.AbstractContextManager[object]


class Placement:
    """All on one device, without other processes."""

    sharded = False

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.device = accelerator, accelerator.device

    def take(self, stage: Stage, movers: Iterable[ModuleTeacher]) -> None:
        """Bring learners, teachers and the source's models to where they run."""
        for learner in stage.learners.values():
            learner.to(self.device)
        for teacher in stage.teachers.values():
            teacher.to(self.device)
        for model in [*stage.source.models(), *(mover.module for mover in movers)]:
            model.to(self.device)

    def finish_learner(self, learner: Learner) -> None:
        """The objective has its parameters now."""

    def wrap(self, learner: Learner, partly: bool) -> Callable[..., Any]:
        """What is called instead of the learner. `partly`: some of its parameters may get no gradient."""
        return learner

    def together(self, wrapped: Any, last: bool) -> Context:
        """Around a micro-batch's forward and backward pass."""
        return contextlib.nullcontext()

    def inside(self, run: Callable[[], T], modules: Iterable[nn.Module]) -> T:
        """Run something that calls these modules, beside the learners' own passes."""
        return run()

    def settle(self) -> None:
        """Before weights are changed or read."""

    def give_back(self, learners: Iterable[Learner]) -> None:
        """The stage is over: the learners' modules are whole."""


class Copies(Placement):
    """A copy on each process, whose gradients are averaged by DDP."""

    def wrap(self, learner: Learner, partly: bool) -> Callable[..., Any]:
        from accelerate.utils import DistributedDataParallelKwargs

        self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=partly)
        return self.accelerator.prepare_model(learner)

    def together(self, wrapped: Any, last: bool) -> Context:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped)


class Root(nn.Module):
    """What a sharded module is run in: while its forward pass lasts, what belongs to no layer is whole."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, run: Callable[[], T]) -> T:
        return run()


class Pieces(Placement):
    """A piece of every weight on each process, by FSDP2. The modules that run are copies of the user's."""

    sharded = True

    def __init__(self, accelerator: Accelerator):
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__(accelerator)
        self.mesh = init_device_mesh(self.device.type, (accelerator.num_processes,))
        self.roots: dict[int, Root] = {}  # by the id of the module that is in it
        self.originals: dict[str, tuple[nn.Module, Any]] = {}  # a learner's module and objective as they came

    def take(self, stage: Stage, movers: Iterable[ModuleTeacher]) -> None:
        self._check(stage)
        for name, learner in stage.learners.items():
            self.originals[name] = learner.module, learner.objective
            learner.module = self._shard(learner.module)
            learner.objective.to(self.device)
        for teacher in stage.teachers.values():
            found = module_teachers(teacher)
            for module in teacher.modules() if not found else ():
                module.to(self.device)
            for part in found:
                if part.placed is None:
                    part.placed = self._shard(part.module)
                    part.root = self.roots[id(part.placed)]
        for mover in movers:  # nobody else has this copy
            mover.module = mover.placed = self._shard(mover.module)
            mover.root = self.roots[id(mover.placed)]

    def _check(self, stage: Stage) -> None:
        if stage.settings.precision == "fp16":
            raise ArgumentError(
                "shard=true with precision=fp16: losses are not scaled over pieces. Take precision=bf16."
            )
        if stage.source.draws:
            raise ArgumentError(
                f"shard=true: {type(stage.source).__name__} has models write on the way, which sharded ones cannot. Let them "
                "write before (limbeck generate), or leave shard out."
            )
        if stage.derived or len(stage.learners) > 1:
            others = sorted({*stage.derived, *stage.learners} - {stage.keep})
            raise ArgumentError(
                f"shard=true trains one learner beside teachers; this recipe has {', '.join(others)} too. Leave shard out."
            )

    def _shard(self, module: nn.Module) -> Any:
        from torch.distributed.fsdp import fully_shard

        for name, parameter in module.named_parameters():
            if not parameter.ndim:
                raise ModelError(
                    f"shard=true: {name!r} of {type(module).__name__} is a parameter without an axis, which FSDP2 cannot cut. "
                    "Give it the shape [1], or leave shard out."
                )
        twin = _twin(module)
        for name in stages(twin):
            block = twin.get_submodule(name)
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=self.mesh)
        root = Root(twin)
        fully_shard(root, mesh=self.mesh)
        self.roots[id(twin)] = root
        return twin

    def finish_learner(self, learner: Learner) -> None:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        if any(True for _ in learner.objective.parameters()):
            self.originals[learner.name] = self.originals[learner.name][0], learner.objective
            learner.objective = _twin(learner.objective)
            fully_shard(learner.objective, mesh=self.mesh)
            register_fsdp_forward_method(learner.objective, "evaluate")

    def wrap(self, learner: Learner, partly: bool) -> Callable[..., Any]:
        root = self.roots[id(learner.module)]
        return lambda *given: root(lambda: learner(*given))

    def inside(self, run: Callable[[], T], modules: Iterable[nn.Module]) -> T:
        found = [self.roots[id(module)] for module in modules]
        outer: Callable[[], T] = run
        for root in found:
            outer = _within(root, outer)
        result = outer()
        for root in found:
            _settle(root)
        return result

    def settle(self) -> None:
        # a root stays whole after a pass without a backward pass: it would be old after the step
        for root in self.roots.values():
            _settle(root)

    def give_back(self, learners: Iterable[Learner]) -> None:
        self.settle()
        for learner in learners:
            module, objective = self.originals[learner.name]
            for original, twin in ((module, learner.module), (objective, learner.objective)):
                if original is not twin:
                    original.load_state_dict(whole(twin.state_dict(), everywhere=True))
            learner.module, learner.objective = module.to(self.device), objective


def place(accelerator: Accelerator, settings: Settings) -> Placement:
    """The placement that processes and settings ask for."""
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"):
        raise ArgumentError(
            f"Accelerate is set to {kind}, which Limbeck does not drive. Start with torchrun and say shard=true: weights, "
            "gradients, optimizer states and teachers are then in pieces over all processes (FSDP2)."
        )
    if accelerator.num_processes == 1:
        return Placement(accelerator)
    return Pieces(accelerator) if settings.shard else Copies(accelerator)


def keep_on(device: str | torch.device, teacher: Teacher | None, settings: Settings) -> None:
    """Give a teacher's modules a device of their own, and bring them there. Raises ArgumentError where that cannot be."""
    named = f"teacher_device={str(device)!r}"
    if teacher is None:
        raise ArgumentError(f"{named} is the device of a teacher: give teacher=, or leave teacher_device out.")
    found = module_teachers(teacher)
    if not found:
        raise ArgumentError(
            f"{named}: a {type(teacher).__name__} has no module in this process, and so no device. Leave teacher_device out, "
            "or give the teacher as a model."
        )
    if settings.shard:
        raise ArgumentError(f"{named} and shard=true, which cuts the teacher over all devices: choose one of the two.")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ArgumentError(
            f"{named} is one device, and several processes each have a teacher: run one, or shard=true."
        )
    try:
        place = torch.empty(0, device=torch.device(str(device))).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise ArgumentError(f"{named} is no device here: {why}. Expected one such as 'cuda:1' or 'cpu'.") from None
    if place.type == "meta":
        raise ArgumentError(f"{named} computes nothing. Expected a device such as 'cuda:1' or 'cpu'.")
    for part in found:
        part.home = place
    teacher.to(place)


def running(teacher: Teacher) -> list[nn.Module]:
    """The modules that are run when a teacher is read."""
    return [part.running for part in module_teachers(teacher)] or teacher.modules()


def lies_in_pieces(teacher: Teacher | None) -> bool:
    """Whether reading a teacher takes all processes together."""
    return teacher is not None and any(part.placed is not None for part in module_teachers(teacher))


def _twin(module: nn.Module) -> Any:
    """A copy that shares weights and tokenizer with the module, to be sharded: the module itself stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    for name in ("tokenizer", "processor"):
        part: Any = getattr(module, name, None)
        if part is not None:
            memo[id(part)] = part
    return copy.deepcopy(module, memo)


def _within(root: Root, run: Callable[[], T]) -> Callable[[], T]:
    return lambda: root(run)


def _settle(root: Any) -> None:
    for block in root.modules():
        if hasattr(block, "reshard"):  # also layers in which a pass was stopped
            block.reshard()
