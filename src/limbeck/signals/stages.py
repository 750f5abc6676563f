"""Where the natural stages of a module are: the blocks that follow each other, found by structure."""

from __future__ import annotations

from torch import nn

from limbeck.errors import SignalError
from limbeck.signals.taps import module_names


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stages(module: nn.Module) -> list[str]:
    """Taps of the stages of a module, from input to output, without its head.

    A list of alike blocks (the layers of a transformer) if there is one; else the children of the innermost container
    that holds most parameters (the stages of a CNN, the activations of a plain chain).
    """
    lists = [
        (name, child) for name, child in module_names(module).items()
        if isinstance(child, nn.ModuleList) and len(child) > 1 and len({type(block) for block in child}) == 1
    ]  # fmt: skip
    if lists:
        name, blocks = max(lists, key=lambda item: _size(item[1]))
        return [f"{name}.{number}" for number in range(len(blocks))]
    prefix, inner = "", module
    while True:
        children = [
            (name, child) for name, child in inner.named_children() if _size(child) or len(children_of(inner)) < 9
        ]
        large = [(name, child) for name, child in children if _size(child) > 0.9 * _size(inner) and children_of(child)]
        if len(large) != 1 or _one_of_several(large[0][1], inner):
            break
        prefix, inner = f"{prefix}{large[0][0]}.", large[0][1]
    containers = [name for name, child in inner.named_children() if children_of(child) and _size(child)]
    if len(containers) > 1:
        return [prefix + name for name in containers]
    activations = [name for name, child in inner.named_children() if type(child).__module__.endswith("activation")]
    if activations:
        return [prefix + name for name in activations]
    return [prefix + name for name, child in list(inner.named_children())[:-1] if _size(child)]


def _one_of_several(child: nn.Module, inner: nn.Module) -> bool:
    """Whether a large child is one of a row of like containers (the last block of a CNN), and not what holds them."""
    return (
        sum(type(other) is type(child) and bool(children_of(other)) and _size(other) > 0 for other in inner.children())
        > 1
    )


def children_of(module: nn.Module) -> list[nn.Module]:
    return list(module.children())


def stage_at(module: nn.Module, fraction: float) -> str:
    """The tap of the stage at a fraction of the depth: 0 the first, 0.5 the middle, 1 the last."""
    found = stages(module)
    if not found:
        raise SignalError(
            f"{type(module).__name__} has no stages that can be found by structure. Name the layer yourself, such as "
            "student_layer='encoder.2'; `limbeck describe` lists its modules."
        )
    return found[round(fraction * (len(found) - 1))]
