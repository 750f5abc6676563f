"""From what a user has to a `Data`: read, encode the labels, make the missing splits, say what was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck._optional import need
from limbeck.data import images, named, tables
from limbeck.data.augment import make_augmentation
from limbeck.data.base import Data, Part, TensorPart, TextPart
from limbeck.data.labels import encode_labels, renumbered, target_of
from limbeck.data.objects import object_to_raws
from limbeck.data.raw import SPLITS, Raw, check_alike
from limbeck.data.splits import Size, amount, cut, hide, join
from limbeck.errors import DataError, nearest


def load_data(spec: Any, *, label: str | None = None, text: str | None = None, features: Any = None,
              target: str | None = None, labelled: Size | None = None, valid: Size = 0.1, test: Size = 0.2, seed: int = 0,
              unlabelled: Any = None, augment: Any = None, image_size: int | None = None,
              standardize: bool = True) -> Data:  # fmt: skip
    """Data from a name, a file, a folder, or a Python object.

    `spec`: "digits", "breast_cancer", "wine", "diabetes"; a CSV, TSV, JSONL, JSON or Parquet file with a label column and
    text or feature columns; a folder of such files named train, valid, test; an image folder; the name or an object of
    the `datasets` library; a torch data set or loader; a pair of arrays; a mapping from split to any of these; a Data.
    `label`, `text`, `features` name columns. `target`: "classes" or "values" (regression); without it the labels decide,
    and `about` says how. `labelled`: how many training labels are kept (a count or a fraction), the rest hidden.
    `valid`, `test`: sizes of the parts that the source lacks, cut once from training, stratified, by `seed`.
    `unlabelled`: a second source without labels that joins the training part. `augment`: "crop_flip", "shift:1", ...

    Raises DataError that names what is wrong: columns, labels, NaN, empty parts, unreadable files.
    """
    if isinstance(spec, Data):
        return _again(spec, labelled, seed, augment)
    options = {"label": label, "text": text, "features": features}
    raws = read(spec, image_size, **options)
    extra = read(unlabelled, image_size, **options, needs_label=False)["train"] if unlabelled is not None else None
    if "unlabelled" in raws:
        extra = raws.pop("unlabelled")
    if "train" not in raws:
        raise DataError(f"{_name(spec)!r} has no training part, only {sorted(raws)}.")
    for split, raw in raws.items():
        if not len(raw):
            raise DataError(f"The part {split!r} of {_name(spec)!r} is empty.")
    _check_shapes(raws, _name(spec))
    if extra is not None:
        check_alike(raws["train"], extra, _name(spec))
    warnings: list[str] = []
    kind, classes = raws["train"].kind, raws["train"].classes
    target = target_of(raws["train"], target)
    labels, classes = encode_labels({name: raw.labels for name, raw in raws.items()}, target, classes, _name(spec))
    if target == "classes" and raws["train"].classes is None:
        warnings += renumbered(classes or [])
    encoder = _Inputs(raws["train"], _name(spec), standardize, warnings)
    parts: dict[str, Part] = {}
    start = 0
    for split in sorted(raws, key=["train", "valid", "test"].index):
        parts[split] = encoder.part(raws[split], split, labels[split], start)
        start += len(raws[split])
    made = _cut_missing(parts, valid, test, seed, warnings)
    if kind == "table" and standardize:
        encoder.standardize(parts)
    if labelled is not None:
        parts["train"] = hide(parts["train"], labelled, seed, warnings)
    if extra is not None:
        other = encoder.part(extra, "unlabelled", None, start)
        if kind == "table" and standardize:
            encoder.apply_scale(other)
        parts["train"] = join(parts["train"], other)
    augmentation = make_augmentation(augment)
    if augmentation is not None and kind != "image":
        raise DataError(f"augment={augment!r} is for images; these data are of kind {kind!r}.")
    parts["train"].augmentation = augmentation  # type: ignore[assignment]
    about = {
        "source": _name(spec), "kind": kind, "target": target, "label": raws["train"].label,
        "split": {"seed": seed, "made": made, "given": sorted(set(raws) - {"unlabelled"}),
                  "sizes": {name: len(part) for name, part in parts.items()}},
        "labelled": int(parts["train"].is_labelled().sum()), "warnings": warnings, **encoder.about(),
    }  # fmt: skip
    return Data(_short(spec), kind, parts, target, classes, encoder.names, about)


def _check_shapes(raws: dict[str, Raw], name: str) -> None:
    """Raise DataError where a sample of one part is shaped otherwise than one of the training part."""

    def shape(raw: Raw) -> Any:
        held = getattr(raw.inputs, "inputs", raw.inputs)  # a part in memory holds its own
        columned = hasattr(held, "columns")
        return None if columned or not hasattr(held, "shape") else list(held.shape[1:])

    expected = shape(raws["train"])
    for split, raw in raws.items():
        if expected is not None and shape(raw) not in (None, expected):
            raise DataError(f"The samples of {split!r} of {name} have shape {shape(raw)}, those of 'train' {expected}.")


def read(spec: Any, image_size: int | None, *, label: str | None, text: str | None, features: Any,
         needs_label: bool = True) -> dict[str, Raw]:  # fmt: skip
    """The splits of a source, as read."""
    options = {"label": label, "text": text, "features": features}
    if isinstance(spec, dict):
        found = {}
        for name, value in spec.items():
            if name not in SPLITS:
                raise DataError(f"A part is called {name!r}.{nearest(name, SPLITS)}")
            split = SPLITS[name]
            found[split] = read(value, image_size, **options, needs_label=split != "unlabelled")["train"]
        return found
    if not isinstance(spec, str | Path):
        raws = object_to_raws(spec, **options, needs_label=needs_label)
        if raws is None:
            raise DataError(
                f"A {type(spec).__name__} is no data. Expected a name, a file, a folder, a torch data set, a `datasets` "
                "object, a pair of arrays, or a mapping from split to these."
            )
        return raws
    path = Path(spec)
    if str(spec) in named.names() and not path.exists():
        return named.read_named(str(spec))
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise DataError(
            f"{str(spec)!r} is a pickle, which runs code when it is read. Write the samples as Parquet (frame.to_parquet) or "
            "NumPy arrays, or load it yourself and give the object."
        )
    if path.is_file():
        if path.suffix not in tables.ENDINGS:
            raise DataError(f"{str(spec)!r}: Limbeck reads {', '.join(tables.ENDINGS)} files and image folders.")
        frame = tables.read_frame(path)
        return {"train": tables.frame_to_raw(frame, **options, name=str(spec), needs_label=needs_label)}
    if path.is_dir():
        return _folder(path, image_size, options)
    if path.suffix in tables.ENDINGS or path.is_absolute() or str(spec).startswith("."):
        raise DataError(f"{str(spec)!r}: there is no such file or folder.")
    return _hub(str(spec), options)


def _folder(path: Path, image_size: int | None, options: dict[str, Any]) -> dict[str, Raw]:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        raws = object_to_raws(need("datasets", "hub").load_from_disk(str(path)), **options)
        assert raws is not None
        return raws
    files = {
        SPLITS[file.stem.lower()]: file for file in sorted(path.iterdir())
        if file.suffix in tables.ENDINGS and file.stem.lower() in SPLITS
    }  # fmt: skip
    if files:
        return {
            split: tables.frame_to_raw(
                tables.read_frame(file), **options, name=str(file), needs_label=split != "unlabelled"
            )
            for split, file in files.items()
        }
    if images.is_image_folder(path):
        return images.read_image_folder(path, image_size)
    raise DataError(
        f"{str(path)!r} holds neither images in folders of their classes nor files named train, valid or test "
        f"({', '.join(tables.ENDINGS)})."
    )


def _hub(name: str, options: dict[str, Any]) -> dict[str, Raw]:
    hint = nearest(name, named.names())
    if "/" not in name and hint.startswith(" Did you mean"):
        raise DataError(f"There are no data called {name!r}.{hint}")
    datasets = need("datasets", "hub")
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # the library's errors are many; all mean that it could not be had
        raise DataError(
            f"There are no data called {name!r}: no such file or folder here, none of Limbeck's names "
            f"({', '.join(named.BUNDLED)}, ...), and the `datasets` library could not load it "
            f"({type(error).__name__}: {error})."
        ) from error
    raws = object_to_raws(loaded, **options)
    assert raws is not None
    return raws


class _Inputs:
    """Inputs of all parts in one way, learnt from the training part."""

    def __init__(self, train: Raw, name: str, standardize: bool, warnings: list[str]):
        self.kind, self.name, self.warnings = train.kind, name, warnings
        self.encoder = tables.TableEncoder(train.inputs, name) if hasattr(train.inputs, "columns") else None
        self.names = self.encoder.names if self.encoder else train.features
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def part(self, raw: Raw, split: str, labels: Tensor | None, start: int) -> Part:
        ids = torch.arange(start, start + len(raw))
        inputs = raw.inputs
        if raw.kind == "text":
            empty = sum(not text.strip() for text in inputs)
            if empty:
                self.warnings.append(f"{empty} texts of {split!r} are empty; they are kept.")
            return TextPart(split, inputs, labels, ids)
        if self.encoder is not None:
            inputs = self.encoder.encode(inputs)
        if isinstance(inputs, np.ndarray):
            tables.check_finite(inputs, f"{self.name}: the features of {split!r}")
            return TensorPart(split, torch.from_numpy(np.ascontiguousarray(inputs)).float(), labels, ids)
        inputs.name, inputs.labels, inputs.ids = split, labels, ids
        return inputs

    def standardize(self, parts: dict[str, Part]) -> None:
        """Every feature to mean 0 and standard deviation 1 on the training part; constant ones to 0."""
        train = parts["train"]
        if (
            not isinstance(train, TensorPart)
            or not isinstance(train.inputs, Tensor)
            or not train.inputs.is_floating_point()
        ):
            return
        self.mean, self.std = train.inputs.mean(0), train.inputs.std(0)
        self.std = torch.where(self.std > 0, self.std, torch.ones_like(self.std))
        for part in parts.values():
            self.apply_scale(part)

    def apply_scale(self, part: Part) -> None:
        if self.mean is not None and isinstance(part, TensorPart):
            part.inputs = (part.inputs - self.mean) / self.std

    def about(self) -> dict[str, Any]:
        if self.mean is None or self.std is None:
            return {}
        return {"standardized": {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}}


def _cut_missing(parts: dict[str, Part], valid: Size, test: Size, seed: int, warnings: list[str]) -> dict[str, int]:
    """Cut test and valid parts from training where the source has none; sizes are of all samples."""
    made, total = {}, sum(len(part) for part in parts.values())
    for name, size in (("test", test), ("valid", valid)):
        if name in parts or not size:
            continue
        count = amount(size, total, name)
        if count >= len(parts["train"]):
            raise DataError(
                f"{name}={size!r}: training has {len(parts['train'])} samples, too few to cut {count} from."
            )
        parts["train"], parts[name] = cut(parts["train"], count, seed, ("train", name), warnings)
        made[name] = count
    return made


def _again(data: Data, labelled: Size | None, seed: int, augment: Any) -> Data:
    """A Data as it is, with labels hidden or views added when that is asked for."""
    from dataclasses import replace

    parts, warnings = dict(data.parts), list(data.about.get("warnings", []))
    if labelled is not None:
        parts["train"] = hide(parts["train"], labelled, seed, warnings)
    if augment is not None:
        parts["train"] = parts["train"].with_labels(parts["train"].labels)
        parts["train"].augmentation = make_augmentation(augment)  # type: ignore[assignment]
    return replace(data, parts=parts, about={**data.about, "warnings": warnings})


def _name(spec: Any) -> str:
    return str(spec) if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"


def _short(spec: Any) -> str:
    return Path(spec).stem if isinstance(spec, str | Path) else type(spec).__name__.lower()


__all__: Sequence[str] = ["load_data", "read"]
