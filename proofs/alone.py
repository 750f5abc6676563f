"""The baseline itself: is the student alone trained as well as another library trains the same network?"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from _common import score, trained, valid_accuracy

from limbeck.data import load_data
from limbeck.data.base import Data
from limbeck.proving import paired

CLAIM = (
    "On digits with 200 labels a network of 32 units trained by `alone`, the baseline of every proof, is not less accurate "
    "than scikit-learn's of the same size after as many updates (by less than a point, mean of 10 seeds)."
)
SEEDS = range(10)
NOTE = (
    "Both: 600 updates of batch 64 on the same rows, rates of 1e-3, 3e-3 and 1e-2, the best on validation; `alone` keeps the "
    "best of its evaluations, scikit-learn's MLPClassifier (Adam, its own defaults) the best of as many."
)
STEPS, BATCH, LOOKS, RATES = 600, 64, 12, (1e-3, 3e-3, 1e-2)


def rows(data: Data, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The labelled images of a part as rows, and their labels."""
    part: Any = data.parts[name]
    known = part.is_labelled()
    return part.inputs[known].flatten(1).numpy(), part.labels[known].numpy()


def peer(data: Data, seed: int, rate: float) -> tuple[float, float]:
    """scikit-learn's network: accuracy in percent on validation and test."""
    from sklearn.neural_network import MLPClassifier

    images, labels = rows(data, "train")
    made = MLPClassifier((32,), batch_size=BATCH, learning_rate_init=rate, random_state=seed, max_iter=1, warm_start=True,
                         tol=0.0, n_iter_no_change=10**6)  # fmt: skip
    passes = STEPS // int(np.ceil(len(labels) / BATCH))  # of all rows: as many updates
    best = (0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says after every pass that it has not converged
        for number in range(1, passes + 1):
            made.fit(images, labels)
            if number % max(passes // LOOKS, 1) == 0:
                valid, test = (100 * made.score(*rows(data, name)) for name in ("valid", "test"))
                best = max(best, (valid, test), key=lambda found: found[0])
    return best


def measure(seed: int) -> dict[str, float]:
    data = load_data("digits", labelled=200, valid=0.15, test=0.25, seed=seed)
    few: dict[str, Any] = {
        "data": data,
        "seed": seed,
        "steps": STEPS,
        "batch_size": BATCH,
        "evaluate_every": STEPS // LOOKS,
    }
    runs = [trained("alone", student="mlp:32", learning_rate=rate, **few) for rate in RATES]
    peers = [peer(data, seed, rate) for rate in RATES]
    return {"alone": score(max(runs, key=valid_accuracy)), "scikit_learn": max(peers, key=lambda found: found[0])[1]}


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    gap, error = paired(rows, "alone", "scikit_learn")
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return gap > -1, (
        f"alone {mean['alone']:.1f} %, scikit-learn's network {mean['scikit_learn']:.1f} %: {gap:+.1f} ± {error:.1f} points."
    )
