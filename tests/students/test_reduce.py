"""Encoders that end in fewer numbers."""

import numpy as np
import pytest
import torch

from limbeck.errors import ArgumentError, ModelError
from limbeck.recipes.toy_embedding import ToyTokens
from limbeck.students.encoders import static_encoder
from limbeck.students.reduce import end_in, principal_directions
from limbeck.students.save import load_module, save_model

ROWS = np.random.default_rng(0).normal(size=(50, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 7


def test_directions_are_those_of_the_largest_spread():
    found = principal_directions(ROWS, 3).double().numpy()
    centred = ROWS - ROWS.mean(0)
    values, right = np.linalg.svd(centred, full_matrices=False)[1:]
    np.testing.assert_allclose(np.abs((found * right[:3]).sum(1)), 1, atol=1e-6)  # the same up to sign
    np.testing.assert_allclose(np.linalg.norm(centred @ found.T, axis=0), values[:3], rtol=1e-5)
    with pytest.raises(ArgumentError, match="7 directions of 50 vectors of 6 numbers: expected at most 6"):
        principal_directions(ROWS, 7)


@pytest.mark.parametrize("table", [6, 4])
def test_the_end_is_a_part_of_the_model(tmp_path, table):
    ids = torch.tensor([[2, 3, 4], [5, 6, 7]])
    module = static_encoder(ToyTokens.size, 6, table, normalize=False)
    before, directions = module(ids).detach(), principal_directions(ROWS, 3)
    end_in(module, directions)
    torch.testing.assert_close(module(ids), before @ directions.T)
    assert module.width == 3
    save_model(module, tmp_path / "narrow")
    torch.testing.assert_close(load_module(tmp_path / "narrow")(ids), module(ids))
    with pytest.raises(ModelError, match="Directions of 6 numbers do not fit vectors of 3"):
        end_in(module, directions)


def test_an_end_that_could_not_be_saved_is_refused():
    module = static_encoder(ToyTokens.size, 6, 4)
    with pytest.raises(ArgumentError, match="dimensions=4: inside, the student is as wide as that"):
        end_in(module, principal_directions(ROWS, 4))
