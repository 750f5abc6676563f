"""The memory that a computation needs, counted tensor by tensor.

The resident memory of a process is no measure for small models: the interpreter and its libraries take hundreds of
megabytes, and the high-water mark never falls. So we count what torch allocates: the largest sum of bytes of the
tensors that were alive at once. It is the same number in every run and on every machine. Scratch space inside a
single kernel is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Meter(TorchDispatchMode):
    """Follows the storages that operations make, from birth to death."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):  # what came from outside (weights, inputs) was there before
            if isinstance(given, Tensor):
                self._watch(given, made=False)
        result = func(*args, **kwargs)
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._watch(made, made=True)
        return result

    def _watch(self, value: Tensor, made: bool) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes() if made else 0
        self.now += size
        self.peak = max(self.peak, self.now)

        def died(_: Any) -> None:
            self.now -= size
            self.known.pop(key, None)

        self.known[key] = weakref.ref(storage, died)


def peak_memory(fn: Callable[[], Any]) -> int:
    """Bytes of the tensors that `fn()` makes and that are alive at once, at the worst moment, its result included.

    Weights and inputs that exist before are not counted. The fused encoder layer of torch, whose inside cannot be
    seen, runs in its plain form meanwhile; where another fused kernel allocates by itself this is a lower bound.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with _Meter() as meter:
            fn()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return meter.peak
