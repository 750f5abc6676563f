"""Batch, Part, Data: what the engine knows about data.

A `Data` has named parts (train, valid, test); a `Part` hands out whole batches by index; a `Batch` is what a step sees.
Every sample has an id that is unique in its `Data` and never changes: the signal store is keyed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from limbeck.errors import SignalError
from limbeck.functional.core import UNLABELLED

Inputs = Any  # a Tensor, a dict of Tensors, or a list of str


def move(inputs: Inputs, device: torch.device) -> Inputs:
    """Tensors (and whatever else has `.to`) of a nested structure to `device`; texts stay."""
    if isinstance(inputs, Tensor):  # a copy to the CPU that nobody waits for may be read before it is there
        return inputs.to(device, non_blocking=device.type != "cpu")
    if isinstance(inputs, dict):
        return {key: move(value, device) for key, value in inputs.items()}
    if type(inputs) in (list, tuple):
        return type(inputs)(move(value, device) for value in inputs)
    return inputs.to(device) if hasattr(inputs, "to") else inputs


@dataclass
class Batch:
    """One batch. `weight` is 1 for a sample and 0 for a filler (an empty slice of another process's batch)."""

    inputs: Inputs
    ids: Tensor  # [batch] int64
    labels: Tensor | None = None  # [batch] int64 (-100: unlabelled) or float (nan: unlabelled)
    weight: Tensor | None = None  # [batch] float
    view: Tensor | None = None  # [batch] int64: which augmented view of each sample, 0 without augmentation
    extra: dict[str, Any] = field(default_factory=dict)
    complete: bool = False  # known to have a label for every sample

    def __len__(self) -> int:
        return len(self.ids)

    def groups(self) -> dict[str, Tensor]:
        """The groups of rows by name: every boolean `extra` [batch], such as a pair's "chosen" answers."""
        return {
            name: rows for name, rows in self.extra.items()
            if isinstance(rows, Tensor) and rows.dtype == torch.bool and rows.ndim == 1
        }  # fmt: skip

    def group(self, name: str) -> Tensor:
        """Which rows are of a group, [batch] bool. Raises SignalError where there is no such group."""
        groups = self.groups()
        if name not in groups:
            have = f"it has {sorted(groups)}" if groups else "it has none"
            raise SignalError(
                f"A term looks at the {name!r} rows of a batch, and {have}. Chosen and rejected rows are those of preference "
                "pairs: give data with the columns prompt, chosen and rejected."
            )
        return groups[name]

    def to(self, device: torch.device | str) -> Batch:
        device = torch.device(device)
        if self.ids.device == device:
            return self
        return replace(self, **{field.name: move(getattr(self, field.name), device) for field in fields(self)})


@runtime_checkable
class Augmentation(Protocol):
    """Random views of a sample. `count` is the size of the set of views, None when it is not finite."""

    count: int | None

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Views for `number` samples, `[number]` int64."""

    def apply(self, inputs: Inputs, view: Tensor) -> Inputs:
        """The chosen view of every sample of a batch of inputs."""


class Part:
    """Samples that are handed out in batches, by position. Subclasses define `__len__` and `gather`.

    `ids` [n] int64, `labels` [n] int64 or float, or None when no sample has one.
    """

    name: str
    ids: Tensor
    labels: Tensor | None = None
    augmentation: Augmentation | None = None
    domain: Tensor | None = None  # [n] int64, the place of each sample's domain in `Data.domains`
    tokenizations = 1  # 2 where a batch carries the same texts in the teacher's tokens too
    order = "any"  # in which it is read for training: "any", rows of like "length" together, or as a "stream"

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, positions: Tensor) -> Inputs:
        """The inputs of these samples, collated, without augmentation."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its samples are gathered")

    def extra(self, positions: Tensor) -> dict[str, Any]:
        """What a batch of these samples carries beside inputs and labels, such as "mask" [batch, tokens]."""
        return {}

    def batch(self, positions: Tensor | Sequence[int], generator: torch.Generator | None = None, *,
              view: Tensor | None = None) -> Batch:  # fmt: skip
        """A batch of these samples. Augmented by the given views, or by drawn ones when a generator is given."""
        positions = torch.as_tensor(positions, dtype=torch.int64)
        inputs = self.gather(positions)
        if self.augmentation is not None:
            if view is None and generator is not None:
                view = self.augmentation.draw(len(positions), generator)
            if view is not None:
                inputs = self.augmentation.apply(inputs, view)
        labels = None if self.labels is None else self.labels.index_select(0, positions)  # half the time of [positions]
        return Batch(inputs, self.ids.index_select(0, positions), labels, view=view, extra=self.extra(positions))

    def with_labels(self, labels: Tensor | None) -> Part:
        """The same samples with other labels (used to hide labels, or to replace them by a teacher's)."""
        import copy

        other = copy.copy(self)
        other.labels = labels
        return other

    def is_labelled(self) -> Tensor:
        """Which samples have a label, [n] bool."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != UNLABELLED

    def kinds(self) -> set[str]:
        """Which kinds of samples there are: "labels", "unlabelled", "preferences", "prompts"."""
        known = self.is_labelled()
        return {kind for kind, some in (("labels", known), ("unlabelled", ~known)) if bool(some.any())}

    def describe(self) -> str:
        """What it is, in a few words that are the same for the same samples."""
        return f"{self.name}: {len(self)} samples"


class TensorPart(Part):
    """Samples held in memory as one tensor, or a dict of tensors: a batch is one indexing."""

    def __init__(self, name: str, inputs: Inputs, labels: Tensor | None = None, ids: Tensor | None = None,
                 augmentation: Augmentation | None = None):  # fmt: skip
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        self.name, self.inputs, self.labels, self.augmentation = name, inputs, labels, augmentation
        self.ids = torch.arange(len(first)) if ids is None else ids

    def gather(self, positions: Tensor) -> Inputs:
        return self.gather_raw(positions)

    def gather_raw(self, positions: Tensor) -> Inputs:
        """The inputs as they are held."""
        if isinstance(self.inputs, dict):
            return {key: value.index_select(0, positions) for key, value in self.inputs.items()}
        return self.inputs.index_select(0, positions)


class PixelPart(TensorPart):
    """Images held as bytes [n, channels, height, width] uint8, handed out as float from 0 to 1."""

    def gather(self, positions: Tensor) -> Tensor:
        return self.gather_raw(positions).float().div_(255)


class TextPart(Part):
    """Texts, handed out as a list of str; the task tokenizes them for each role."""

    def __init__(self, name: str, texts: Sequence[str], labels: Tensor | None = None, ids: Tensor | None = None):
        self.name, self.texts, self.labels = name, list(texts), labels
        self.ids = torch.arange(len(self.texts)) if ids is None else ids

    def gather(self, positions: Tensor) -> list[str]:
        return [self.texts[i] for i in positions.tolist()]

    def take(self, positions: Tensor, name: str) -> TextPart:
        """Some of the texts, with their labels and ids."""
        labels = None if self.labels is None else self.labels[positions]
        return TextPart(name, self.gather(positions), labels, self.ids[positions])


class SubsetPart(Part):
    """Some samples of another part, with their ids and labels."""

    def __init__(self, base: Part, positions: Tensor, name: str | None = None):
        self.base, self.positions, self.name = base, positions, name or base.name
        self.ids, self.augmentation = base.ids[positions], base.augmentation
        self.labels = None if base.labels is None else base.labels[positions]
        self.domain = None if base.domain is None else base.domain[positions]
        self.tokenizations = base.tokenizations

    def gather(self, positions: Tensor) -> Inputs:
        return self.base.gather(self.positions[positions])

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return self.base.extra(self.positions[positions])


@dataclass
class Data:
    """Named parts and what is known of them.

    `parts` has "train" (labels may be partly hidden: -100 or nan), and "valid" and "test" where they exist.
    `target` is "classes" or "values" (regression) or "none"; `classes` are the names, in the order of the labels.
    `about` is written into the run folder: source, sizes, seed, how the split was made, warnings with counts.
    """

    name: str
    kind: str  # "table", "image", "text", "tokens", "other"
    parts: dict[str, Part]
    target: str = "classes"
    classes: list[str] | None = None
    features: list[str] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = None  # of token rows: what made them
    domains: list[str] | None = None  # names, where the samples are of several (`Part.domain`)
    benches: dict[str, Any] = field(default_factory=dict)  # by name: what models are measured on beside a part
    teacher_tokenizer: Any = None  # of rows that carry the texts in the teacher's tokens too

    @property
    def train(self) -> Part:
        return self.parts["train"]

    def fingerprint(self) -> str:
        """sha256 over names, ids, labels and inputs of all parts: two equal fingerprints are the same data."""
        from limbeck.data.identity import fingerprint

        return fingerprint(self)
