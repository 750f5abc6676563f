"""Image folders: files are decoded when they are needed, with a cache, and resized to one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck._optional import need
from limbeck.data.base import Part
from limbeck.data.raw import SPLITS, Raw
from limbeck.errors import ArgumentError, DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
CACHE_BYTES = 256 * 2**20


class ImagePart(Part):
    """Image files, handed out as float [batch, 3, height, width] from 0 to 1."""

    def __init__(self, name: str, files: list[Path], labels: Tensor | None, ids: Tensor, size: tuple[int, int]):
        self.name, self.files, self.labels, self.ids, self.size = name, files, labels, ids, size
        self._cache: dict[int, Tensor] = {}
        self._room = CACHE_BYTES // (3 * size[0] * size[1])

    def gather(self, positions: Tensor) -> Tensor:
        return torch.stack([self._image(position) for position in positions.tolist()]).float().div_(255)

    def _image(self, position: int) -> Tensor:
        if position not in self._cache:
            image = decode(self.files[position], self.size)
            if len(self._cache) >= self._room:
                return image
            self._cache[position] = image
        return self._cache[position]


def decode(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """One image [3, height, width] uint8. Raises DataError that names an unreadable file."""
    image_module = need("PIL.Image", "images")
    try:
        with image_module.open(path) as opened:
            image = opened.convert("RGB")
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), image_module.Resampling.BILINEAR)
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    except (OSError, ValueError) as error:
        raise DataError(f"The image {str(path)!r} could not be read: {error}") from error


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image file, without decoding it."""
    try:
        with need("PIL.Image", "images").open(path) as image:
            return image.size[::-1]
    except OSError as error:
        raise DataError(f"The image {str(path)!r} could not be read: {error}") from error


def is_image_folder(path: Path) -> bool:
    """Whether there are images in the subfolders, with or without split folders above them."""
    return any(file.suffix.lower() in ENDINGS for pattern in ("*/*", "*/*/*") for file in path.glob(pattern))


def read_image_folder(path: Path, image_size: int | None) -> dict[str, Raw]:
    """class/file.png, or train|val|test/class/file.png, by split."""
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ArgumentError(f"image_size={image_size!r}: expected a whole number of pixels, such as image_size=64.")
    children = sorted(child for child in path.iterdir() if child.is_dir())
    splits = {SPLITS[child.name.lower()]: child for child in children if child.name.lower() in SPLITS}
    folders = splits if splits and len(splits) == len(children) else {"train": path}
    found: dict[str, tuple[list[Path], np.ndarray]] = {}
    sizes: dict[tuple[int, int], Path] = {}
    for split, folder in folders.items():
        files: list[Path] = []
        names: list[str] = []
        for kind in sorted(child for child in folder.iterdir() if child.is_dir()):
            inside = sorted(file for file in kind.iterdir() if file.suffix.lower() in ENDINGS)
            files += inside
            names += [kind.name] * len(inside)
        if not files:
            raise DataError(f"The image folder {str(folder)!r} has no images in subfolders, one for each class.")
        found[split] = (files, np.array(names))
        for file in files if image_size is None else []:
            sizes.setdefault(size_of(file), file)
    if image_size is None and len(sizes) > 1:
        several = ", ".join(f"{h}x{w} ({file.name})" for (h, w), file in list(sizes.items())[:3])
        raise DataError(
            f"The images of {str(path)!r} have different sizes: {several}. Say image_size=, such as image_size=64."
        )
    size = (image_size, image_size) if image_size else next(iter(sizes))
    return {
        split: Raw("image", ImagePart(split, files, None, torch.arange(len(files)), size), names)
        for split, (files, names) in found.items()
    }
