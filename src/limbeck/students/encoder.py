"""Cutting Transformers encoders (BERT, RoBERTa, DistilBERT, ViT, ...), found by the structure of their layers.

A layer is cut where its linear layers are, in order: three of one shape under one parent (query, key, value), one back
(output), one to the feed-forward width and one back. Slicing is exact: the student computes what the teacher would with
the dropped heads and neurons set to zero.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.students.cut import conform, evenly, sized
from limbeck.students.declare import seeded

HEADS = ("num_attention_heads", "num_heads", "n_heads")
FFN = ("intermediate_size", "hidden_dim", "ffn_dim")


@dataclass(frozen=True)
class LayerParts:
    """The linear layers of an encoder layer, by their names in it."""

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str

    @property
    def attention(self) -> str:
        return self.query.rpartition(".")[0]


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of layers of an encoder: the outermost ModuleList as long as the config says. ModelError without one."""
    count = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(child) for child in module}) == 1:
            return name, module
    raise ModelError(
        f"{type(model).__name__} cannot be cut: it has no list of {count} equal layers (some models share one layer "
        "among all depths). Build a smaller student instead: 'bag', 'encoder:2,128', or another pretrained model."
    )


def layer_parts(layer: nn.Module) -> LayerParts | None:
    """The six linear layers of an encoder layer; None where it is built otherwise."""
    linear = [(name, child) for name, child in layer.named_modules() if isinstance(child, nn.Linear)]
    if len(linear) != 6:
        return None
    (query, a), (key, b), (value, c), (output, d), (up, e), (down, f) = linear
    parents = {name.rpartition(".")[0] for name in (query, key, value)}
    width = a.in_features
    fits = (
        len(parents) == 1
        and a.weight.shape == b.weight.shape == c.weight.shape
        and d.weight.shape == (width, a.out_features)
        and e.in_features == f.out_features == width
        and e.out_features == f.in_features
    )
    third = {name.rpartition(".")[2][0]: name for name in (query, key, value)}
    return LayerParts(query, key, third.get("v", value), output, up, down) if fits else None


def shrink_encoder(teacher: nn.Module, depth: int | float | None, width: int | float | None,
                   heads: int | float | None) -> nn.Module:  # fmt: skip
    """A new model of the teacher's class with copied layers, fewer feed-forward neurons, fewer heads in every layer.

    Raises ModelError where the structure is another one, or the cut model does not run.
    """
    path, layers = find_layers(teacher)
    kept = evenly(sized(depth, len(layers), "depth"), len(layers))
    config: Any = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(kept)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = [config.layer_types[i] for i in kept]
    state = copied(teacher, path, kept)
    about: dict[str, Any] = {"layers": kept, "of": len(layers)}
    numbers: dict[str, dict[str, int]] = {}
    if width is not None or heads is not None:
        for new, old in enumerate(kept):
            parts = layer_parts(layers[old])
            if parts is None:
                raise ModelError(
                    f"{type(teacher).__name__}: a layer is not built of query, key, value, output and two feed-forward "
                    "linear layers, so width and heads cannot be cut. Cut the depth alone: shrink(depth=...)."
                )
            where = f"{path}.{new}"
            if width is not None:
                _cut_ffn(state, where, parts, width)
            if heads is not None:
                number, size = _cut_heads(state, where, parts, layers[old], heads)
                about["heads"] = number
                numbers[f"{where}.{parts.attention}"] = {
                    **dict.fromkeys(HEADS, number), "all_head_size": number * size,
                    **dict.fromkeys(("attention_head_size", "head_dim"), size),
                }  # fmt: skip
        parts = layer_parts(layers[0])
        assert parts is not None
        about["ffn"] = state[f"{path}.0.{parts.up}.weight"].shape[0]
        _tell(config, teacher, state, f"{path}.0", parts, about)
    return assemble(teacher, config, state, numbers, about)


def copied(teacher: nn.Module, path: str, kept: list[int]) -> dict[str, Tensor]:
    """The teacher's weights under the names of the student: kept layers renumbered, the others gone."""
    state: dict[str, Tensor] = {}
    new = {str(old): str(i) for i, old in enumerate(kept)}
    for name, value in teacher.state_dict().items():
        if name.startswith(path + "."):
            number, _, rest = name[len(path) + 1 :].partition(".")
            if number not in new:
                continue
            name = f"{path}.{new[number]}.{rest}"
        state[name] = value
    return state


def _slice(state: dict[str, Tensor], name: str, index: Tensor, axis: int) -> None:
    weight = state[f"{name}.weight"]
    index = index.to(weight.device)
    state[f"{name}.weight"] = weight.index_select(axis, index)
    if axis == 0 and f"{name}.bias" in state:
        state[f"{name}.bias"] = state[f"{name}.bias"].index_select(0, index)


def _cut_ffn(state: dict[str, Tensor], where: str, parts: LayerParts, width: int | float) -> None:
    up, down = state[f"{where}.{parts.up}.weight"].float(), state[f"{where}.{parts.down}.weight"].float()
    importance = up.norm(dim=1) * down.norm(dim=0)
    kept = importance.topk(sized(width, len(importance), "width")).indices.sort().values
    _slice(state, f"{where}.{parts.up}", kept, 0)
    _slice(state, f"{where}.{parts.down}", kept, 1)


def _cut_heads(state: dict[str, Tensor], where: str, parts: LayerParts, layer: nn.Module,
               heads: int | float) -> tuple[int, int]:  # fmt: skip
    """Keep the heads whose value and output maps are largest. Returns the new number and size of heads."""
    attention = layer.get_submodule(parts.attention)
    full = next((getattr(attention, name) for name in HEADS if isinstance(getattr(attention, name, None), int)), None)
    total = state[f"{where}.{parts.query}.weight"].shape[0]
    if full is None or total % full:
        raise ModelError(f"{type(attention).__name__} does not say how many heads it has ({', '.join(HEADS)}).")
    size = total // full
    value, output = state[f"{where}.{parts.value}.weight"].float(), state[f"{where}.{parts.output}.weight"].float()
    importance = head_importance(value.unflatten(0, (full, size)), output.unflatten(1, (full, size)).transpose(0, 1))
    kept = importance.topk(sized(heads, full, "heads")).indices.sort().values
    rows = (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()
    for name in (parts.query, parts.key, parts.value):
        _slice(state, f"{where}.{name}", rows, 0)
    _slice(state, f"{where}.{parts.output}", rows, 1)
    return len(kept), size


def head_importance(value: Tensor, output: Tensor) -> Tensor:
    """Frobenius norms of output @ value, [heads], from [heads, size, inputs] and [heads, outputs, size].

    Through Gram matrices: no product of the hidden size squared is formed.
    """
    products = (output.mT @ output) * (value @ value.mT)
    return products.sum(dim=(1, 2)).clamp(min=0).sqrt()


def _tell(config: Any, teacher: nn.Module, state: dict[str, Tensor], where: str, parts: LayerParts,
          about: dict[str, Any]) -> None:  # fmt: skip
    """Let the config say the new sizes where it can, so that plain Transformers reads the student too."""
    full = teacher.get_submodule(where).get_submodule(parts.up).out_features
    _try(config, type(teacher), {name: about["ffn"] for name in FFN if getattr(config, name, None) == full},
         state, f"{where}.{parts.up}.weight")  # fmt: skip
    if "heads" in about:
        rows = state[f"{where}.{parts.query}.weight"].shape[0]
        _try(config, type(teacher), {"num_attention_heads": about["heads"], "head_dim": rows // about["heads"]},
             state, f"{where}.{parts.query}.weight")  # fmt: skip


def _try(config: Any, kind: type[nn.Module], changes: dict[str, int], state: dict[str, Tensor], key: str) -> None:
    """Keep the changes of a config if a model built from it has the wanted shape."""
    trial = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(trial, name, value)
    try:
        with torch.device("meta"):
            shape = kind(trial).get_parameter(key).shape
    except (ValueError, RuntimeError):
        return  # a config that refuses such heads: the cut beside the weights will say it
    if shape == state[key].shape:
        for name, value in changes.items():
            setattr(config, name, value)


def assemble(teacher: nn.Module, config: Any, state: dict[str, Tensor], numbers: dict[str, dict[str, int]],
             about: dict[str, Any], *, shapes: bool = True) -> nn.Module:  # fmt: skip
    """The student of this config and these weights; `numbers`: what its modules are to say of sizes, where they do.

    Raises ModelError where the weights do not fit; with `shapes`, modules take shapes that the config does not say.
    """
    with seeded(0):  # every weight is overwritten below
        student: Any = type(teacher)(config)
    for name in [name for name, _ in student.named_children() if getattr(teacher, name, None) is None]:
        setattr(student, name, None)  # what the teacher goes without, such as a pooler
    student.to(next(teacher.parameters()).device)
    conform(student, state, shapes=shapes)
    for path, values in numbers.items():
        child = student.get_submodule(path)
        for name, value in values.items():
            if isinstance(getattr(child, name, None), int):
                setattr(child, name, value)
    try:
        student.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"{type(teacher).__name__} cannot be cut like this: its config does not say all that its layers are "
            f"({str(error)[:300]} ...). Choose another depth, or a student of another build."
        ) from error
    student.train(teacher.training)
    for name in ("tokenizer", "processor"):
        if hasattr(teacher, name):
            setattr(student, name, getattr(teacher, name))
    if getattr(teacher, "generation_config", None) is not None:
        student.generation_config = copy.deepcopy(teacher.generation_config)
    student.limbeck_shrink = about
    runs(student)
    return student


def runs(student: nn.Module) -> None:
    """Raise where the cut model does not run: its attention holds more for each head than linear layers."""
    config: Any = student.config
    device = next(student.parameters()).device
    if student.main_input_name == "pixel_values":
        sides = [config.image_size] * 2 if isinstance(config.image_size, int) else list(config.image_size)
        inputs = torch.zeros(1, config.num_channels, *sides, device=device, dtype=next(student.parameters()).dtype)
    else:
        inputs = torch.ones(1, 4, dtype=torch.int64, device=device)
    about: Any = student.limbeck_shrink
    advice = "Cut the depth alone: shrink(depth=...)." if {"ffn", "heads"} & about.keys() else "Choose another depth."
    mode = student.training
    try:
        with torch.no_grad():
            student.eval()(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ModelError(f"{type(student).__name__} does not run once it is cut ({error}). {advice}") from error
    finally:
        student.train(mode)
