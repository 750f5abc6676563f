"""Augmentations: every view by number, the same wherever it is asked for."""

import pytest
import torch
import torch.nn.functional as F

from limbeck.data import CropFlip, Flip, GaussianNoise, Shift
from limbeck.data.augment import make_augmentation
from limbeck.data.base import TensorPart
from limbeck.errors import ArgumentError

IMAGES = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(image, view, padding=4, flip=True):
    place, mirrored = (view // 2, view % 2) if flip else (view, 0)
    dy, dx = divmod(place, 2 * padding + 1)
    crop = F.pad(image, (padding,) * 4)[:, :, dy : dy + 8, dx : dx + 8]
    return crop.flip(3) if mirrored else crop


def test_all_162_views_of_crop_and_flip():
    augmentation = CropFlip()
    assert augmentation.count == 162
    views = torch.arange(162)
    found = augmentation.apply(IMAGES.expand(162, -1, -1, -1), views)
    for view in range(162):
        assert torch.equal(found[view : view + 1], by_hand(IMAGES, view))
    assert torch.equal(augmentation.apply(IMAGES, torch.tensor([augmentation.identity])), IMAGES)


@pytest.mark.parametrize(("augmentation", "count"), [(Flip(), 2), (Shift(1), 9), (Shift(2), 25), (CropFlip(2), 50)])
def test_counts_and_identities(augmentation, count):
    assert augmentation.count == count
    assert torch.equal(augmentation.apply(IMAGES, torch.tensor([augmentation.identity])), IMAGES)
    drawn = augmentation.draw(1000, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(count))


def test_bytes_stay_bytes():
    image = (IMAGES * 255).to(torch.uint8)
    assert CropFlip().apply(image, torch.tensor([5])).dtype == torch.uint8


def test_noise_depends_on_the_view_alone():
    noise = GaussianNoise(0.5)
    a = noise.apply(IMAGES.expand(3, -1, -1, -1), torch.tensor([1, 2, 1]))
    assert torch.equal(a[0], a[2])
    assert not torch.equal(a[0], a[1])
    assert noise.count is None


def test_a_part_is_augmented_by_given_or_drawn_views():
    part = TensorPart("train", IMAGES.expand(4, -1, -1, -1), augmentation=CropFlip())
    given = part.batch([0, 1], view=torch.tensor([3, 7]))
    assert torch.equal(given.inputs[:1], by_hand(IMAGES, 3))
    drawn = part.batch([0, 1], torch.Generator().manual_seed(1))
    assert torch.equal(drawn.inputs[:1], by_hand(IMAGES, int(drawn.view[0])))
    assert part.batch([0]).view is None


@pytest.mark.parametrize(
    ("text", "kind"), [("flip", Flip), ("shift:2", Shift), ("noise:0.2", GaussianNoise), ("crop_flip", CropFlip)]
)
def test_by_name(text, kind):
    assert isinstance(make_augmentation(text), kind)


@pytest.mark.parametrize("text", ["flp", "shift:x", "noise:-1"])
def test_wrong_names(text):
    with pytest.raises(ArgumentError):
        make_augmentation(text)
