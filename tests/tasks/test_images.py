"""A pretrained image model sees what it was trained on: size, channels, mean and standard deviation."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from limbeck.data.base import Batch
from limbeck.tasks.classification import Classification
from limbeck.tasks.images import prepare_images

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def model(**processor):
    module = nn.Flatten()
    module.processor = SimpleNamespace(**processor)
    return module


def test_a_plain_module_sees_the_images_as_they_are():
    assert prepare_images(nn.Flatten(), IMAGES) is IMAGES
    assert prepare_images(None, IMAGES) is IMAGES


def test_mean_and_standard_deviation_by_channel():
    seen = prepare_images(model(image_mean=MEAN, image_std=STD), IMAGES)
    for channel in range(3):
        expected = (IMAGES[:, channel] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(seen[:, channel], expected)


@pytest.mark.parametrize("size", [16, {"height": 16, "width": 16}, {"shortest_edge": 16}])
def test_resized_to_the_processor_s_size(size):
    assert prepare_images(model(size=size), IMAGES).shape == (2, 3, 16, 16)
    assert prepare_images(model(size=size, do_resize=False), IMAGES).shape == (2, 3, 8, 8)


def test_a_constant_image_stays_constant_under_resizing():
    seen = prepare_images(model(size=20), torch.full((1, 3, 8, 8), 0.7))
    torch.testing.assert_close(seen, torch.full((1, 3, 20, 20), 0.7))


def test_grey_images_are_repeated_for_three_channels():
    grey = IMAGES[:, :1]
    seen = prepare_images(model(image_mean=[0.0] * 3, image_std=[1.0] * 3), grey)
    torch.testing.assert_close(seen, grey.expand(-1, 3, -1, -1))


def test_normalisation_can_be_off():
    assert prepare_images(model(image_mean=MEAN, image_std=STD, do_normalize=False), IMAGES) is IMAGES


def test_pretrained_timm_models_bring_their_own_numbers():
    module = nn.Flatten()
    module.pretrained_cfg = {"mean": tuple(MEAN), "std": tuple(STD)}
    assert prepare_images(module, IMAGES) is IMAGES  # untrained: nothing to follow
    module.limbeck_pretrained = True
    torch.testing.assert_close(prepare_images(module, IMAGES)[:, 0], (IMAGES[:, 0] - 0.5) / 0.2)


def test_each_role_gets_its_own_view():
    batch = Batch(IMAGES, torch.arange(2))
    task = Classification()
    assert task.view(batch, nn.Flatten(), "student") is IMAGES
    assert not torch.equal(task.view(batch, model(image_mean=MEAN, image_std=STD), "teacher"), IMAGES)
