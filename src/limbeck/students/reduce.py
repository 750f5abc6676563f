"""An encoder that ends in fewer numbers: the directions in which a teacher's vectors differ most, as a linear map at its end.

directions = principal_directions(vectors, 128)     # [128, width]
end_in(student, directions)                         # the same encoder, with vectors of 128 numbers
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, ModelError
from limbeck.students.encoders import Encoder


def principal_directions(vectors: np.ndarray | Tensor, count: int) -> Tensor:
    """The `count` directions in which vectors [texts, width] differ most, orthonormal rows [count, width], float32.

    The eigenvectors of their covariance, the largest first: PCA. Raises ArgumentError where there are fewer.
    """
    rows = torch.as_tensor(vectors).double()
    if not 0 < count <= min(len(rows) - 1, rows.shape[1]):
        raise ArgumentError(
            f"{count} directions of {len(rows):,} vectors of {rows.shape[1]} numbers: expected at most "
            f"{min(len(rows) - 1, rows.shape[1])}."
        )
    rows = rows - rows.mean(0)
    return torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :count].T.float().contiguous()


@torch.no_grad()
def end_in(module: Encoder, directions: Tensor) -> None:
    """Let an encoder give the components of its vectors in some directions [count, width], `count` fewer than `width`.

    Its linear map becomes the product of both; nothing is centred, so that products and cosines are those of the projected
    vectors. Raises ModelError for directions of another width, ArgumentError where the map could not be saved.
    """
    count, width = directions.shape
    old = module.projection
    inner = width if old is None else old.in_features
    if width != module.width:
        raise ModelError(f"Directions of {width} numbers do not fit vectors of {module.width}.")
    if count == inner:
        raise ArgumentError(
            f"dimensions={count}: inside, the student is as wide as that, so that no linear map would follow. Choose another."
        )
    made = nn.Linear(inner, count).to(next(module.parameters()).device)
    directions = directions.to(made.weight.device)
    made.weight.copy_(directions if old is None else directions @ old.weight.float())
    made.bias.zero_() if old is None else made.bias.copy_(directions @ old.bias.float())
    module.projection, module.width = made, count
    if hasattr(module, "limbeck_spec"):
        module.limbeck_spec["arguments"]["outputs"] = count  # type: ignore[index]
