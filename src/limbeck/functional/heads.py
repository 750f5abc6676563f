"""Two heads on one backbone: their mixture, and its two numbers chosen on validation data (DHO, 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.functional.response import _log_softmax

SHARES = tuple(round(0.05 * number, 2) for number in range(21))
TEMPERATURES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


def mixed_heads(hard: Tensor, soft: Tensor, share: float | Tensor, temperature: float | Tensor) -> Tensor:
    """log of share softmax(hard) + (1 - share) softmax(soft / temperature), of logits [..., classes]; [..., classes].

    Log-probabilities, and so logits of the mixture. `share` 0 to 1, `temperature` above 0 (Dual-Head Optimization, 2025).
    """
    hard, soft = hard.log_softmax(-1), (soft / temperature).log_softmax(-1)
    a = torch.as_tensor(share, dtype=hard.dtype, device=hard.device)
    return torch.logaddexp(a.log() + hard, torch.log1p(-a) + soft)


def choose_mixture(hard: Tensor, soft: Tensor, labels: Tensor, *, shares: Sequence[float] = SHARES,
                   temperatures: Sequence[float] = TEMPERATURES) -> tuple[float, float]:  # fmt: skip
    """The share and temperature of `mixed_heads` with the most right answers; of equals the first, temperatures outside.

    Logits [samples, classes], labels [samples] (-100: left out). On validation data: on test data it would flatter. Raises
    ValueError where no sample has a label.
    """
    known = labels != -100
    if not bool(known.any()):
        raise ValueError("no sample has a label to choose by")
    hard, soft, labels = hard[known].double(), soft[known].double(), labels[known]
    first, best, found = hard.softmax(-1), -1, (shares[0], temperatures[0])
    for temperature in temperatures:
        second = _log_softmax(soft, temperature).exp()
        for share in shares:
            right = int(((share * first + (1 - share) * second).argmax(-1) == labels).sum())
            if right > best:
                best, found = right, (share, temperature)
    return found
