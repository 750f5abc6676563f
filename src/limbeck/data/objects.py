"""Python objects as data: arrays, torch data sets and loaders, `datasets` objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.base import Inputs, Part, TensorPart
from limbeck.data.raw import SPLITS, Raw
from limbeck.data.tables import check_finite, frame_to_raw
from limbeck.errors import DataError, nearest


class DatasetPart(Part):
    """A torch data set of (input, label) pairs or dicts; whole batches at once where it has `__getitems__`."""

    def __init__(self, name: str, dataset: Any, label: str | None = None):
        self.name, self.dataset, self.label = name, dataset, label
        self.ids = torch.arange(len(dataset))

    def items(self, positions: Sequence[int]) -> list[Any]:
        many = getattr(self.dataset, "__getitems__", None)
        return many(list(positions)) if many is not None else [self.dataset[position] for position in positions]

    def gather(self, positions: Tensor) -> Inputs:
        return torch.utils.data.default_collate([self.input_of(item) for item in self.items(positions.tolist())])

    def input_of(self, item: Any) -> Any:
        if isinstance(item, dict):
            inputs = {key: value for key, value in item.items() if key != self.label}
            return next(iter(inputs.values())) if len(inputs) == 1 else inputs
        return item[0] if isinstance(item, tuple | list) else item

    def labels_of_all(self) -> np.ndarray | None:
        """Every sample's label: the data set's own `targets` or `labels`, else found by reading it once.

        Raises DataError for inputs that are NaN or infinite, where they are read.
        """
        for name in ("targets", "labels"):
            found = getattr(self.dataset, name, None)
            if found is not None and len(found) == len(self):
                return np.asarray(found)
        labels = []
        for start in range(0, len(self), 256):
            for number, item in enumerate(self.items(range(start, min(start + 256, len(self)))), start):
                _check_item(self.input_of(item), number)
                if isinstance(item, dict):
                    if self.label not in item:
                        raise DataError(f"A sample has no {self.label!r}.{nearest(str(self.label), item)} Say label=.")
                    labels.append(item[self.label])
                elif isinstance(item, tuple | list) and len(item) > 1:
                    labels.append(item[1])
                else:
                    return None
        return np.asarray(
            [value.item() if isinstance(value, Tensor) and value.ndim == 0 else value for value in labels]
        )


def _check_item(inputs: Any, number: int) -> None:
    for value in inputs.values() if isinstance(inputs, dict) else [inputs]:
        if isinstance(value, Tensor | np.ndarray | float):
            found = torch.as_tensor(value)
            if found.is_floating_point() and not bool(found.isfinite().all()):
                raise DataError(f"The inputs of sample {number} are NaN or infinite. Fill or drop them first.")


def object_to_raws(value: Any, *, label: str | None, text: str | None, features: Any,
                   needs_label: bool = True) -> dict[str, Raw] | None:  # fmt: skip
    """The splits in a Python object, or None where it is no data."""
    if isinstance(value, torch.utils.data.DataLoader):
        value = value.dataset
        if isinstance(value, torch.utils.data.IterableDataset):
            raise DataError(
                "This loader reads a stream, whose samples cannot be split or found again. Give a map-style data set, or train "
                "with job.stage(source=StreamSource(...))."
            )
    if _is_hub_object(value):
        splits = dict(value) if hasattr(value, "keys") else {"train": value}
        for name in splits:
            if name not in SPLITS:
                raise DataError(
                    f"These data have a part {name!r}, and the parts {list(splits)}. Say which is which: data={{'train': "
                    "loaded['train'], 'valid': ...}."
                )
        return {
            SPLITS[name]: frame_to_raw(
                _frame(one), label=label, text=text, features=features, name=f"split {name!r}",
                needs_label=needs_label and SPLITS[name] != "unlabelled",
            )
            for name, one in splits.items()
        }  # fmt: skip
    if isinstance(value, tuple) and len(value) == 2 and hasattr(value[0], "__len__") and not isinstance(value[0], str):
        return {"train": _arrays(*value)}
    if isinstance(value, torch.utils.data.TensorDataset) and len(value.tensors) == 2:
        return {"train": _arrays(*value.tensors)}
    if hasattr(value, "columns") and hasattr(value, "dtypes"):
        return {
            "train": frame_to_raw(
                value, label=label, text=text, features=features, name="the frame", needs_label=needs_label
            )
        }
    sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    if isinstance(value, torch.utils.data.Dataset) or (
        sequence and not isinstance(value, str | dict | np.ndarray | Tensor)
    ):
        part = DatasetPart("train", value, label or "label")
        if not len(part):
            raise DataError("The data set is empty.")
        shape = getattr(part.gather(torch.tensor([0])), "shape", ())
        return {
            "train": Raw(
                "image" if len(shape) == 4 else "table" if len(shape) == 2 else "other", part, part.labels_of_all()
            )
        }
    return None


def _is_hub_object(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "datasets"


def _frame(dataset: Any) -> Any:
    return dataset.to_pandas()


def _arrays(inputs: Any, labels: Any) -> Raw:
    if labels is not None and len(inputs) != len(labels):
        raise DataError(f"There are {len(inputs)} inputs and {len(labels)} labels.")
    if len(inputs) and isinstance(inputs[0], str):
        return Raw("text", list(inputs), np.asarray(labels))
    inputs = torch.as_tensor(np.asarray(inputs)) if not isinstance(inputs, Tensor) else inputs
    inputs = inputs.float() if inputs.dtype in (torch.float64, torch.float16) else inputs
    if inputs.is_floating_point():
        check_finite(inputs.numpy(), "The array of inputs")
    labels = None if labels is None else np.asarray(labels)
    if inputs.ndim == 2 and inputs.is_floating_point():
        return Raw("table", inputs.numpy(), labels)
    return Raw("image" if inputs.ndim == 4 else "other", TensorPart("train", inputs), labels)
