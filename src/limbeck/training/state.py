"""The whole state of a loop between two steps: what a checkpoint holds, and how a loop goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from limbeck.errors import RunError
from limbeck.shards import spread_optimizer, whole
from limbeck.students.adapters import load_trained, trained_state

if TYPE_CHECKING:
    from limbeck.training.loop import Loop


def weights_of(loop: Loop) -> dict[str, Tensor]:
    """Weights of all learners and moving teachers; what lies in pieces is whole on the first process."""
    weights = {
        f"learner.{name}.{key}": value
        for name, learner in loop.learners.items() for key, value in trained_state(learner).items()
    }  # fmt: skip
    for role, mover in _movers(loop).items():
        weights |= {f"mover.{role}.{key}": value for key, value in mover.state_dict().items()}
    return weights


def rest_of(loop: Loop) -> dict[str, Any]:
    """The rest of what the next step depends on."""
    return {
        "optimizers": {name: [whole(o.state_dict()) for o in found] for name, found in loop.optimizers.items()},
        "scaler": loop.scaler.state_dict() if loop.scaler else None,
        "source": loop.stage.source.state_dict(),
        "counters": [loop.number, loop.samples, loop.tokens],
        "best": loop.best.state_dict(), "last_scores": loop.last_scores, "print": loop.stage.fingerprint(),
        "frozen": loop.frozen,
    }  # fmt: skip


def restore(loop: Loop) -> None:
    """Go on from the newest checkpoint, if there is one. Raises RunError where it is another stage's."""
    assert loop.checkpoints is not None
    found = loop.checkpoints.load(onto(loop))
    loop.metrics.resume(loop.index, found[0] if found else 0)
    if found is None:
        return
    _, weights, best, rest = found
    if rest["print"] != loop.stage.fingerprint():
        raise RunError(
            f"The checkpoint in {loop.checkpoints.folder} belongs to another stage (recipe, settings or data differ). "
            "Resume with the arguments it was started with, or start anew with overwrite=true."
        )
    put(loop, weights, rest["frozen"])
    for name in loop.learners:
        for optimizer, state in zip(loop.optimizers[name], rest["optimizers"][name], strict=True):
            optimizer.load_state_dict(spread_optimizer(optimizer, state))
    for role, mover in _movers(loop).items():
        mover.load_state_dict(_with_prefix(weights, f"mover.{role}."))
    if loop.scaler:
        loop.scaler.load_state_dict(rest["scaler"])
    loop.stage.source.load_state_dict(rest["source"])
    loop.number, loop.samples, loop.tokens = rest["counters"]
    loop.best.load_state_dict(rest["best"], best)
    loop.last_scores = rest["last_scores"]


def onto(loop: Loop) -> str:
    """Where saved weights are read to; safetensors takes no "cpu:0", as CPUs of several processes are called."""
    return "cpu" if loop.placement.sharded or loop.device.type == "cpu" else str(loop.device)


def put(loop: Loop, weights: dict[str, Tensor], frozen: dict[str, str]) -> None:
    """Saved weights into the learners. Raises RunError where what they leave out, frozen weights, is not what it was."""
    for name, learner in loop.learners.items():
        if frozen.get(name) != loop.frozen.get(name):
            raise RunError(
                f"The frozen weights of {name!r} are not those that the run began with, and its adapters fit no others. Give "
                "the student that it was started with."
            )
        load_trained(learner, _with_prefix(weights, f"learner.{name}."))


def _movers(loop: Loop) -> dict[str, Any]:
    return {**loop.movers, **({"ema": loop.averaged} if loop.averaged else {})}


def _with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
