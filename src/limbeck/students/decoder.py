"""Cutting Transformers decoders: layers, heads, feed-forward neurons, hidden size, with the teacher's weights.

Heads and neurons: the student computes what the teacher would with the dropped ones set to zero. With grouped queries,
key-value groups stay with equally many query heads in each. Hidden size: what is dropped is never written nor read, and
norms are taken over what is left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.cut import evenly, sized
from limbeck.students.decoder_cuts import Sizes, Weights, cut_ffn, cut_heads, cut_hidden, measure
from limbeck.students.decoder_families import FAMILIES, Family
from limbeck.students.encoder import assemble, copied, find_layers, layer_parts, shrink_encoder

Size = int | float | None


def is_decoder(model: Any) -> bool:
    """Whether a Transformers model is one of the known decoders, or another that writes text without an encoder."""
    return model.config.model_type in FAMILIES or (model.can_generate() and not model.config.is_encoder_decoder)


def shrink_decoder(teacher: Any, depth: Size, width: Size, heads: Size, hidden: Size) -> nn.Module:
    """A new model of the teacher's class: layers evenly spread, in each the largest heads and feed-forward neurons.

    Families in `FAMILIES` can be cut in every way, others in depth. Raises ModelError where the teacher is built
    otherwise, ArgumentError for counts that its config cannot have (with the nearest that it can).
    """
    family = FAMILIES.get(teacher.config.model_type)
    if family is None:
        return _shrink_other(teacher, depth, width, heads, hidden)
    path, layers, kept, config, state = _cut_depth(teacher, depth)
    about: dict[str, Any] = {"layers": kept, "of": len(layers)}
    weights = Weights(state, family)
    names = [f"{path}.{i}" for i in range(len(kept))]
    full = measure(weights, names[0], layers[0].get_submodule(family.attention).head_dim)  # type: ignore[arg-type]
    new = _choose(config, family, full, width, heads, hidden, about)
    for name in names:
        if new.ffn != full.ffn:
            cut_ffn(weights, name, new.ffn)
        if new.heads != full.heads:
            cut_heads(weights, name, full, new.heads, new.groups)
    if new.hidden != full.hidden:
        parent = path.rpartition(".")[0]
        cut_hidden(weights, names, f"{parent}." if parent else "", _outside(teacher, parent), new.hidden)
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        _keep_scales(weights, names, kept, new.heads * new.size)
    numbers = _tell(config, family, full, new, names)
    return assemble(teacher, config, state, numbers, about, shapes=bool(numbers))


def _cut_depth(teacher: Any, depth: Size) -> tuple[str, nn.ModuleList, list[int], Any, dict[str, Tensor]]:
    """Where the layers are, all of them, the numbers of those that stay, the config for these, their weights."""
    path, layers = find_layers(teacher)
    kept = evenly(sized(depth, len(layers), "depth"), len(layers))
    config: Any = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(kept)
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == len(layers):
            setattr(config, name, [value[i] for i in kept])  # layer_types and such: each layer keeps its type
    if (head := teacher.get_output_embeddings()) is not None:
        config.tie_word_embeddings = head.weight is teacher.get_input_embeddings().weight
    return path, layers, kept, config, copied(teacher, path, kept)


def _shrink_other(teacher: Any, depth: Size, width: Size, heads: Size, hidden: Size) -> nn.Module:
    """A decoder of another family: its depth; width and heads where its layers are built as those of encoders."""
    kind, known = type(teacher).__name__, ", ".join(family.title for family in FAMILIES.values())
    if teacher.config.get_text_config() is not teacher.config:
        raise ModelError(
            f"{kind} ({teacher.config.model_type}) holds a language model among other parts; such models cannot be cut. "
            f"Give a decoder alone, such as a ...ForCausalLM of {known}."
        )
    _, layers, kept, config, state = _cut_depth(teacher, depth)
    sides = {"width": width, "heads": heads, "hidden": hidden}
    asked = [name for name, size in sides.items() if size is not None]
    if hidden is not None or (asked and layer_parts(layers[0]) is None):
        raise ModelError(
            f"{' and '.join(asked)} of {kind} ({teacher.config.model_type}) cannot be cut. Of these decoders they can: "
            f"{known}. Cut the depth alone: shrink(depth=...)."
        )
    about: dict[str, Any] = {"layers": kept, "of": len(layers)}
    student = assemble(teacher, config, state, {}, about, shapes=False)
    try:
        with torch.device("meta"):  # as it will be built again from its folder
            again = type(teacher)(type(config).from_dict(config.to_dict()))
    except _refusals() as error:
        raise ModelError(f"{kind} cannot be cut in depth: its config cannot say which layers stay. {error}") from error
    for copy_ in (student, again):
        _unchanged(layers, find_layers(copy_)[1], kept)
    if asked:
        student = shrink_encoder(student, None, width, heads)
        student.limbeck_shrink = {**student.limbeck_shrink, **about}  # type: ignore[assignment, dict-item]
    return student


def _refusals() -> tuple[type[Exception], ...]:
    """What a config raises that Transformers does not take."""
    return (ValueError, TypeError, need("huggingface_hub", "language").errors.StrictDataclassError)


def _unchanged(before: nn.ModuleList, after: nn.ModuleList, kept: list[int]) -> None:
    """Raise where a layer says other things of itself in its new place (a window, a scale, a kind of attention)."""
    for place, number in enumerate(kept):
        old, new = _words(before[number]), _words(after[place])
        for name in old.keys() | new.keys():
            if old.get(name) != new.get(name):
                raise ModelError(
                    f"The depth of this decoder cannot be cut: layer {number} would be another one as layer {place} of "
                    f"the student ({name} is {old.get(name)!r}, then {new.get(name)!r}). Choose another depth."
                )


def _words(layer: nn.Module) -> dict[str, Any]:
    """The plain values that the modules of a layer hold, but for its number."""
    places = ("training", "layer_idx", "layer_id", "layer_number")
    return {
        f"{path}.{name}": value
        for path, module in layer.named_modules() for name, value in {**vars(module), "class": type(module)}.items()
        if not name.startswith("_") and name not in places and isinstance(value, bool | int | float | str | type | None)
    }  # fmt: skip


def _choose(config: Any, family: Family, full: Sizes, width: Size, heads: Size, hidden: Size,
            about: dict[str, Any]) -> Sizes:  # fmt: skip
    """The student's sizes, written into `about` too: those asked for, or the nearest possible to a fraction."""
    ffn, number = sized(width, full.ffn, "width"), sized(heads, full.heads, "heads")
    wide = sized(hidden, full.hidden, "hidden")
    share = full.heads // full.groups
    groups = {g * k: k for k in range(1, full.groups + 1) for g in range(1, share + 1)}  # the most for so many heads
    notes: list[str] = []

    def nearest(name: str, asked: Size, count: int, choices: Sequence[int], fits: Callable[[int], bool]) -> int:
        if count == choices[-1]:
            return count  # as it is
        best = next((n for n in sorted(choices[:-1], key=lambda n: (abs(n - count), -n)) if fits(n)), None)
        if best == count:
            return count
        said = (
            f"{name}={asked}: {family.title} with a hidden size of {wide}, {full.groups} key-value heads for "
            f"{full.heads} heads of {full.size} cannot have {count}"
        )
        if best is None:
            raise ArgumentError(f"{said}, nor any other number below {choices[-1]}, by its config. Cut something else.")
        if isinstance(asked, int):
            raise ArgumentError(f"{said}. The nearest that it can have is {best}.")
        notes.append(f"{said}; it has {best}")
        return best

    if family.free_heads:
        if heads is not None:  # a hidden size that is cut too follows the heads
            number = nearest(
                "heads", heads, number, sorted(groups),
                lambda n: hidden is not None or _accepts(config, full.hidden, n, groups[n], full.size),
            )  # fmt: skip
        if hidden is not None:
            wide = nearest("hidden", hidden, wide, range(1, full.hidden + 1),
                           lambda n: _accepts(config, n, number, groups[number], full.size))  # fmt: skip
    elif hidden is not None:  # heads and hidden size are cut together
        wide = nearest("hidden", hidden, wide, range(full.size, full.heads * full.size + 1, full.size),
                       lambda n: heads is None or n == number * full.size)  # fmt: skip
        number = wide // full.size
    asked = {"ffn": width, "heads": heads, "kv_heads": heads, "hidden": hidden}
    if not family.free_heads:
        asked["heads"] = asked["kv_heads"] = hidden if heads is None else heads
    sizes = {"ffn": ffn, "heads": number, "kv_heads": groups[number], "hidden": wide}
    about |= {name: size for name, size in sizes.items() if asked[name] is not None}
    if notes:
        about["notes"] = notes
    return Sizes(wide, number, groups[number], full.size, ffn)


def _accepts(config: Any, hidden: int, heads: int, groups: int, size: int) -> bool:
    """Whether Transformers takes a config of these sizes (Llama and Gemma want heads that divide the hidden size)."""
    changes = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": size}
    try:
        type(config).from_dict({**config.to_dict(), **changes})
    except _refusals():
        return False
    return True


def _outside(teacher: nn.Module, parent: str) -> list[str]:
    """The linear layers that read the last hidden states. Raises ModelError where something else beside the decoder is."""
    found = []
    for name, module in teacher.named_modules():
        if not parent or name == parent or name.startswith(f"{parent}.") or not module._parameters:
            continue
        if not isinstance(module, nn.Linear):
            raise ModelError(
                f"The hidden size of {type(teacher).__name__} cannot be cut: {name} is a {type(module).__name__}, where "
                "a linear head was expected. Cut depth, width or heads."
            )
        found.append(name)
    return found


def _keep_scales(weights: Weights, names: list[str], kept: list[int], rows: int) -> None:
    """GPT-2 may divide attention scores by the number of the layer: what a new number changes goes into the queries."""
    for place, number in enumerate(kept):
        for part in ("weight", "bias"):
            name = f"{names[place]}.{weights.family.query}.{part}"
            weights.state[name] = weights.state[name].clone()
            weights.state[name][..., :rows] *= (place + 1) / (number + 1)


def _tell(config: Any, family: Family, full: Sizes, new: Sizes, names: list[str]) -> dict[str, dict[str, int]]:
    """Write the sizes into the config; return what modules must say themselves where the config has no words for it."""
    setattr(config, family.ffn, new.ffn)  # GPT-2's n_inner would follow the hidden size
    if getattr(config, "word_embed_proj_dim", None) == full.hidden:
        config.word_embed_proj_dim = new.hidden
    config.hidden_size = new.hidden
    if family.free_heads:
        config.num_attention_heads, config.num_key_value_heads, config.head_dim = new.heads, new.groups, new.size
        return {}
    if new.heads * new.size == new.hidden:
        config.num_attention_heads = new.heads
        return {}
    numbers: dict[str, dict[str, int]] = {}
    rows = new.heads * new.size
    for name in names:
        numbers[f"{name}.{family.attention}"] = {"num_heads": new.heads, "split_size": rows}
        if family.transposed:
            numbers[f"{name}.{family.query}"] = {"nf": 3 * rows}
            numbers[f"{name}.{family.output}"] = {"nx": rows}
    return numbers
