"""The networks behind the builders: residual nets for small images, and a bag of hashed words for texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.students.tokens import HashingTokenizer


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, without bias (a normalisation follows)."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def initialise(module: nn.Module) -> None:
    """Kaiming normal, fan-out, for convolutions; one and zero for normalisations (He et al., 2015)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 projection where the shape changes (He et al., 2016).

    The tap `relu2#input` is the sum before the last ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, three stages, pooled vector, classifier. Images [batch, channels, height, width] to [batch, outputs]."""

    def __init__(self, channels: int, outputs: int, blocks: int, stem: int, widths: Sequence[int]):
        super().__init__()
        self.stem = nn.Sequential(conv3x3(channels, stem), nn.BatchNorm2d(stem), nn.ReLU())
        self.layer1 = _stage(Block, stem, widths[0], blocks, stride=1)
        self.layer2 = _stage(Block, widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(Block, widths[1], widths[2], blocks, stride=2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(widths[2], outputs)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer3(self.layer2(self.layer1(self.stem(x))))))


class WideBlock(nn.Module):
    """A pre-activation block (Zagoruyko and Komodakis, 2016): normalise, ReLU, convolve, twice; 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(inputs), nn.ReLU(), conv3x3(inputs, outputs, stride)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(outputs), nn.ReLU(), conv3x3(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        # where the shape changes the published code projects the activated input, elsewhere it adds the raw one
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """Stem, three stages, a last normalisation, pooled vector, classifier."""

    def __init__(self, channels: int, outputs: int, blocks: int, width: int):
        super().__init__()
        widths = [16 * width, 32 * width, 64 * width]
        self.stem = conv3x3(channels, 16)
        self.layer1 = _stage(WideBlock, 16, widths[0], blocks, stride=1)
        self.layer2 = _stage(WideBlock, widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(WideBlock, widths[1], widths[2], blocks, stride=2)
        self.norm = nn.Sequential(nn.BatchNorm2d(widths[2]), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(widths[2], outputs)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.norm(self.layer3(self.layer2(self.layer1(self.stem(x)))))))


def _stage(block: type[nn.Module], inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
    blocks = [block(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count)]
    return nn.Sequential(*blocks)


class TextBag(nn.Module):
    """The mean of the vectors of a text's hashed words and word pairs, then a linear layer or a small MLP.

    Takes `input_ids` [batch, tokens], where 0 is padding; gives [batch, outputs]. After fastText (Joulin et al., 2017).
    """

    def __init__(self, outputs: int, buckets: int, width: int, hidden: int, dropout: float):
        super().__init__()
        self.tokenizer = HashingTokenizer(buckets)
        self.embedding = nn.Embedding(buckets, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.fc = nn.Linear(hidden or width, outputs)
        with torch.no_grad():
            nn.init.normal_(self.embedding.weight, std=0.1)
            self.embedding.weight[0].zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = input_ids != 0 if attention_mask is None else attention_mask != 0
        total = (self.embedding(input_ids) * mask[..., None]).sum(1)
        mean = total / mask.sum(1, keepdim=True).clamp(min=1)
        return self.fc(self.hidden(self.dropout(mean)))
