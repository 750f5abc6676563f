"""How the tokens of a batch are related: patches of images, positions of maps, across samples and inside one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_neighbour_kl(student: Tensor, teacher: Tensor, *, neighbours: int = 8, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of how near each token's neighbours are, the mean over tokens; a scalar.

    `student` [tokens, width], `teacher` [tokens, other width]. The neighbours are the teacher's, by cosine; both softmaxes are
    over these alone. Cosines are divided by `temperature` times the standard deviation of the teacher's to its neighbours, so
    that they spread alike throughout training (Token Relationship Graph, 2023; how its temperature adapts is ours).
    """
    count = min(neighbours, len(teacher) - 1)
    unit = F.normalize(teacher.detach(), dim=-1)
    others = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near, places = others.topk(count, -1)
    ours = F.normalize(student, dim=-1)
    mine = (ours @ ours.T).gather(1, places)
    scale = temperature * near.std(correction=0).clamp(min=1e-3)
    log_p, log_q = (near / scale).log_softmax(-1), (mine / scale).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def token_context_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """MSE between the cosines of all pairs of tokens inside a sample. Values [batch].

    `student` [batch, tokens, width], `teacher` [batch, tokens, other width] (Token Relationship Graph, 2023).
    """
    mine, theirs = F.normalize(student, dim=-1), F.normalize(teacher.detach(), dim=-1)
    return (mine @ mine.transpose(1, 2) - theirs @ theirs.transpose(1, 2)).square().mean((1, 2))


def token_contrast(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Find a token of the teacher among all of them by the student's; both [tokens, width]; a scalar, mean over tokens."""
    scores = F.normalize(student, dim=-1) @ F.normalize(teacher.detach(), dim=-1).T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
