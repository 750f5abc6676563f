"""Which samples of a pool to ask about: scores of each, and choices that cover it."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["euclidean", "cosine"]


def prediction_entropy(probabilities: Tensor) -> Tensor:
    """The entropy of each row of probabilities [n, classes], in nats; [n]."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def margin_gain(probabilities: Tensor, floor: float = 1e-6) -> Tensor:
    """1 - (largest - second largest) of each row [n, classes], at least `floor`; [n]. Near 1 where the two are as likely."""
    top = probabilities.topk(2, -1).values
    return (1 - (top[..., 0] - top[..., 1])).clamp(min=floor)


def robust_distribution(gains: Tensor, wrong: float, penalty: float = 1.0) -> Tensor:
    """How often to ask about each sample so that most is gained where the worst `wrong` of the answers are false; [n], sum 1.

    `gains` [n] above 0. The best q of max over the simplex, min over sets W of at most `wrong` samples, of the sum of q g
    outside W less `penalty` times the sum inside it: with gains falling and H_k = sum of 1/g over the k largest, the k that
    makes (k - (1 + penalty) wrong) / H_k largest, and q = 1 / (g H_k) on these k (Robust Active Distillation, Baykal et al.,
    2023).
    """
    ordered, order = gains.double().sort(descending=True, stable=True)
    harmonic = (1 / ordered).cumsum(0)
    count = torch.arange(1, len(ordered) + 1, dtype=ordered.dtype, device=ordered.device)
    best = int(((count - (1 + penalty) * wrong) / harmonic).argmax())
    found = torch.zeros_like(ordered)
    found[order[: best + 1]] = 1 / (ordered[: best + 1] * harmonic[best])
    return found


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    """EL2N: the length of p - onehot(label), of probabilities [n, classes] and labels [n]; [n] (Paul et al., 2021)."""
    return (probabilities - F.one_hot(labels, probabilities.shape[-1])).norm(dim=-1)


def gradient_embedding(probabilities: Tensor, features: Tensor) -> Tensor:
    """The gradient of the last layer were the prediction true, of length 1: (onehot(argmax p) - p) x features, [n, C * width].

    Of probabilities [n, C] and the last layer's inputs [n, width] (BADGE, Ash et al., 2020).
    """
    gap = F.one_hot(probabilities.argmax(-1), probabilities.shape[-1]) - probabilities
    return F.normalize((gap[:, :, None] * features[:, None, :]).flatten(1), dim=-1)


def farthest_first(points: Tensor, count: int, covered: Tensor | None = None, distance: Distance = "euclidean",
                   first: int = 0) -> Tensor:  # fmt: skip
    """Places of `count` points [n, width], each the farthest from all that are covered or chosen before it; [count] int64.

    `covered` [m, width]: what is covered already; without any, the place `first` is chosen first. Of equals the lowest place
    (greedy k-centre, Sener and Savarese, 2018; in the space of probabilities PCoreSet, 2025). "cosine" is 1 - cosine. Raises
    ValueError for more than there are.
    """
    if not 0 <= count <= len(points):
        raise ValueError(f"count={count}: there are {len(points)} points")

    def far(centres: Tensor) -> Tensor:
        if distance == "euclidean":
            return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        return (1 - F.normalize(points, dim=-1) @ F.normalize(centres, dim=-1).T).amin(1)

    chosen: list[int] = []
    if covered is None or not len(covered):
        if not count:
            return torch.zeros(0, dtype=torch.int64)
        chosen.append(first)
        covered = points[first][None]
    nearest = far(covered)
    nearest[chosen] = -torch.inf
    while len(chosen) < count:
        place = int(nearest.argmax())
        chosen.append(place)
        nearest = torch.minimum(nearest, far(points[place][None]))
        nearest[chosen] = -torch.inf
    return torch.tensor(chosen, dtype=torch.int64)


def joint_confidence(student: Tensor, teacher: Tensor, share: float) -> Tensor:
    """The largest of (1 - share) p_teacher + share p_student of each row of logits [n, classes]; [n], no gradient."""
    with torch.no_grad():
        return torch.lerp(teacher.softmax(-1), student.softmax(-1), share).max(-1).values


def most_confident(probabilities: Tensor, keep: float) -> Tensor:
    """Places of the share `keep` of the rows [n, classes] of which each predicted class is surest, rising; at least one.

    A quota for each class, so that one of which a model is always sure does not crowd out the others. Of equals the lower place
    comes first.
    """
    sure, predicted = probabilities.max(-1)
    kept = [(predicted == number).nonzero()[:, 0] for number in predicted.unique().tolist()]
    chosen = [
        places[sure[places].argsort(descending=True, stable=True)[: math.ceil(keep * len(places))]] for places in kept
    ]
    return torch.cat(chosen).sort().values if chosen else torch.zeros(0, dtype=torch.long)
