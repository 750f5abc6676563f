"""Two views of each sample: which belongs to which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Find a sample's other view among the other views of the batch and the samples of its own view; a scalar.

    `first`, `second` [batch, width], brought to length 1 here. Cross-entropy of cosines / temperature, the mean over the batch;
    the SUM of both directions, as in the released code, twice the mean over all views (SimCLR, Chen et al., 2020).
    """
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    itself = torch.eye(len(first), dtype=torch.bool, device=first.device)
    right = torch.arange(len(first), device=first.device)

    def direction(own: Tensor, other: Tensor) -> Tensor:
        among = (own @ own.T).masked_fill(itself, -torch.inf)
        return F.cross_entropy(torch.cat([own @ other.T, among], 1) / temperature, right)

    return direction(first, second) + direction(second, first)


def told_apart(student: Tensor, teacher: Tensor) -> Tensor:
    """How badly a discriminator tells student from teacher: binary cross-entropy of its two scores of each. Values [batch].

    `student`, `teacher` [batch, 2]: scores of being one and the other, to be [1, 0] and [0, 1]. The mean over both rows and
    scores (MEAL V2, Shen and Savvides, 2020).
    """
    right = torch.tensor([1.0, 0.0], device=student.device, dtype=student.dtype)
    values = [
        F.binary_cross_entropy_with_logits(scores, target.expand_as(scores), reduction="none")
        for scores, target in ((student, right), (teacher, 1 - right))
    ]
    return torch.stack(values).mean((0, -1))
