"""Data sets by name: bundled with scikit-learn, or in the shared data folder (LIMBECK_DATA)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck._optional import need
from limbeck.data.base import PixelPart, TensorPart
from limbeck.data.raw import SPLITS, Raw
from limbeck.data.shared import find_shared
from limbeck.data.tables import frame_to_raw, read_frame

BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")
SHARED_TEXT = ("ag_news_small", "banking77", "clinc150", "cr", "mr", "sst2", "sst5", "subj", "trec")
SHARED_IMAGES = ("cifar10", "fashion_mnist")
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]


def names() -> list[str]:
    return [*BUNDLED, *SHARED_TEXT, *SHARED_IMAGES]


def read_named(name: str) -> dict[str, Raw]:
    """The splits of a data set by name."""
    if name in BUNDLED:
        return {"train": _bundled(name)}
    folder = find_shared(name)
    if name == "cifar10":
        return {split: _cifar10(folder, split) for split in ("train", "test")}
    if name == "fashion_mnist":
        return {split: _fashion(folder, split) for split in ("train", "test")}
    return {
        SPLITS[file.stem]: frame_to_raw(read_frame(file), label="label", text="text", features=None, name=name)
        for file in sorted(folder.glob("*.parquet")) if file.stem in SPLITS
    }  # fmt: skip


def _bundled(name: str) -> Raw:
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")()
    if name == "digits":
        images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
        return Raw("image", TensorPart("train", images), found.target, classes=[str(n) for n in found.target_names])
    classes = None if name == "diabetes" else [str(n) for n in found.target_names]
    return Raw(
        "table", found.data.astype(np.float32), found.target, features=list(found.feature_names), classes=classes
    )


def _fashion(folder: Path, split: str) -> Raw:
    found = np.load(folder / f"{split}.npz")
    return Raw("image", PixelPart(split, torch.from_numpy(found["x"]).unsqueeze(1)), found["y"], classes=FASHION)


def cache_folder() -> Path:
    """Where decoded images are kept: LIMBECK_CACHE, else ~/.cache/limbeck."""
    return Path(os.environ.get("LIMBECK_CACHE") or Path.home() / ".cache" / "limbeck")


def _cifar10(folder: Path, split: str) -> Raw:
    """JPEG files decoded once (10 s for all) and kept as one array, written aside and renamed."""
    kept = cache_folder() / f"cifar10-{split}.npz"
    if not kept.exists():
        image_module = need("PIL.Image", "images")
        frame = read_frame(folder / f"{split}.parquet")
        images = np.stack([np.array(image_module.open(io.BytesIO(value)).convert("RGB")) for value in frame.image])
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_name(f"{kept.stem}.{os.getpid()}.tmp.npz")
        np.savez(aside, x=images.transpose(0, 3, 1, 2), y=frame.label.to_numpy())
        aside.replace(kept)
    found = np.load(kept)
    return Raw("image", PixelPart(split, torch.from_numpy(found["x"])), found["y"], classes=CIFAR10)
