"""CIFAR-10 for proofs: parts of the data, and the pretrained residual nets of the shared folder as teachers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.data import load_data
from limbeck.data.base import Data
from limbeck.data.shared import find_shared
from limbeck.data.splits import take

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut drops every second pixel and adds channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(kept, (0, 0, 0, 0, self.more, self.more)))


class PretrainedResNet(nn.Module):
    """A residual net of depth 6n + 2 as it was trained on clean CIFAR-10; images from 0 to 1."""

    def __init__(self, depth: int):
        super().__init__()
        count = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                *(Block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count))
            )
            for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def pretrained(depth: int) -> PretrainedResNet:
    """The net of a depth (20, 32, 44 or 56) with its weights."""
    from safetensors.torch import load_file

    module = PretrainedResNet(depth)
    module.load_state_dict(load_file(str(find_shared("cifar10_resnets") / f"resnet{depth}.safetensors")))
    return module


def part_of_cifar10(train: int, test: int, first: int = 0, **options: Any) -> Data:
    """So many images of both parts (rows are shuffled, so that a run of them is a fair sample), from `first` on."""
    data = load_data("cifar10", valid=0, **options)
    data.parts = {
        "train": take(data.train, torch.arange(first, first + train), "train"),
        "test": take(data.parts["test"], torch.arange(test), "test"),
    }
    return data
