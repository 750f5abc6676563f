"""The plots, as plain Plotly figures. Colours are names of the style sheet's variables, which the page fills in, so that
they follow light and dark; nothing here needs plotly to be installed."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.report.numbers import tick

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"
SYMBOLS = {"teacher": "square", "student": "circle", "baseline": "diamond"}


@dataclass(frozen=True)
class Figure:
    """A plot: its traces and layout, its height in pixels, what it shows in words (for who cannot see it), a caption.

    `square`: as high as wide. `role`: the model it belongs to, whose mark stands before the title.
    """

    key: str
    title: str
    alt: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 360
    caption: str = ""
    square: bool = False
    role: str = ""

    def spec(self) -> dict[str, Any]:
        return clean({"data": self.traces, "layout": base_layout() | self.layout})


def colour(role: Any) -> str:
    return f"var(--{role})" if role in SYMBOLS else "var(--other)"


def words(text: Any, longest: int = 60) -> str:
    """Text for Plotly, which reads some HTML in labels: escaped, and cut where it is too long."""
    given = str(text)
    return html.escape(given if len(given) <= longest else given[: longest - 1] + "\u2026", quote=False)


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13}}, "gridcolor": "var(--grid)", "linecolor": "var(--rule)",
        "tickcolor": "var(--rule)", "zeroline": False, "showline": True, "ticks": "outside", "ticklen": 4, "automargin": True,
        "separatethousands": True, **more,
    }  # fmt: skip


def base_layout() -> dict[str, Any]:
    return {
        "paper_bgcolor": "var(--paper)", "plot_bgcolor": "var(--paper)", "autosize": True,
        "font": {"family": FONT, "size": 13, "color": "var(--ink-soft)"},
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "hoverlabel": {"bgcolor": "var(--raised)", "bordercolor": "var(--rule)", "align": "left",
                       "font": {"family": FONT, "size": 13, "color": "var(--ink)"}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0, "yanchor": "bottom",
                   "bgcolor": "rgba(0,0,0,0)", "title": {"text": ""}},
        "showlegend": False,
    }  # fmt: skip


def clean(given: Any) -> Any:
    """Numbers that JSON has no word for become null; long fractions are cut to six digits."""
    if isinstance(given, Mapping):
        return {key: clean(value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [clean(value) for value in given]
    if isinstance(given, float):
        return float(f"{given:.6g}") if math.isfinite(given) else None
    return given


def log_ticks(low: float, high: float, write: Callable[[float], str]) -> dict[str, Any]:
    """Three to seven round ticks of a logarithmic axis, each written with its unit."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every, values = max(1, math.ceil((last - first) / 6)), []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        values = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
        values = [value for value in values if low * 1.04 <= value <= high / 1.08]  # labels at the ends would be cut
        if len(values) >= 3:
            break
    written = [tick(value, write) for value in values]
    return {"type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": values, "ticktext": written}
