"""Teacher hacking: does a student go on coming nearer to its teacher while it moves away from the truth?

Followed while it trains are two distances on held-out prompts: the *proxy*, to the teacher, and the *golden* one, to the
truth (an oracle, or held-out text and labels). After On Teacher Hacking in Language Model Distillation (2025).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.errors import ArgumentError

LEAST = 8  # evaluations below which nothing is said
LAST = 4  # evaluations at the end that must all lie above the lowest before a turn is called one
CLEAR = 0.01  # a golden distance has risen, or a proxy fallen, when it differs by this share
DEPARTS = 1.1  # and a proxy has left its power law when it lies this many times above it, for the rest of the training
ERRORS = (
    3.0  # standard errors of a prediction by the law, and of the noise between evaluations, that chance may explain
)


@dataclass(frozen=True)
class Hacking:
    """What two curves say.

    `verdict`: "hacking" (golden turned while the proxy still fell), "overfitting" (golden turned, and the proxy fell no
    further: training prompts are learnt by heart), "stalled" (golden stopped falling, the proxy went on: what is left is the
    teacher's own distance), "sound" (neither), "short" (too few evaluations to say).
    `turned`: the step of the lowest golden distance, where it rose for good after it. `stalled`: the step from which it fell
    no further. `rise`: how much of the lowest the last golden distance lies above it. `departed`: the step from which the
    proxy lies above its early power law `scale` x step^-`power` (fitted to `fitted` evaluations), None where it follows
    it. A student too small for its teacher leaves the law too: by itself that is no sign of hacking.
    """

    verdict: str
    evaluations: int
    steps: float
    turned: float | None = None
    stalled: float | None = None
    rise: float = 0.0
    departed: float | None = None
    scale: float | None = None
    power: float | None = None
    fitted: int = 0
    golden: tuple[float, float] = (math.nan, math.nan)  # the lowest, the last
    proxy: tuple[float, float] = (math.nan, math.nan)  # where golden was lowest, the lowest after that

    @property
    def alarm(self) -> bool:
        """Whether the student moved away from the truth."""
        return self.turned is not None

    def sentence(self, truth: str = "the truth") -> str:
        """The finding in one sentence; `truth` is what the golden distance is to."""
        if self.verdict == "short":
            return f"Too few evaluations to tell teacher hacking: {self.evaluations}, and {LEAST} are needed."
        at, golden = self.turned if self.stalled is None else self.stalled, _pair(self.golden)
        of = f"step {at or 0:,.0f} of {self.steps:,.0f}"
        if self.verdict == "hacking":
            return (
                f"Teacher hacking: after {of} the student came still nearer to its teacher ({_pair(self.proxy)}), and moved "
                f"away from {truth} ({golden})."
            )
        if self.verdict == "overfitting":
            return (
                f"Overfitting: after {of} the student moved away from {truth} ({golden}), and on held-out prompts it came "
                "no nearer to its teacher either."
            )
        if self.verdict == "stalled":
            return (
                f"No teacher hacking: after {of} the student came no nearer to {truth} while it still came nearer to its "
                "teacher, but it did not move away."
            )
        return f"No teacher hacking: the student did not move away from {truth}."


def hacking(steps: Sequence[float], proxy: Sequence[float], golden: Sequence[float], start: float = 0.0) -> Hacking:
    """Judge the curves of one training; steps, distances to the teacher, distances to the truth: [evaluations] each.

    Steps rise and are positive; distances are of held-out prompts and not negative (KL, JS, cross-entropy, squared error).
    Evaluations that are not finite are left out. `start`: the step up to which the learning rate rose; the power law is fitted
    from there to halfway to the end, on the axis of logarithms. Golden has *turned* when each of its last four values lies
    above its lowest (a median of three) by more than 1 % and twice the noise between evaluations. Raises ArgumentError for
    curves that do not fit.
    """
    kept = _read(steps, proxy, golden)
    if len(kept) < LEAST:
        return Hacking("short", len(kept), kept[-1][0] if kept else 0.0)
    at, near, true = (list(column) for column in zip(*kept, strict=True))
    scale, power, departed, fitted = _power_law(at, near, start)
    smooth = [statistics.median(true[max(0, place - 1) : place + 2]) for place in range(len(true))]  # one is no trend
    bend = min(range(len(true)), key=smooth.__getitem__)
    low = min(range(max(0, bend - 1), min(bend + 2, len(true))), key=true.__getitem__)
    after = near[low + 1 :]
    about = {
        "evaluations": len(at), "steps": at[-1], "departed": departed, "scale": scale, "power": power, "fitted": fitted,
        "golden": (true[low], true[-1]), "proxy": (near[low], min(after, default=near[low])),
        "rise": true[-1] / true[low] - 1 if true[low] > 0 else math.inf if true[-1] > 0 else 0.0,
    }  # fmt: skip
    limit = smooth[bend] * (1 + CLEAR) + 2 * _noise(true[len(true) // 2 :])
    if low < len(true) - LAST and min(true[-LAST:]) > limit:
        falls = min(after) < near[low] * (1 - CLEAR)
        return Hacking("hacking" if falls else "overfitting", turned=at[low], **about)  # type: ignore[arg-type]
    bottom = true[low] + CLEAR * (true[0] - true[low])  # a cross-entropy has a floor: what counts is how far it fell
    first = next(place for place, value in enumerate(true) if value <= bottom)
    if at[first] <= at[-1] / 2 and statistics.median(near[-LAST:]) < near[first] * 0.9:
        return Hacking("stalled", stalled=at[first], **about)  # type: ignore[arg-type]
    return Hacking("sound", **about)  # type: ignore[arg-type]


def _read(steps: Sequence[float], proxy: Sequence[float], golden: Sequence[float]) -> list[tuple[float, float, float]]:
    if not len(steps) == len(proxy) == len(golden):
        raise ArgumentError(
            f"{len(steps)} steps, {len(proxy)} proxy and {len(golden)} golden distances; expected as many of each."
        )
    rows = [(float(step), float(near), float(true)) for step, near, true in zip(steps, proxy, golden)]
    if any(one[0] >= other[0] for one, other in itertools.pairwise(rows)) or any(step <= 0 for step, _, _ in rows):
        raise ArgumentError("steps must be positive and rise from one evaluation to the next.")
    if any(value < 0 for _, *both in rows for value in both):
        raise ArgumentError("Distances must not be negative: give KL, JS, cross-entropies or squared errors.")
    return [row for row in rows if all(map(math.isfinite, row))]


def power_law(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The least squares fit of log value = log a - b log step: (a, b). Steps and values are positive, two or more."""
    xs, ys = [math.log(step) for step in steps], [math.log(value) for value in values]
    middle, height = statistics.fmean(xs), statistics.fmean(ys)
    width = sum((x - middle) ** 2 for x in xs)
    if not width:
        raise ArgumentError("A power law needs values at two steps or more.")
    b = -sum((x - middle) * (y - height) for x, y in zip(xs, ys)) / width
    return math.exp(height + b * middle), b


def _power_law(steps: list[float], values: list[float], start: float) -> tuple[
        float | None, float | None, float | None, int]:  # fmt: skip
    """Scale and power of the law of the early part, the step from which the curve lies above it by more than a prediction
    may err, and how many evaluations were fitted (none where there are fewer than four)."""
    half = math.sqrt(max(steps[0], start) * steps[-1])
    early = [place for place, step in enumerate(steps) if start <= step <= half and values[place] > 0]
    if len(early) < 4:
        return None, None, None, 0
    a, b = power_law([steps[place] for place in early], [values[place] for place in early])

    def above(place: int) -> float:
        return math.log(values[place] / a) + b * math.log(steps[place]) if values[place] > 0 else -math.inf

    xs = [math.log(steps[place]) for place in early]
    middle = statistics.fmean(xs)
    width = sum((x - middle) ** 2 for x in xs)
    error = math.sqrt(sum(above(place) ** 2 for place in early) / (len(early) - 2))
    departed = None
    for place in reversed(range(early[-1] + 1, len(steps))):
        spread = error * math.sqrt(1 + 1 / len(early) + (math.log(steps[place]) - middle) ** 2 / width)
        if above(place) <= max(ERRORS * spread, math.log(DEPARTS)):
            break
        departed = steps[place]
    return a, b, departed, len(early)


def _noise(values: Sequence[float]) -> float:
    """The standard deviation of what an evaluation differs by from the mean of its neighbours, by the median."""
    gaps = [abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:])]
    return 1.4826 * statistics.median(gaps) * math.sqrt(2 / 3) if gaps else 0.0


def _pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.3g} to {values[1]:.3g}"
