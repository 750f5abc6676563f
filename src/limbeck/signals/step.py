"""What an objective receives: the signals of every role, the batch, progress, counts, and a random generator."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError, nearest

if TYPE_CHECKING:
    from limbeck.data.base import Batch


class Ref(NamedTuple):
    """Where a signal comes from: a role (which may name a view, `student/masked`) and a tap."""

    role: str
    tap: str

    @classmethod
    def parse(cls, text: str, role: str) -> Ref:
        """`"layer2"` with the given role, or `"role:layer2"`."""
        match = re.fullmatch(r"(?:(?P<role>[A-Za-z_][\w/]*):)?(?P<tap>\S+)", text)
        if match is None:
            raise SignalError(
                f"{text!r} is not a signal. Expected a tap, 'layer2', or a role and a tap, 'teacher:layer2'."
            )
        return cls(match["role"] or role, match["tap"])

    def __str__(self) -> str:
        return f"{self.role}:{self.tap}"


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the same on every machine, unrelated between purposes."""
    text = "|".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


Counts = dict[str, float]


def count_items(batch: Batch) -> Counts:
    """How many samples and tokens of a batch count: all, labelled ones, and those of each group of rows.

    Fillers (weight 0) do not count. A group is a boolean `extra` [batch], such as a pair's "chosen" answers. A batch may
    bring other items, such as chunks of text: `extra["populations"]`, by name how much each counts [batch, items].
    """
    size = len(batch)
    weight = batch.weight
    mask = batch.extra.get("mask")
    counts = {"sample": float(size if weight is None else weight.sum())}
    if mask is not None:
        counts["token"] = float((mask if weight is None else mask * weight[:, None]).sum())
    if batch.complete and mask is None:
        counts["sample, labelled"] = counts["sample"]
    elif batch.labels is not None:
        valid = _labelled(batch.labels)
        kind = "sample" if valid.ndim == 1 else "token"
        full = valid if valid.ndim == 1 or mask is None else valid * mask
        if weight is not None:
            full = full * (weight if full.ndim == 1 else weight[:, None])
        counts[f"{kind}, labelled"] = float(full.sum())
    for kind in batch.extra.get("populations", {}):
        counts[kind] = float(items(batch, kind).sum())  # type: ignore[union-attr]
    for name, rows in batch.groups().items():
        for key in list(counts):
            kind, _, labelled = key.partition(", ")
            if labelled in ("", "labelled"):
                part = items(batch, kind, bool(labelled), name)
                counts[f"{key}, {name}"] = float(rows.sum() if part is None else part.sum())
    return counts


def items(batch: Batch, kind: str, labelled: bool = False, group: str | None = None) -> Tensor | None:
    """The mask of the items that count, [batch] or [batch, items]; None where all do.

    `kind`: "sample", "token", or one of the batch's own populations; only `labelled` ones, only those of a `group` of rows.
    """
    several = kind != "sample"
    parts = [batch.extra.get("populations", {}).get(kind, batch.extra.get("mask"))] if several else []
    rows = [batch.weight, None if group is None else batch.group(group)]
    parts += [row[:, None] if several and row is not None else row for row in rows]
    if labelled and batch.labels is not None:
        parts.insert(0, _labelled(batch.labels))
    mask = None
    for part in parts:
        if part is not None:
            mask = part if mask is None else mask * part
    return mask


def _labelled(labels: Tensor) -> Tensor:
    valid = ~labels.isnan() if labels.is_floating_point() else labels != -100
    return valid if valid.ndim < 2 or not labels.is_floating_point() else valid.all(-1)


@dataclass
class Step:
    """One micro-batch of one optimizer step.

    `counts` are those of the whole optimizer step over all micro-batches and processes; `share` is this micro-batch's
    part of it. `gather` brings a relation's inputs together from all processes. `modules` are the plain modules by
    role, for objectives that drive their own forward passes.
    """

    batch: Batch
    progress: float = 0.0
    number: int = 0
    seed: int = 0
    counts: Counts = field(default_factory=dict)
    share: float = 1.0
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    signals: dict[Ref, Any] = field(default_factory=dict)
    processes: int = 1
    gather: Callable[[list[Tensor]], list[Tensor]] | None = None
    drawn: dict[str, Any] = field(default_factory=dict)

    def put(self, role: str, signals: Mapping[str, Any]) -> None:
        for tap, value in signals.items():
            self.signals[Ref(role, tap)] = value

    def signal(self, ref: Ref) -> Any:
        try:
            return self.signals[ref]
        except KeyError:
            have = [str(known) for known in self.signals]
            raise SignalError(f"There is no signal {str(ref)!r} in this step.{nearest(str(ref), have)}") from None

    def seen_by(self, learner: str, learners: set[str]) -> Step:
        """The same step as one learner sees it: the signals of other learners are detached."""
        signals = {}
        for ref, value in self.signals.items():
            owner = ref.role.partition("/")[0]
            other = owner in learners and owner != learner
            signals[ref] = value.detach() if other and hasattr(value, "detach") else value
        return replace(self, signals=signals)

    def rng(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for one purpose, the same whenever this step is run again."""
        return torch.Generator(device).manual_seed(derive(self.seed, name, self.number))

    def once(self, name: str, draw: Callable[[torch.Generator], Any]) -> Any:
        """Randomness that several roles share (noise, a time, a mask): drawn by the first who asks."""
        if name not in self.drawn:
            self.drawn[name] = draw(self.rng(name))
        return self.drawn[name]

    def population(self, kind: str, labelled: bool, group: str | None = None) -> tuple[Tensor | None, float]:
        """The mask of the items that count in this micro-batch (None: all), and their number in the whole step.

        See `items` for the arguments.
        """
        if not self.counts:
            self.counts = count_items(self.batch)
        if labelled and self.batch.labels is None:
            return torch.zeros(()), 0.0
        end = "" if group is None else f", {group}"
        count = self.counts.get(f"{kind}{end}", 0.0)
        if labelled and self.counts.get(f"{kind}, labelled{end}") != count:
            return items(self.batch, kind, True, group), self.counts.get(f"{kind}, labelled{end}", 0.0)
        return items(self.batch, kind, False, group), count  # unlabelled ones too, or every item has a label
