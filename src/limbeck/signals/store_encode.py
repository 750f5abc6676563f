"""How one signal becomes fixed-length rows, and comes back: whole, or the top k of its logits with the mass of the rest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, SignalError, StoreError
from limbeck.functional.topk import largest
from limbeck.signals.store_ids import pack_ids, packed_width, unpack_ids
from limbeck.signals.store_levels import from_levels, to_levels

# the name in a manifest, the name in a safetensors header
DTYPES = {
    torch.float32: ("float32", "F32"), torch.float16: ("float16", "F16"), torch.bfloat16: ("bfloat16", "BF16"),
    torch.uint8: ("uint8", "U8"), torch.uint16: ("uint16", "U16"), torch.uint32: ("uint32", "U32"),
    torch.int64: ("int64", "I64"),
}  # fmt: skip
NAMED = {name: dtype for dtype, (name, _) in DTYPES.items()}
KEPT = ("float16", "bfloat16", "float32", "uint8")
# the least log-probability that is kept: no mass in any float type, and finite, so that 0 * log p is 0
FLOOR = -65504.0
BLOCK = 1 << 24  # logits looked at together


@dataclass(frozen=True)
class Column:
    """One array of a shard: `[rows, *shape]` of `dtype`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(eq=False)
class TopK:
    """The k largest of `size` log-probabilities, and what mass the rest have together.

    values [..., k]: log-probabilities, descending; ids [..., k]: their classes (whole numbers of any type); log_tail [...]:
    log of the summed probability of all other classes, -65504 where there are none. As a teacher's signal it stands for
    the logits that `dense()` gives, as `Lazy` does for a product: a walk makes them for a few tokens at a time.
    """

    values: Tensor
    ids: Tensor
    log_tail: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> torch.Size:
        """[..., size]"""
        return torch.Size((*self.values.shape[:-1], self.size))

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits that it stands for."""
        return torch.float32

    @property
    def requires_grad(self) -> bool:
        return False

    def detach(self) -> TopK:
        return self

    def to(self, device: torch.device | str) -> TopK:
        return TopK(self.values.to(device), self.ids.to(device), self.log_tail.to(device), self.size)

    def __getitem__(self, place: Any) -> TopK:
        """Those of some places, by an index into the leading axes."""
        return TopK(self.values[place], self.ids.long()[place], self.log_tail[place], self.size)

    def whole(self) -> Tensor:
        """All logits [..., size] as one tensor."""
        return self.dense()

    def block(self, rows: Tensor) -> Tensor:
        """The logits [number, size] of some rows: indices [number] into the flattened leading axes."""
        return self[torch.unravel_index(rows, self.shape[:-1])].dense()

    def __truediv__(self, temperature: float) -> TopK:
        """What the logits `dense()` are, divided by a temperature and made into log-probabilities again."""
        rest = self.size - self.values.shape[-1]
        values, tail = self.values.float() / temperature, self.log_tail.float()[..., None]
        spread = math.log(rest) * (1 - 1 / temperature) if rest else 0.0  # rest * (tail / rest)^(1/T)
        tail = (tail / temperature + spread).where(tail > FLOOR, FLOOR)
        total = torch.cat([values, tail], -1).logsumexp(-1, keepdim=True)
        return TopK(values - total, self.ids, (tail - total)[..., 0].clamp(min=FLOOR), self.size)

    def largest(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [..., k] and log-probabilities [..., k] of the k largest, log mass [...] of the rest, of the logits `dense()`.

        What was not kept is evenly spread: of the classes beyond those that were, the first ones are taken.
        """
        if k > self.values.shape[-1]:
            return largest(self.dense(), k)
        values, tail = self.values.float(), self.log_tail.float()[..., None]
        total = torch.logaddexp(values.logsumexp(-1, keepdim=True), tail)
        rest = torch.cat([values[..., k:], tail], -1).logsumexp(-1)
        return self.ids[..., :k].long(), values[..., :k] - total, rest - total[..., 0]

    def dense(self, fill: Literal["tail", "none"] = "tail") -> Tensor:
        """Log-probabilities [..., size] in float32 that sum to one: logits for whatever ignores a shift of all logits.

        "tail": the rest share their mass evenly. Up to the rounding of the stored dtype, these are exact: the probabilities
        of the top k and the mass of the rest, and with them the gradient of KL at the top k's logits; and everything when
        k = size. Lost is how the rest differ among themselves. A temperature above 1 raises an even tail more than the
        true one: ratios within the top k stay exact, the mass of the rest does not. "none": the rest have no mass
        (-65504), the top k are renormalized. Raises ArgumentError for another fill.
        """
        if fill not in ("tail", "none"):
            raise ArgumentError(f"fill={fill!r}: choose 'tail' (the rest share their mass evenly) or 'none' (no mass).")
        values, rest = self.values.float(), self.size - self.values.shape[-1]
        total = values.logsumexp(-1, keepdim=True)
        each = torch.full_like(total, FLOOR)
        if rest and fill == "tail":
            tail = self.log_tail.float()[..., None]
            total, each = torch.logaddexp(total, tail), tail - math.log(rest)
        # normalized again: values and tail were rounded each by itself
        dense = (each - total).expand(self.shape).contiguous()
        return dense.scatter_(-1, self.ids.long(), values - total)


@dataclass(frozen=True)
class Signal:
    """How a signal is kept. `shape` is that of one sample, [classes] for logits; k is None where all is kept.

    dtype "uint8": the values of top-k logits as levels between their largest and smallest (see `store_levels`). Encoding
    "packed_top_k": their classes in few bits each, in ascending order (see `store_ids`); "top_k": as whole numbers, by value.
    """

    encoding: Literal["all", "top_k", "packed_top_k"]
    dtype: str
    shape: tuple[int, ...]
    k: int | None = None

    def columns(self, name: str) -> list[Column]:
        """The arrays that hold it."""
        dtype, levels = NAMED[self.dtype], self.dtype == "uint8"
        if self.k is None:
            return [Column(name, dtype, self.shape)]
        places, size = self.shape[:-1], self.shape[-1]
        ids, width = torch.uint8 if size <= 1 << 8 else torch.uint16 if size <= 1 << 16 else torch.uint32, self.k
        if self.encoding == "packed_top_k":
            ids, width = torch.uint8, packed_width(self.k, size)
        ends = [Column(f"{name}/ends", torch.float16, (*places, 2))] if levels else []
        return [
            Column(f"{name}/values", dtype, (*places, self.k)), *ends, Column(f"{name}/ids", ids, (*places, width)),
            Column(f"{name}/log_tail", torch.float16 if levels else dtype, places),
        ]  # fmt: skip

    def encode(self, value: Any) -> list[Tensor]:
        """The arrays of a batch [batch, *shape], in the order of `columns`, on the CPU. `value` may be lazy logits."""
        dtype = NAMED[self.dtype]
        if self.k is None:
            return [(value.whole() if hasattr(value, "whole") else value).detach().to(dtype).cpu().contiguous()]
        size, columns = self.shape[-1], self.columns("")
        count = math.prod(value.shape[:-1])
        flat = None if hasattr(value, "block") else value.reshape(count, size)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        step = max(1, BLOCK // size)
        for start in range(0, count, step):
            rows = torch.arange(start, min(start + step, count), device=value.device)
            parts.append(top_k(value.block(rows) if flat is None else flat[start : start + step], self.k))
        values, ids, log_tail = [torch.cat(group) for group in zip(*parts, strict=True)]
        kept = list(to_levels(values)) if self.dtype == "uint8" else [values]
        if self.encoding == "packed_top_k":
            ids, order = ids.sort(-1)
            kept[0], ids = kept[0].gather(-1, order), pack_ids(ids, size)
        found = [*kept, ids, log_tail]
        return [
            array.to(column.dtype).cpu().reshape(len(value), *column.shape).contiguous()
            for array, column in zip(found, columns, strict=True)
        ]

    def decode(self, arrays: list[Tensor]) -> Tensor | TopK:
        """What `encode` was given: a tensor [batch, *shape] in the stored dtype, or a TopK."""
        if self.k is None:
            return arrays[0]
        values, *ends, ids, log_tail = arrays
        if self.encoding == "packed_top_k":
            ids = unpack_ids(ids.flatten(0, -2), self.k, self.shape[-1]).reshape(values.shape)
        if ends:
            values = from_levels(values, ends[0])
        if self.encoding == "packed_top_k":
            values, order = values.sort(stable=True, dim=-1, descending=True)
            ids = ids.gather(-1, order)
        return TopK(values, ids, log_tail, self.shape[-1])

    def describe(self) -> dict[str, Any]:
        """For a manifest. There is no temperature in a store: a formula applies its own."""
        return {**asdict(self), "shape": list(self.shape), "temperature": None}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Signal:
        return cls(plain["encoding"], plain["dtype"], tuple(plain["shape"]), plain["k"])


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [n, k] of the k largest logits [n, classes], their classes [n, k], and the log mass [n] of the rest.

    The mass of the rest is summed from the rest itself: 1 minus the top k's would be rounding noise where it is small.
    Log-probabilities and not logits are kept, since they are small, and so exact in half precision, where the mass is.
    """
    logits = logits.detach()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    values, ids = logits.topk(k, dim=-1)
    total = logits.logsumexp(-1, keepdim=True)
    tail = logits.scatter(-1, ids, -math.inf).logsumexp(-1) - total[:, 0]
    return (values - total).clamp(min=FLOOR), ids, tail.clamp(min=FLOOR)


def describe_signal(name: str, value: Any, dtype: str, top: int | None) -> Signal:
    """How a signal of a batch will be kept. Raises SignalError for what is no tensor with a row for each sample."""
    shape, given = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not shape or given is None or not given.is_floating_point:
        seen = type(value).__name__ if given is None else f"tensor of {given}, {list(shape or [])}"
        raise SignalError(
            f"The signal {name!r} is a {seen}. A store keeps floating point tensors with a row for each sample; tap an "
            "output or a part of it (#0, #input)."
        )
    row = tuple(shape[1:])
    if top is None or name.rpartition(".")[2] != "logits":
        return Signal("all", "float16" if dtype == "uint8" else dtype, row)
    if not row or top > row[-1]:
        raise ArgumentError(
            f"top_k={top}: the signal {name!r} has {row[-1] if row else 1} classes. Give a smaller number, or leave "
            "top_k out to keep all."
        )
    return Signal("packed_top_k" if dtype == "uint8" else "top_k", dtype, row, top)


def check_values(name: str, signal: Signal, value: Any, arrays: list[Tensor], ids: Tensor) -> None:
    """Raise StoreError, with the ids of the samples, for NaN, +inf, and finite values that the stored dtype cannot hold.

    -inf is a logit of no probability and may pass. `arrays` are what `encode` made of `value`.
    """
    seen = arrays[1 if signal.dtype == "uint8" else 0]  # of levels, their ends
    first = seen.flatten(1) if seen.ndim > 1 else seen[:, None]
    good = first.isfinite().all(1)
    if bool(good.all()):
        return
    value = (value.whole() if hasattr(value, "whole") else value).detach().cpu()
    value = value.flatten(1) if value.ndim > 1 else value[:, None]
    broken = (value.isnan() | (value == math.inf)).any(1) | (value == -math.inf).all(1)
    if bool(broken.any()):
        bad = ids[broken]
        raise StoreError(
            f"The signal {name!r} is NaN or infinite for {len(bad)} of {len(ids)} samples of a batch (first ids: "
            f"{bad[:5].tolist()}). Look for missing or huge values in these inputs, or leave the samples out."
        )
    if signal.k is None:
        bad = ids[(first.isinf() & value.isfinite()).any(1)]
        if len(bad):
            raise StoreError(
                f"The signal {name!r} reaches {float(value[value.isfinite()].abs().max()):.3g} (first sample ids: "
                f"{bad[:5].tolist()}), and {signal.dtype} ends at {torch.finfo(NAMED[signal.dtype]).max:.3g}. "
                "Say dtype='bfloat16' or 'float32'."
            )
