"""Numbers as people read them: means with spread, sizes, times. Everything here takes what JSON can hold, None included."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


@dataclass(frozen=True)
class Stat:
    """A score over seeds: its mean, its sample standard deviation (None for one seed), and the value of each seed."""

    mean: float
    std: float | None = None
    values: tuple[float, ...] = ()


def number(given: Any) -> float | None:
    """The given value as a float; None for what is missing, NaN or no number. Infinity stays."""
    if given is None or isinstance(given, bool | Mapping | list | tuple):
        return None
    try:
        value = float(given)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else value


def positive(given: Any) -> float | None:
    """The given value if it is a finite number above zero, such as a size or a time."""
    value = number(given)
    return value if value and 0 < value < math.inf else None


def stat(given: Any) -> Stat | None:
    """A `Stat` from a number, a list of values, or a mapping with mean, std and values; None where there is no mean."""
    if isinstance(given, Mapping):
        raw, mean, std = given.get("values") or (), number(given.get("mean")), number(given.get("std"))
    elif isinstance(given, list | tuple):
        raw, mean, std = given, None, None
    else:
        raw, mean, std = (), number(given), None
    values = tuple(value for value in map(number, raw) if value is not None)
    if mean is None:
        if not values:
            return None
        mean = statistics.fmean(values)
    if len(values) > 1:
        std = statistics.stdev(values) if all(map(math.isfinite, values)) else None
    elif len(values) == 1 or std == 0:
        std = None  # one seed has no spread; a zero without values says the same
    return Stat(mean, std, values or (mean,))


def decimals(values: Iterable[float], share: bool = False) -> int:
    """How many decimals show a row of numbers that are to be compared with one another.

    Shares (shown as percent): 1, or 2 where all lie within half a point. Other numbers: three digits of the largest.
    """
    finite = [value for value in values if math.isfinite(value)]
    if share:
        return 2 if len(finite) > 1 and 0 < max(finite) - min(finite) < 0.005 else 1
    largest = max(map(abs, finite), default=0)
    rounded = float(f"{largest:.2e}")  # so that 0.9996 counts as 1.00
    return 2 if rounded == 0 else min(6, max(0, 2 - math.floor(math.log10(rounded))))


def plain(value: float | None, digits: int | None = None) -> str:
    """A number with `digits` decimals (default: three digits that count), thousands set apart, a true minus sign."""
    if value is None:
        return "\u2013"
    if math.isinf(value):
        return "\u221e" if value > 0 else MINUS + "\u221e"
    if digits is None and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}\u00d710{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", MINUS)
    if value == 0 and digits is None:
        return "0"
    text = f"{value:,.{decimals([value]) if digits is None else digits}f}"
    return text.replace("-", MINUS)


def tick(value: float, write: Callable[[float], str]) -> str:
    """A round number without its trailing zeros: 1.00 MB -> 1 MB."""
    return re.sub(r"\.0+(?=\D|$)|(\.\d*?[1-9])0+(?=\D|$)", r"\1", write(value))


def share(value: float | None, digits: int = 1) -> str:
    """A share as percent: 0.951 -> 95.1 %."""
    return "\u2013" if value is None else f"{plain(value * 100, digits)} %"


def count(value: float | None) -> str:
    """9,876; 421 k; 11.2 M; 7.24 G."""
    if value is None or abs(value) < 10_000:
        return plain(value, 0)
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def size(value: float | None) -> str:
    """Bytes in steps of 1000: 512 B, 421 kB, 44.7 MB."""
    if value is None or abs(value) < 1000:
        return "\u2013" if value is None else f"{plain(value, 0)} B"
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if math.isinf(value):
        return plain(value)
    step = min(len(units) - 1, int(math.log10(abs(value)) // 3))
    if step + 1 < len(units) and round(value / 1000**step, 0) >= 1000:
        step += 1
    return f"{plain(value / 1000**step)} {units[step]}"


def milliseconds(value: float | None) -> str:
    return "\u2013" if value is None else f"{plain(value)} ms"


def rate(value: float | None) -> str:
    return "\u2013" if value is None else f"{count(value) if value >= 10_000 else plain(value)}/s"


def duration(seconds: float | None) -> str:
    """41.3 s; 12 min 5 s; 2 h 5 min; 3 d 4 h."""
    if seconds is None:
        return "\u2013"
    if seconds < 60 or math.isinf(seconds):
        return f"{plain(seconds)} s"
    whole = round(seconds)
    for big, small, length, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {big}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def fraction(ratio: float) -> str:
    """How much smaller, from large divided by small: 38.2 -> 1/38; 2.3 -> 43 %; 0.8 -> 1.25 times."""
    if ratio >= 9.5:
        return f"1/{ratio:,.0f}"
    return f"{100 / ratio:.0f} %" if ratio > 1 else f"{times(1 / ratio)} times"


def times(ratio: float) -> str:
    """A factor: 12, 2.4, 3."""
    return plain(ratio, 0 if ratio >= 9.95 else 1).removesuffix(".0")
