"""What processes know together: how many samples of each kind a step has, and rows in the order of the global batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.signals.step import count_items

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.data.base import Batch


def populations(batches: Sequence[Batch], accelerator: Accelerator) -> tuple[dict[str, float], list[float]]:
    """How many items of each kind the micro-batches of a step have in all processes, and each one's share of the samples."""
    each = [count_items(batch) for batch in batches]
    if len(each) == 1 and accelerator.num_processes == 1:
        return each[0], [1.0]
    # every process has the same keys, whatever it found: those of its parts of the same data
    keys = ["sample", "token", "sample, labelled", "token, labelled"]
    keys += sorted(batches[0].extra.get("populations", {}))
    keys += [f"{key}, {name}" for name in sorted(batches[0].groups()) for key in list(keys)]
    local = torch.tensor([sum(counts.get(key, 0.0) for counts in each) for key in keys], dtype=torch.float64)
    if accelerator.num_processes > 1:
        local = accelerator.reduce(local.to(accelerator.device), "sum").cpu()
    counts = {key: float(value) for key, value in zip(keys, local, strict=True)}
    return counts, [part["sample"] / max(counts["sample"], 1.0) for part in each]


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
