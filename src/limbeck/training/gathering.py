"""Bring the rows of all processes together, in the order of the global batch and with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gatherer(weight: Tensor | None, processes: int) -> Callable[[list[Tensor]], list[Tensor]]:
    """A function that gathers tensors [rows, ...] whose rows are every `processes`-th of the global batch.

    Slices may differ by one row, and fillers (weight 0) are left out: rows are padded, gathered, and put in order.
    The gradient of the gathered value reaches each process's own rows summed over processes.
    """
    from torch.distributed import nn as distributed

    def gather(tensors: list[Tensor]) -> list[Tensor]:
        rows = len(tensors[0])
        filler = weight is not None and not bool((weight > 0).any())
        sizes = torch.zeros(processes, dtype=torch.int64, device=tensors[0].device)
        sizes[torch.distributed.get_rank()] = 0 if filler else rows
        torch.distributed.all_reduce(sizes)
        longest, counts = int(sizes.max()), sizes.tolist()
        found = []
        for tensor in tensors:
            padded = tensor
            if rows < longest:
                padded = torch.cat([tensor, tensor.new_zeros((longest - rows, *tensor.shape[1:]))])
            if padded.is_floating_point():
                parts = list(distributed.all_gather(padded.contiguous()))
            else:
                parts = [torch.empty_like(padded) for _ in range(processes)]
                torch.distributed.all_gather(parts, padded.contiguous())
            stacked = torch.stack(parts, dim=1).flatten(0, 1)  # row r of process p stands at r * processes + p
            real = torch.tensor([row < counts[process] for row in range(longest) for process in range(processes)])
            found.append(stacked[real.to(stacked.device)])
        return found

    return gather
