"""HTML built from functions. Text is escaped unless it is `Html` already, so that a class called <script> is a word."""

from __future__ import annotations

import html
import re
from typing import Any

_VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Html(str):
    """A piece of markup, as against text."""


def text(given: Any) -> Html:
    """Text made safe. The space before a unit never breaks."""
    if isinstance(given, Html):
        return given
    return Html(re.sub(r"(?<=\d) (?=(%|points|ms|[kMGTP]?B|s|min)\b|%|±)", "\u00a0", html.escape(str(given))))


def exact(given: Any) -> Html:
    """Text made safe and otherwise left as it is: code."""
    return Html(html.escape(str(given)))


def tag(name: str, /, *content: Any, **attributes: Any) -> Html:
    """An element. None in content is left out; attributes: `class_`, `aria_label` -> `aria-label`; True is bare, None and
    False are left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: Any) -> Html:
    """Pieces one after another; lists are taken apart, None is left out."""
    return Html(
        "".join(
            join(*piece) if isinstance(piece, list | tuple) else text(piece) for piece in content if piece is not None
        )
    )


def scroll(label: str, *content: Any) -> Html:
    """A box of its own that scrolls sideways where the window is narrow, by keyboard too."""
    return tag("div", *content, class_="scroll", tabindex="0", role="region", aria_label=label)


def section(key: str, title: str, *content: Any) -> Html | None:
    """A section with its heading, or None when nothing is in it."""
    kept = [piece for piece in content if piece]
    return (
        tag("section", tag("h2", title, id=f"{key}-title"), *kept, id=key, aria_labelledby=f"{key}-title")
        if kept
        else None
    )


def grid(label: str, heads: list[Any], rows: list[list[Any]], words: tuple[int, ...] = ()) -> Html | None:
    """A plain table; the first cell of each row is its heading; columns in `words` hold text. None without rows."""
    if not rows:
        return None
    kinds = ["words" if place in words else None for place in range(len(heads))]
    head = tag("tr", [tag("th", cell, scope="col", class_=kind) for cell, kind in zip(heads, kinds)])
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:])],
        )
        for row in rows
    ]
    return scroll(label, tag("table", tag("thead", head), tag("tbody", body)))


def facts(pairs: list[tuple[Any, Any]]) -> Html | None:
    """Names and values as a list of definitions. None without any."""
    kept = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    if not kept:
        return None
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in kept], class_="facts")


def code(label: str, written: str, *, shell: bool = False, folded: bool = False) -> Html:
    """Code with a button that copies it. A `shell` line may be broken between options, and nowhere else; `folded` hides
    the code behind its label."""
    pieces = re.split(r" (?=--?[a-zA-Z])", written) if shell else [written]
    shown = Html(" ".join(tag("span", exact(piece)) for piece in pieces)) if shell else exact(written)
    button = tag("button", "Copy", type="button", class_="copy", aria_label=f"Copy: {label}")
    block = tag(
        "pre", tag("code", shown, class_="shell" if shell else None), tabindex="0", role="region", aria_label=label
    )
    if folded:
        return tag("details", tag("summary", label), tag("div", tag("p", button), block, class_="code"))
    return tag("div", tag("p", label, button), block, class_="code")
