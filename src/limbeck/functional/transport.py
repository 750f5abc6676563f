"""How much of each of one model's layers goes with each of another's, at the least cost (earth mover's distance)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def transport_plan(costs: Tensor) -> Tensor:
    """The plan [rows, columns] of least cost that moves 1 / rows out of each row and 1 / columns into each column.

    `costs` [rows, columns], without gradient: the plan is found by linear programming (SciPy's HiGHS). All numbers of a plan
    are 0 or more and add up to 1, so that (plan * costs).sum() is the earth mover's distance. Of costs that are not finite
    all pairs count alike, so that the loss says what happened.
    """
    from scipy.optimize import linprog

    rows, columns = costs.shape
    if not bool(costs.isfinite().all()):
        return torch.full_like(costs, 1 / (rows * columns))
    out = np.kron(np.eye(rows), np.ones(columns))
    into = np.kron(np.ones(rows), np.eye(columns))
    wanted = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    found = linprog(costs.detach().double().cpu().numpy().ravel(), np.zeros((0, rows * columns)), np.zeros(0),
                    np.concatenate([out, into]), wanted)  # fmt: skip
    return torch.from_numpy(found.x).reshape(rows, columns).to(costs)
