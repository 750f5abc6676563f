"""In which order the parts of a module run, found by running it once: where its classifier is, what comes after a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.signals.taps import first_tensor, module_names

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh,
    nn.Sigmoid, nn.Softplus,
)  # fmt: skip
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)


@dataclass
class Call:
    """One call of a submodule: its name, when it began and ended (counted over all calls), what went in and came out."""

    name: str
    module: nn.Module
    begun: int
    ended: int
    given: Any
    output: Any


@torch.no_grad()
def calls(module: nn.Module, run: Callable[[], Any]) -> tuple[list[Call], Any]:
    """All calls of submodules in one run, in the order in which they ended, and what the run gave."""
    found: list[Call] = []
    open_calls: list[int] = []
    clock = 0
    handles = []

    def before(_: nn.Module, args: Any) -> None:
        nonlocal clock
        clock += 1
        open_calls.append(clock)

    def after(name: str) -> Callable[..., None]:
        def hook(child: nn.Module, args: Any, output: Any) -> None:
            nonlocal clock
            clock += 1
            found.append(Call(name, child, open_calls.pop(), clock, args[0] if args else None, first_tensor(output)))

        return hook

    names = {id(child): name for name, child in reversed(module_names(module).items())}
    for child in module.modules():
        handles += [child.register_forward_pre_hook(before), child.register_forward_hook(after(names[id(child)]))]
    try:
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    return found, output


def _same(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    )


def classifier_of(module: nn.Module, run: Callable[[], Any], logits: Callable[[Any], Tensor]) -> str:
    """The name of the linear layer whose output the logits are. Raises SignalError where there is none."""
    made, output = calls(module, run)
    wanted = logits(output)
    for call in reversed(made):
        if type(call.module) is nn.Linear and _same(call.output, wanted):
            return call.name
    raise SignalError(
        f"The logits of {type(module).__name__} do not come from a linear layer, so that its classifier cannot be taken off. "
        "Use a model that ends in nn.Linear."
    )


def after(module: nn.Module, tap: str, run: Callable[[], Any]) -> list[str]:
    """The names of the leaf modules that run after a layer is done."""
    made, _ = calls(module, run)
    end = next((call.ended for call in made if call.name == tap), None)
    if end is None:
        raise SignalError(f"{tap!r} did not run in {type(module).__name__}: tap another layer.")
    leaves = [call for call in made if not list(call.module.children())]
    return list(dict.fromkeys(call.name for call in leaves if call.begun > end))


def before_activation(module: nn.Module, stage: str, run: Callable[[], Any]) -> str:
    """The tap of a stage's values before its last activation; of a stage that does not end in one, its output.

    Pooling and dropout after the activation are passed over.
    """
    made, _ = calls(module, run)
    inside = [call for call in made if (call.name == stage or call.name.startswith(f"{stage}."))
              and not list(call.module.children())]  # fmt: skip
    for call in reversed(inside):
        if isinstance(call.module, ACTIVATIONS):
            return f"{call.name}#input"
        if not isinstance(call.module, PASSING):
            break
    return stage
