"""How student, teacher and label lie to each other, sample by sample (TGeo-KD, Hu et al., 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.core import UNLABELLED


def class_means(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The mean of a teacher's probabilities [samples, classes] over the samples of each class; [classes, classes].

    Labels [samples] (-100: left out). A class without samples has the one-hot row.
    """
    hot = F.one_hot(labels.clamp(min=0), probabilities.shape[1]) * (labels != UNLABELLED)[:, None]
    counts = hot.sum(0)[:, None]
    means = hot.to(probabilities.dtype).T @ probabilities / counts.clamp(min=1)
    return torch.where(counts > 0, means, torch.eye(len(means), dtype=means.dtype, device=means.device))


def trilateral_relations(student: Tensor, teacher: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """The edges and vertices of two triangles of probabilities, detached: [batch, 8 classes].

    Logits [batch, classes] give S and T at temperature 1, labels [batch] the one-hot G, means [classes, classes] the teacher's
    mean of the class, M. In this order: G - S, G - T, T - S, G - M, M - S, S, T, M.
    """
    s, t = student.detach().softmax(-1), teacher.detach().softmax(-1)
    g, m = F.one_hot(labels, s.shape[-1]).to(s.dtype), means[labels].to(s.dtype)
    return torch.cat([g - s, g - t, t - s, g - m, m - s, s, t, m], -1)
