"""Content hashes of data: equal hashes are the same samples, on every machine and in every process."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from limbeck.data.base import Data, Part

CHUNK = 1024


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value):
            digest.update(key.encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    elif isinstance(value, np.ndarray):
        _feed(digest, torch.from_numpy(np.ascontiguousarray(value)))
    else:
        text = str(value).encode()
        digest.update(f"{len(text)}:".encode() + text)


def fingerprint_part(part: Part, *, labels: bool = True) -> str:
    """sha256 over the ids, inputs (without augmentation) and, unless told not to, labels of a part."""
    digest = hashlib.sha256()
    _feed(digest, part.ids)
    if part.order == "stream":  # it is not read to its end to know it
        _feed(digest, part.describe())
    if labels and part.labels is not None:
        _feed(digest, part.labels)
    for start in range(0, len(part), CHUNK):
        _feed(digest, part.gather(torch.arange(start, min(start + CHUNK, len(part)))))
    return digest.hexdigest()


def _all(data: Data, labels: bool) -> str:
    digest = hashlib.sha256()
    for name in sorted(data.parts):
        digest.update(f"{name}={fingerprint_part(data.parts[name], labels=labels)};".encode())
    return digest.hexdigest()


def fingerprint(data: Data) -> str:
    """sha256 over all parts of the data: names, ids, labels, inputs."""
    return _all(data, labels=True)


def fingerprint_inputs(data: Data) -> str:
    """The same without labels: a teacher's signals depend on inputs only, so hidden labels do not change it."""
    return _all(data, labels=False)
