"""Prompts that already stand in texts, for some of them or twice: what an encoder that knows prompts reads otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KNOWN = (
    "query: ", "passage: ", "document: ", "search_query: ", "search_document: ", "clustering: ", "classification: ",
    "Represent this sentence for searching relevant passages: ", "title: none | text: ",
)  # fmt: skip


def prefix_warnings(texts: Sequence[str], prompts: Mapping[str, str]) -> list[str]:
    """What to say of texts that begin with a prompt: some of them and others not, or where `prompts` puts it there again."""
    found, total = [], len(texts)
    given = {prompt for prompt in prompts.values() if prompt}
    for prefix in dict.fromkeys([*given, *KNOWN]):
        count = sum(text.startswith(prefix) for text in texts)
        if not count:
            continue
        if prefix in given:
            found.append(
                f"{count:,} of {total:,} texts already begin with {prefix!r}, which prompts= puts before each: they have it "
                "twice. Take it off the texts."
            )
        elif count < total:
            found.append(
                f"{count:,} of {total:,} texts begin with {prefix!r} and the others do not: an encoder that knows prompts "
                "reads them otherwise. Take it off all, and give prompts= if the teacher wants it."
            )
    return found
