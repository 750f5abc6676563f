"""Toys of the store's tests; run as a program it labels slowly, to be killed: python store_toys.py FOLDER."""

import sys
import time

import torch
from torch import nn

from limbeck.data.base import Data, TensorPart
from limbeck.signals.store import store_signals
from limbeck.tasks.classification import Classification

TASK = Classification()


class Rolls:
    """A finite augmentation: view v is the sample rolled by v + 1, so that no view is the sample itself."""

    def __init__(self, count=3, shift=1):
        self.count, self.shift = count, shift

    def draw(self, number, generator):
        return torch.randint(self.count, (number,), generator=generator)

    def apply(self, inputs, view):
        return torch.stack([row.roll(int(v) + self.shift) for row, v in zip(inputs, view, strict=True)])


class Slow(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module, self.seconds = module, 0.0

    def forward(self, inputs):
        time.sleep(self.seconds)
        return self.module(inputs)


def make_teacher(seed=0, classes=5):
    torch.manual_seed(seed)
    return Slow(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes)))


def make_data(count=100, augmentation=None, ids=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count + 20, 6, generator=generator)
    labels = torch.randint(5, (count + 20,), generator=generator)
    ids = torch.arange(count + 20) if ids is None else ids
    return Data("toy", "table", {
        "train": TensorPart("train", inputs[:count], labels[:count], ids[:count], augmentation),
        "test": TensorPart("test", inputs[count:], labels[count:], ids[count:]),
    }, classes=list("abcde"))  # fmt: skip


def label(folder, teacher=None, data=None, **options):
    options = {"taps": ["logits", "module.1"], "shard_rows": 16, "batch_size": 8, **options}
    return store_signals(teacher or make_teacher(), data or make_data(), folder, task=TASK, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    slow = make_teacher()
    slow.seconds = 0.05
    label(sys.argv[1], slow)
