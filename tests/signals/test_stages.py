"""Which parts of a module are its stages."""

import pytest
from torch import nn

from limbeck.signals.stages import stage_at, stages
from limbeck.students.build import cnn, mlp, resnet


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (cnn(1, 10, 16, 2, 8), ["block1", "block2"]),  # the second holds more than nine tenths of the parameters
        (cnn(1, 10, 16, 3, 8), ["block1", "block2", "block3"]),
        (mlp(64, 10, (2000, 16)), ["hidden1", "hidden2"]),
        (resnet(1, 10, 8, 4), ["stem", "layer1", "layer2", "layer3"]),
        (Wrapped(cnn(1, 10, 16, 3, 8)), ["inner.block1", "inner.block2", "inner.block3"]),
        (Wrapped(nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])), ["inner.0", "inner.1"]),
    ],
)
def test_stages_by_structure(module, names):
    assert stages(module) == names
    assert stage_at(module, 0) == names[0]
    assert stage_at(module, 1) == names[-1]
