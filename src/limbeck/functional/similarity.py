"""How near a source's task is to ours, before anything is trained: scores of its features or probabilities on our labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of values [n] and [n]; NaN where one is constant."""
    from scipy.stats import spearmanr

    if bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return float("nan")
    return float(spearmanr(one.cpu().numpy(), other.cpu().numpy()).statistic)


def principal(features: Tensor, dimensions: int) -> Tensor:
    """The first principal components of features [n, width], at most n - 1 and the width: float64 [n, dimensions].

    With scikit-learn's signs, on which PARC depends.
    """
    from sklearn.decomposition import PCA

    most = min(dimensions, len(features) - 1, features.shape[1])
    return torch.from_numpy(PCA(most, svd_solver="full").fit_transform(features.double().cpu().numpy()))


def parc(features: Tensor, labels: Tensor, *, dimensions: int | None = 32, samples: Tensor | None = None) -> float:
    """PARC: does a source tell apart what our labels tell apart? From -100 to 100 (Bolya et al., 2021).

    100 times Spearman's correlation, over pairs of samples, of 1 - Pearson's correlation of their features [n, width] with the
    same of their one-hot labels [n] (of which only equal or not counts). Features have mean 0 and deviation 1 over the samples
    and before that, unless `dimensions` is None, are reduced to so many principal components. `samples` [n] names the sample
    of each row, where a bootstrap draws some twice: pairs of a sample with itself are left out. NaN with one class.
    """
    features = features.double() if dimensions is None else principal(features, dimensions)
    spread = features.std(0, correction=0)
    features = (features - features.mean(0)) / spread.where(spread > 1e-12, 1)
    rows = features - features.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    one, other = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    if samples is not None:
        apart = samples[one] != samples[other]
        one, other = one[apart], other[apart]
    return 100 * rank_correlation(1 - (rows @ rows.T)[one, other], (labels[one] != labels[other]).double())


def leep(probabilities: Tensor, labels: Tensor) -> float:
    """LEEP: the mean log-likelihood of our labels given a source's probabilities, at most 0 (Nguyen et al., 2020).

    mean_i log sum_z P(y_i | z) p_iz, p [n, source classes], P(y | z) = sum of p_iz over the samples of label y / sum_i p_iz.
    """
    p = probabilities.double()
    joint = torch.zeros(int(labels.max()) + 1, p.shape[1], dtype=p.dtype, device=p.device).index_add(0, labels, p)
    given = joint / joint.sum(0).clamp(min=1e-300)
    return float((given[labels] * p).sum(1).log().mean())


def bootstrap_interval(score: Callable[[Tensor], float], count: int, *, draws: int = 100, seed: int = 0,
                       level: float = 0.95) -> tuple[float, float]:  # fmt: skip
    """The interval of a score over resamples: quantiles of `score(places)`, places [count] drawn with replacement.

    A draw for which the score is NaN, such as one of a single class, is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [score(torch.randint(count, (count,), generator=generator)) for _ in range(draws)]
    values = torch.tensor([value for value in found if value == value], dtype=torch.float64)
    if not len(values):
        return float("nan"), float("nan")
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.quantile(edges).tolist()
    return low, high
