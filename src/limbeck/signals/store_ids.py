"""The k classes of a token in few bytes: ascending ids as Elias and Fano write them, some 2 + log2(classes / k) bits each.

The low bits of each id stand as they are. Of the high ones, of which there are about k values, a row of bits tells how far the
next id goes on: the i-th id sets the bit of its high part + i. All rows are of one length, so that each is found by itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import StoreError


def _low_bits(k: int, classes: int) -> int:
    return max(classes // k, 1).bit_length() - 1


def _sizes(k: int, classes: int) -> tuple[int, int]:
    """Bits of all low parts, and of the row for the high ones."""
    low = _low_bits(k, classes)
    return k * low, k + (classes - 1 >> low)


def packed_width(k: int, classes: int) -> int:
    """Bytes for k ids below `classes`."""
    return sum(-(-bits // 8) for bits in _sizes(k, classes))


def pack_ids(ids: Tensor, classes: int) -> Tensor:
    """Ids [n, k], ascending within each row, below `classes`; returns uint8 [n, packed_width(k, classes)]."""
    rows = ids.cpu().numpy().astype(np.int64)
    k = rows.shape[-1]
    low, (_, high_size) = _low_bits(k, classes), _sizes(k, classes)
    lows = ((rows[..., None] >> np.arange(low)) & 1).reshape(len(rows), k * low).astype(np.uint8)
    highs = np.zeros((len(rows), high_size), np.uint8)
    np.put_along_axis(highs, (rows >> low) + np.arange(k), 1, -1)
    return torch.from_numpy(np.concatenate([np.packbits(lows, -1), np.packbits(highs, -1)], -1))


def unpack_ids(packed: Tensor, k: int, classes: int) -> Tensor:
    """Ids [n, k] int32, ascending, of `pack_ids`. Raises StoreError for bytes that are no k ids."""
    found, low, (low_size, high_size) = packed.cpu().numpy(), _low_bits(k, classes), _sizes(k, classes)
    edge = -(-low_size // 8)
    highs = np.unpackbits(found[:, edge:], axis=-1, count=high_size)
    if (highs.sum(-1, dtype=np.int64) != k).any():
        raise StoreError(f"A row of the store does not hold {k} classes: its file is damaged. Write the store again.")
    ids = (highs.nonzero()[1].reshape(-1, k) - np.arange(k)) << low
    if low:
        lows = np.unpackbits(found[:, :edge], axis=-1, count=low_size).reshape(-1, k, low)
        ids += lows @ (1 << np.arange(low))
    return torch.from_numpy(ids.astype(np.int32))
