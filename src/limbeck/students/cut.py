"""A cut: how the shapes of a module differ from those of the module as it is built.

Pruned and shrunk models cannot always be said by their config (a BERT whose heads were cut, a net whose channels were
pruned unevenly). Beside the weights stands the cut: for every submodule that differs, its shapes and its whole numbers
(`in_features`, `num_attention_heads`). Building, cutting and loading the weights gives the model back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, ModelError

Cut = dict[str, dict[str, Any]]  # path -> {"shapes": {parameter or buffer: [sizes]}, "numbers": {attribute: value}}


def find_cut(built: nn.Module, module: nn.Module) -> Cut | None:
    """What turns `built` (its weights may be on the meta device) into the shape of `module`.

    None where the two do not consist of the same submodules of the same classes: then no cut can say the difference.
    """
    theirs, ours = dict(built.named_modules()), dict(module.named_modules())
    if list(theirs) != list(ours) or any(type(theirs[path]) is not type(ours[path]) for path in ours):
        return None
    cut: Cut = {}
    for path, child in ours.items():
        before, after = _tensors(theirs[path]), _tensors(child)
        shapes = {
            name: list(after[name].shape) for name in after.keys() & before if after[name].shape != before[name].shape
        }
        if before.keys() != after.keys() or shapes.keys() & child._non_persistent_buffers_set:
            return None  # a buffer that is not saved could not be filled again
        known = _numbers(theirs[path])
        numbers = {name: value for name, value in _numbers(child).items() if name in known and known[name] != value}
        if shapes or numbers:
            cut[path] = {"shapes": shapes, "numbers": numbers}
    return cut


def apply_cut(module: nn.Module, cut: Cut) -> nn.Module:
    """Give a freshly built module the shapes of the cut, in place; the cut weights are uninitialised, to be loaded.

    Raises ModelError where the cut names what the module does not have.
    """
    modules = dict(module.named_modules())
    tied = Ties()
    for path, change in cut.items():
        child = modules.get(path)
        if child is None:
            raise ModelError(
                f"The cut of this saved model names {path!r}, which {type(module).__name__} does not have."
            )
        tensors, numbers = _tensors(child), _numbers(child)
        for name, shape in change["shapes"].items():
            if name not in tensors:
                raise ModelError(f"The cut of this saved model names {path}.{name}, which the built module lacks.")
            old = tensors[name]
            if isinstance(old, nn.Parameter):
                setattr(child, name, tied.replace(old, old.new_empty(shape)))
            else:
                setattr(child, name, old.new_empty(shape))
        for name, value in change["numbers"].items():
            if name not in numbers:
                raise ModelError(f"The cut of this saved model sets {path}.{name}, which the built module lacks.")
            setattr(child, name, tuple(value) if isinstance(value, list) else value)
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    own = {**module._parameters, **module._buffers}
    return {name: value for name, value in own.items() if value is not None}


def _numbers(module: nn.Module) -> dict[str, int | list[int]]:
    """The whole numbers, and tuples of them, that a module keeps as public attributes."""
    found: dict[str, int | list[int]] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training" or isinstance(value, bool):
            continue
        if isinstance(value, int):
            found[name] = value
        elif isinstance(value, tuple) and value and all(type(item) is int for item in value):
            found[name] = list(value)
    return found


class Ties:
    """Replaces parameters such that those that were one stay one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # holds the old one, so that its id stays taken

    def replace(self, old: nn.Parameter, value: Tensor) -> nn.Parameter:
        if id(old) not in self._known:
            self._known[id(old)] = (old, nn.Parameter(value, requires_grad=old.requires_grad))
        return self._known[id(old)][1]


def conform(module: nn.Module, state: dict[str, Tensor], *, shapes: bool) -> None:
    """Give the parameters and buffers of a module the dtypes, and with `shapes` the shapes, of a state; not its values."""
    tied = Ties()
    for path, child in module.named_modules():
        for name, old in _tensors(child).items():
            new = state.get(f"{path}.{name}" if path else name)
            if new is None or (old.dtype == new.dtype and (not shapes or old.shape == new.shape)):
                continue
            empty = torch.empty(new.shape if shapes else old.shape, dtype=new.dtype, device=old.device)
            if isinstance(old, nn.Parameter):
                setattr(child, name, tied.replace(old, empty))
            else:
                setattr(child, name, empty)
        renumber(child)


def renumber(layer: nn.Module) -> None:
    """Keep the numbers that a Linear, convolution or batch normalisation shows in step with its weight."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.Conv1d | nn.Conv2d):
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        layer.num_features = len(weight)


def keep(layer: nn.Module, outputs: Tensor | None = None, inputs: Tensor | None = None) -> None:
    """Keep these output units and these inputs of a Linear, convolution or batch normalisation, by index, in place."""
    for name, old in _tensors(layer).items():
        new = old.detach()
        if outputs is not None and new.ndim:  # num_batches_tracked has no axis
            new = new.index_select(0, outputs.to(new.device))
        if inputs is not None and name == "weight":
            new = new.index_select(1, inputs.to(new.device))
        if isinstance(old, nn.Parameter):
            setattr(layer, name, nn.Parameter(new.clone(), requires_grad=old.requires_grad))
        else:
            setattr(layer, name, new.clone())
    renumber(layer)


def sized(size: int | float | None, full: int, name: str) -> int:
    """How many of `full` stay: a whole number is a count, a fraction up to 1.0 a share. At least one stays."""
    if size is None:
        return full
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not whole and not (isinstance(size, float) and 0 < size <= 1):
        raise ArgumentError(f"{name}={size!r}: expected a count (2) or a fraction above 0 and up to 1.0 (0.5).")
    if isinstance(size, float):
        return max(1, round(size * full))
    if size > full:
        raise ArgumentError(f"{name}={size}: the teacher has only {full}; a shrunk student cannot have more.")
    return size


def evenly(count: int, full: int) -> list[int]:
    """`count` of `full` positions, evenly spread, first and last among them: 6 of 12 are 0 2 4 7 9 11."""
    if count == 1:
        return [0]
    return [round(i * (full - 1) / (count - 1)) for i in range(count)]
