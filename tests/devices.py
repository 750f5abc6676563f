"""A second device on a machine that has none: tensors that say "second:1", and fail where they meet others.

Once this is imported torch knows the device, for this process. What is moved there or made on it is a `Far` tensor, which
holds its values on the CPU. As on accelerators an operation on a mixture fails, but for copies, numbers and indices.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
}  # by indices on the CPU, where they like
crossed: Counter[str] = Counter()  # how many numbers were copied "away" to the device, and "back"


class Backend(_DummyBackendModule):
    """What torch asks of a device that nobody takes by default."""

    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend("second", Backend())
AWAY, HERE = torch.device("second:1"), torch.device("cpu")


class Far(Tensor):
    """Values on the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=AWAY
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None  # so that modules exchange their parameters and do not write into them

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Far:
        return Far(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the device of its tensors or the one that it is asked for; refuses a mixture."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [isinstance(tensor, Far) for tensor in tensors]
    asked = kwargs.get("device")
    away = any(far) if asked is None else torch.device(asked) == AWAY
    if function in COPIES:  # copy_ writes into its first tensor
        away = far[0] if asked is None else away
        if far[-1] != away:
            crossed["away" if away else "back"] += tensors[-1].numel()
    elif any(far):
        loose = [tensor.ndim == 0 or (function in INDEXING and far[0]) for tensor in tensors]
        if not all(one or free for one, free in zip(far, loose)):
            raise RuntimeError(f"{function}: expected all tensors to be on one device, found {AWAY} and {HERE}.")
    bare, named = tree_map(lambda leaf: leaf.held if isinstance(leaf, Far) else leaf, (args, kwargs))
    found = function(*bare, **({**named, "device": HERE} if asked is not None and away else named))
    same = {id(tensor.held if isinstance(tensor, Far) else tensor): tensor for tensor in tensors}  # written in place

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return same[id(leaf)] if id(leaf) in same else Far(leaf) if away else leaf

    return tree_map(placed, found)


# what is made there, or written there from below
_every, _aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_every.fallback(lambda function, *args, **kwargs: run(function, args, kwargs), "PrivateUse1")
_aten.impl("copy_", lambda *args, **kwargs: run(aten.copy_.default, args, kwargs), "PrivateUse1")
