"""Pseudo-subclasses against a derivation by eigenvectors, and what must hold of them."""

import numpy as np
import pytest
import torch

from limbeck import functional as f

rng = np.random.default_rng(5)
H = rng.normal(size=(40, 6)) * np.array([5, 3, 1, 0.5, 0.2, 0.1])
Y = np.arange(40) % 3
Z = rng.normal(size=(40, 3))
h, y, z = torch.tensor(H), torch.tensor(Y), torch.tensor(Z)


def softmax(values):
    e = np.exp(values - values.max())
    return e / e.sum()


def test_directions_are_the_principal_components_of_a_class_in_both_senses():
    centres, directions = f.subclass_directions(h, y, 4, 3)
    for c in range(3):
        mine = H[c == Y]
        np.testing.assert_allclose(centres[c], mine.mean(0))
        values, vectors = np.linalg.eigh(np.cov(mine.T, bias=True))
        scale = np.sqrt(values[-1])
        for s in range(4):
            wanted = vectors[:, -1 - s // 2] / scale
            ours = directions[c, s].numpy()
            assert abs(ours @ wanted) == pytest.approx(wanted @ wanted)
        torch.testing.assert_close(directions[c, 0], -directions[c, 1])
        torch.testing.assert_close(directions[c, 2], -directions[c, 3])
        assert np.std((mine - mine.mean(0)) @ directions[c, 0].numpy()) == pytest.approx(1)


def test_targets():
    centres, directions = f.subclass_directions(h, y, 4, 3)
    found = f.subclass_log_probabilities(z, h, centres, directions, temperature=0.7).exp()
    for i in range(40):
        expected = np.concatenate([
            softmax(Z[i])[c] * softmax(np.array([(H[i] - centres[c].numpy()) @ v / 0.7 for v in directions[c].numpy()]))
            for c in range(3)
        ])  # fmt: skip
        np.testing.assert_allclose(found[i], expected)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_the_parts_of_a_class_add_up_to_it(count):
    centres, directions = f.subclass_directions(h, y, count, 3)
    found = f.subclass_log_probabilities(z, h, centres, directions)
    assert found.shape == (40, 3 * count)
    torch.testing.assert_close(found.exp().unflatten(1, (3, count)).sum(2), z.softmax(1))
    torch.testing.assert_close(f.summed_subclasses(found, count), z.log_softmax(1))
    logits = torch.randn(5, 3 * count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = logits.softmax(1).unflatten(1, (3, count)).sum(2)
    torch.testing.assert_close(f.summed_subclasses(logits, count).softmax(1), by_hand)


def test_a_class_with_too_few_samples_shares_alike():
    centres, directions = f.subclass_directions(h[:3], torch.tensor([0, 0, 2]), 4, 3)
    assert directions[0, :2].abs().sum() > 0  # two samples span one direction
    assert directions[0, 2:].abs().sum() == directions[1].abs().sum() == directions[2].abs().sum() == 0
    found = f.subclass_log_probabilities(z[:3], h[:3], centres, directions).exp().unflatten(1, (3, 4))
    torch.testing.assert_close(found[:, 1], (z[:3].softmax(1)[:, 1:2] / 4).expand(-1, 4))
    with pytest.raises(ValueError, match="2 or more"):
        f.subclass_directions(h, y, 1, 3)
    with pytest.raises(ValueError, match="temperature=0"):
        f.subclass_log_probabilities(z[:3], h[:3], centres, directions, temperature=0)


def test_a_rotation_of_the_embeddings_changes_nothing_but_the_order():
    turned = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    one = f.subclass_log_probabilities(z, h, *f.subclass_directions(h, y, 2, 3))
    other = f.subclass_log_probabilities(z, h @ turned, *f.subclass_directions(h @ turned, y, 2, 3))
    one, other = (each.unflatten(1, (3, 2)).sort(2).values for each in (one, other))
    torch.testing.assert_close(one, other)
