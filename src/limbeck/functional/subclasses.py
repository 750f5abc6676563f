"""Pseudo-subclasses: each class is split along directions of the teacher's embeddings, so that few classes say more (LELP)."""

from __future__ import annotations

import torch
from torch import Tensor


def subclass_directions(embeddings: Tensor, classes: Tensor, count: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Where the subclasses of every class point: centres [outputs, width] and directions [outputs, count, width].

    Of the embeddings [samples, width] whose class is c (classes [samples]), less their mean: the principal components of
    largest variance, each in both senses, divided by the standard deviation along the first of the class. Directions that a
    class has not enough samples for are 0: its subclasses then share alike.
    """
    if count < 2:
        raise ValueError(f"{count} subclasses to a class: expected 2 or more")
    centres = embeddings.new_zeros(outputs, embeddings.shape[1])
    directions = embeddings.new_zeros(outputs, count, embeddings.shape[1])
    for c in range(outputs):
        mine = embeddings[classes == c]
        if not len(mine):
            continue
        centres[c] = mine.mean(0)
        _, sizes, components = torch.linalg.svd(mine - centres[c], full_matrices=False)
        scale = (sizes[0] / len(mine) ** 0.5).clamp(min=1e-12)
        for s in range(min(count, 2 * int((sizes > 1e-6 * sizes[0]).sum()))):
            directions[c, s] = (1 - 2 * (s % 2)) * components[s // 2] / scale
    return centres, directions


def subclass_log_probabilities(logits: Tensor, embeddings: Tensor, centres: Tensor, directions: Tensor, *,
                               temperature: float = 1.0) -> Tensor:  # fmt: skip
    """log p(class) + log softmax over its subclasses of ((h - centre) . direction) / temperature; [batch, classes x count].

    Logits [batch, classes], embeddings h [batch, width], centres and directions as `subclass_directions` gives them. The
    subclasses of class c are the columns c count to (c + 1) count - 1, and their probabilities add up to the teacher's of c.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r}: expected a positive number")
    scores = torch.einsum("bcd,csd->bcs", embeddings[:, None] - centres, directions) / temperature
    return (logits.log_softmax(-1)[..., None] + scores.log_softmax(-1)).flatten(1)


def summed_subclasses(logits: Tensor, count: int) -> Tensor:
    """Logits [..., classes] whose softmax is the sum of that of subclass logits [..., classes x count] over each class."""
    return logits.unflatten(-1, (-1, count)).logsumexp(-1)
