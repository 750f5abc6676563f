"""Chains: plain `nn.Sequential` networks of known layers. They can be described exactly, saved without a builder, and cut.

A chain of blocks: a Linear or convolution, and what follows it up to the next one.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.students.cut import keep, sized
from limbeck.students.declare import builder

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
_POINTWISE = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d,
)  # fmt: skip
_SHAPING = (
    nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_OTHER = (nn.LayerNorm, nn.GroupNorm, nn.Softmax, nn.LogSoftmax)
KNOWN: dict[str, Any] = {kind.__name__: kind for kind in (*WEIGHTED, *NORMS, *_POINTWISE, *_SHAPING, *_OTHER)}


@builder
def chain(layers: list[list[Any]]) -> nn.Sequential:
    """A Sequential from its description: a list of [dotted name, class of torch.nn, arguments]."""
    root = nn.Sequential()
    for name, kind, arguments in layers:
        if kind not in KNOWN:
            raise ModelError(f"A chain has no layer {kind!r} ({name}). Known: {', '.join(sorted(KNOWN))}.")
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Sequential())
            place = place._modules[parent]  # type: ignore[assignment]
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
        place.add_module(last, KNOWN[kind](**values))
    return root


def chain_spec(module: nn.Module) -> dict[str, Any] | None:
    """The `limbeck_spec` of a plain Sequential of known layers, nested or not; None for every other module."""
    found = leaves(module)
    if found is None:
        return None
    layers = [[name, type(layer).__name__, _arguments(layer)] for name, layer in found]
    return {"builder": "limbeck.students.chain:chain", "arguments": {"layers": layers}}


def leaves(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]] | None:
    """The layers of a chain in the order in which they run, by dotted name; None where it is no chain."""
    if type(module) is not nn.Sequential:
        return None
    found: list[tuple[str, nn.Module]] = []
    for name, child in module._modules.items():
        if type(child) is nn.Sequential:
            inner = leaves(child, f"{prefix}{name}.")
            if inner is None:
                return None
            found += inner
        elif type(child) in KNOWN.values():
            found.append((prefix + name, child))  # type: ignore[arg-type]
        else:
            return None
    weighted = [id(layer) for _, layer in found if next(layer.parameters(), None) is not None]
    return found if len(weighted) == len(set(weighted)) else None  # a layer used twice is no chain


def _arguments(layer: nn.Module) -> dict[str, Any]:
    """The arguments of a layer's constructor that are not the defaults, read back from its attributes."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if name in ("self", "device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(layer, name, parameter.default)
        if name == "bias":
            value = value is not None and value is not False
        if value != parameter.default:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


@dataclass
class _Block:
    name: str
    layer: nn.Module
    after: list[tuple[str, nn.Module]] = field(default_factory=list)

    def units(self) -> int:
        return len(_weight(self.layer))

    def droppable(self) -> bool:
        """Whether what goes in and what comes out have the same shape."""
        layer = self.layer
        if any(not isinstance(module, (*NORMS, *_POINTWISE, nn.LayerNorm, nn.GroupNorm)) for _, module in self.after):
            return False
        if isinstance(layer, nn.Linear):
            return layer.in_features == layer.out_features
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        sides = zip(layer.kernel_size, layer.dilation)
        same = layer.padding == "same" or list(layer.padding) == [d * (k - 1) / 2 for k, d in sides]
        return same and set(layer.stride) == {1} and layer.in_channels == layer.out_channels


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def shrink_chain(teacher: nn.Sequential, depth: int | float | None, width: int | float | None) -> nn.Sequential:
    """A copy with fewer hidden blocks (those that keep the shape, evenly spread) and fewer units in each of them.

    Units are kept by importance: the norms of their weights in and out, times the scale of a batch normalisation.
    Raises ModelError where blocks cannot be dropped, or grouped convolutions or layer normalisations stand in the way.
    """
    student = copy.deepcopy(teacher)
    blocks = _blocks(student)
    hidden = blocks[:-1]
    count = sized(depth, len(hidden), "depth")
    candidates = [block for block in hidden if block.droppable()]
    surplus = len(hidden) - count
    if surplus > len(candidates):
        names = ", ".join(block.name for block in candidates) or "none"
        raise ModelError(
            f"depth={depth}: {surplus} of {len(hidden)} hidden blocks would have to go, but only those whose input and "
            f"output have the same shape can ({names}). Choose depth={len(hidden) - len(candidates)} or more, or "
            "build a smaller student."
        )
    dropped = [candidates[int((i + 0.5) * len(candidates) / surplus)] for i in range(surplus)]
    for block in dropped:
        for name, _ in [(block.name, block.layer), *block.after]:
            _remove(student, name)
    blocks = [block for block in blocks if all(block is not other for other in dropped)]
    for block, following in itertools.pairwise(blocks):
        if width is not None:
            units = min(width, block.units()) if type(width) is int else width  # a count is an upper bound here
            _narrow(block, following, sized(units, block.units(), "width"))
    spec = chain_spec(student)
    student.limbeck_spec = spec  # type: ignore[assignment]
    student.limbeck_shrink = {  # type: ignore[assignment]
        "dropped": [block.name for block in dropped],
        "units": {block.name: block.units() for block in blocks[:-1]},
    }
    return student


def _blocks(module: nn.Sequential) -> list[_Block]:
    blocks: list[_Block] = []
    for name, layer in leaves(module) or []:
        if isinstance(layer, WEIGHTED):
            blocks.append(_Block(name, layer))
        elif blocks:
            blocks[-1].after.append((name, layer))
    if len(blocks) < 2:
        raise ModelError(f"This network has {len(blocks)} layers with weights; there is no hidden one to cut.")
    return blocks


def _remove(module: nn.Module, name: str) -> None:
    parent, _, last = name.rpartition(".")
    place = module.get_submodule(parent)
    del place._modules[last]
    if parent and not place._modules:
        _remove(module, parent)


def _narrow(block: _Block, following: _Block, count: int) -> None:
    """Keep `count` units of a block, and the inputs of the next that they feed."""
    for name, layer in [(block.name, block.layer), *block.after, (following.name, following.layer)]:
        if isinstance(layer, _OTHER) or getattr(layer, "groups", 1) != 1:
            raise ModelError(f"The width of {block.name!r} cannot be cut: {name!r} ({layer}) ties its units together.")
    units = block.units()
    weight, onward = _weight(block.layer), _weight(following.layer)
    fan = onward.shape[1] // units  # a flattened image has several inputs for each channel
    with torch.no_grad():
        importance = weight.flatten(1).norm(dim=1) * onward.transpose(0, 1).reshape(units, -1).norm(dim=1)
        for _, norm in block.after:
            if isinstance(norm, NORMS) and norm.affine and norm.running_var is not None:
                importance = importance * norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
        kept = importance.topk(count).indices.sort().values
    keep(block.layer, outputs=kept)
    for _, norm in block.after:
        if isinstance(norm, NORMS):
            keep(norm, outputs=kept)
            norm.num_features = count  # also where it has no weight
    keep(following.layer, inputs=(kept[:, None] * fan + torch.arange(fan, device=kept.device)).flatten())
