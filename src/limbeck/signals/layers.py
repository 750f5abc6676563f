"""Layers of any depth: which layer of a teacher a student's layer learns from, and where a layer's attention is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from limbeck.errors import ArgumentError, SignalError
from limbeck.signals.stages import stages
from limbeck.signals.taps import module_names

LayerMap = Literal["uniform", "first", "last"]

PROJECTIONS = (
    ("query", "key", "value"), ("query_proj", "key_proj", "value_proj"), ("q_lin", "k_lin", "v_lin"),
    ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"),
)  # fmt: skip
HEADS = ("num_attention_heads", "n_heads", "num_heads")


def layer_map(student: int, teacher: int, how: LayerMap | Sequence[int] = "uniform") -> list[int]:
    """For each of the student's layers the teacher's, all counted from 0.

    "uniform": the last layer of each of `student` equal blocks of the teacher (TinyBERT), the nearest where they cannot be
    equal; "first", "last": as many of the teacher's first or last layers. A sequence is a map by hand. Raises ArgumentError.
    """
    if isinstance(how, str):
        if not 0 < student <= teacher:
            raise ArgumentError(
                f"The student has {student} layers and the teacher {teacher}: a layer map needs a student that has layers, and "
                "no more than its teacher. Give the map by hand, such as [0, 0, 1, 1]."
            )
        if how not in ("uniform", "first", "last"):
            raise ArgumentError(
                f"layers={how!r}: expected 'uniform', 'first', 'last', or the teacher's layers, as in [1, 3]."
            )
        start = {"first": 0, "last": teacher - student}
        if how in start:
            return [start[how] + number for number in range(student)]
        return [(2 * number * teacher + student) // (2 * student) - 1 for number in range(1, student + 1)]
    found = list(how)
    if len(found) != student or not all(0 <= number < teacher for number in found):
        raise ArgumentError(
            f"layers={found}: expected a layer of the teacher, 0 to {teacher - 1}, for each of the student's {student} layers."
        )
    return found


def layers(module: nn.Module) -> list[str]:
    """Taps of the layers of a model, found by structure as `signals.stages` does; of a transformer with one layer that one.

    Raises SignalError for a transformer that runs one layer several times (ALBERT).
    """
    count = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    lists = [
        name for name, child in module_names(module).items() if isinstance(child, nn.ModuleList) and len(child) == 1
    ]
    if count == 1 and lists:
        return [f"{lists[0]}.0"]
    found = stages(module)
    if isinstance(count, int) and len(found) != count:
        raise SignalError(
            f"{type(module).__name__} says that it has {count} layers, and {len(found)} are found ({', '.join(found[:3])}). "
            "One that is run several times cannot be told apart by name: use a recipe of outputs, such as kd; else name the "
            "layers by a pattern."
        )
    return found


class Attention(NamedTuple):
    """Where the attention of one layer is: taps of its queries, keys and values [batch, tokens, width], and its heads."""

    query: str
    key: str
    value: str
    heads: int


def attention_of(module: nn.Module, layer: str, *, scores: bool = True) -> Attention:
    """The self-attention in a layer of a transformer, found by the names of its three linear maps.

    With `scores`, the softmax of queries times keys must be what the layer attends by: a layer that turns them (rotary), adds
    relative positions, or does not look ahead is refused. Raises SignalError.
    """
    names = module_names(module)
    inside = {name: child for name, child in names.items() if name.startswith(f"{layer}.")}
    owners = {name.rpartition(".")[0] for name in inside}
    for owner in sorted(owners, key=lambda name: (name.count("."), name)):
        for three in PROJECTIONS:
            if all(f"{owner}.{one}" in inside for one in three):
                if scores:
                    _check_plain(module, names[owner], layer)
                query, key, value = (f"{owner}.{one}" for one in three)
                return Attention(query, key, value, _heads(module, names, owner))
    raise SignalError(
        f"No queries, keys and values are found in {layer!r} of {type(module).__name__}. They are three linear maps side by "
        f"side, called {', '.join('/'.join(three) for three in PROJECTIONS)}; one map for all three cannot be tapped apart. "
        "Maps of attention that a model returns (attn_implementation='eager') are not read here: use a recipe of outputs or "
        "of hidden states, such as kd or pkd_bert."
    )


def _heads(module: nn.Module, names: dict[str, nn.Module], owner: str) -> int:
    for holder in (names[owner], names[owner.rpartition(".")[0]], getattr(module, "config", None)):
        for name in HEADS:
            if isinstance(getattr(holder, name, None), int):
                return int(getattr(holder, name))
    raise SignalError(f"{owner!r} of {type(module).__name__} does not say how many heads it has ({', '.join(HEADS)}).")


def _check_plain(module: nn.Module, attention: nn.Module, layer: str) -> None:
    config = getattr(module, "config", None)
    odd = [name for name in module_names(module) if re.search("relative|rel_embed|rotary|alibi", name)]
    if getattr(config, "attention_window", None):
        odd = ["a window"]
    elif getattr(config, "is_decoder", False) or getattr(attention, "is_causal", False):
        odd = ["a look at earlier tokens only"]
    elif str(getattr(config, "position_embedding_type", "absolute")).startswith("relative"):
        odd = ["relative positions"]
    elif getattr(config, "rope_theta", None) or getattr(config, "rope_parameters", None):
        odd = ["rotary positions"]
    if odd:
        raise SignalError(
            f"The attention in {layer!r} of {type(module).__name__} is more than the softmax of its queries times its keys "
            f"({odd[0]}), and cannot be computed from them. Use minilm_v2, which compares queries with queries."
        )
