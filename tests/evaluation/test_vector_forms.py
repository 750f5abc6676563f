"""Vectors made smaller: what is kept and what a rotation leaves alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import ArgumentError
from limbeck.evaluation.embeddings import pair_cosines
from limbeck.evaluation.vector_forms import forms, in_bytes, rotation, signs, truncated


def rows(count=50, width=12, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@given(st.integers(0, 1000))
def test_a_rotation_leaves_cosines_alone_and_puts_what_counts_first(seed):
    a, b = rows(seed=seed) * np.linspace(3, 0.1, 12, dtype=np.float32), rows(seed=seed + 1)
    turn = rotation(a)
    np.testing.assert_allclose(turn.T @ turn, np.eye(12), atol=1e-5)
    np.testing.assert_allclose(pair_cosines(a @ turn, b @ turn), pair_cosines(a, b), atol=1e-5)
    energy = np.square(a @ turn).sum(0)
    assert (np.diff(energy) <= 1e-3 * energy[0]).all()
    # no other four directions hold more: the singular values of the rows
    best = np.square(np.linalg.svd(a, compute_uv=False)[:4]).sum()
    assert np.square(truncated(a, turn, 4)).sum() == pytest.approx(best, rel=1e-4)


def test_bytes_are_near_and_signs_are_the_share_of_bits():
    a, b = rows(), rows(seed=1)
    assert np.abs(in_bytes(a)).max() == 127
    np.testing.assert_allclose(in_bytes(a) * np.abs(a).max() / 127, a, atol=np.abs(a).max() / 254 + 1e-6)
    differ = (np.signbit(a) != np.signbit(b)).mean(1)
    np.testing.assert_allclose(pair_cosines(signs(a), signs(b)), 1 - 2 * differ, atol=1e-6)
    assert (in_bytes(np.zeros((2, 3), dtype=np.float32)) == 0).all()


def test_forms_by_name():
    found = forms(rotation(rows()), counts=(64, 6))
    assert set(found) == {"as they are", "bytes", "signs", "first 6"}
    assert found["first 6"](rows()).shape == (50, 6)
    with pytest.raises(ArgumentError, match="have 12 numbers"):
        truncated(rows(), rotation(rows()), 13)
