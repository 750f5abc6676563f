"""What an objective compares: taps into modules, lazily projected logits and their scores, the signal store on disk.

    from limbeck.signals import Lazy, token_values, label_log_probabilities

Names are resolved when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.signals.blocks import Post, TokenTerm
    from limbeck.signals.lazy import Lazy, walk
    from limbeck.signals.scores import (
        label_log_probabilities,
        sequence_log_probabilities,
        token_entropies,
        token_values,
    )
    from limbeck.signals.store import SignalStore, store_signals
    from limbeck.signals.taps import Taps

_PLACES = {
    "Post": "blocks", "TokenTerm": "blocks", "Lazy": "lazy", "walk": "lazy", "SignalStore": "store",
    "store_signals": "store", "Taps": "taps", "token_values": "scores", "label_log_probabilities": "scores",
    "sequence_log_probabilities": "scores", "token_entropies": "scores",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"limbeck.signals.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'limbeck.signals' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_PLACES)
