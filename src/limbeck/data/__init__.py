"""Data: from what a user has to parts that hand out batches."""

from __future__ import annotations

from limbeck.data.augment import CropFlip, Flip, GaussianNoise, Shift
from limbeck.data.base import Batch, Data, Part, PixelPart, SubsetPart, TensorPart, TextPart
from limbeck.data.load import load_data
from limbeck.data.shared import find_golden, find_shared
