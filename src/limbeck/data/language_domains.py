"""Data of several domains: each tokenized and split by itself, then joined, so that every row belongs to one domain."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from limbeck.data.base import Data, Part
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_read import Record, read_splits
from limbeck.data.raw import SPLITS
from limbeck.errors import ArgumentError, DataError, LimbeckError, nearest

SHIFT = 48  # ids of rows and numbers of samples are their domain's own, with the number of the domain above these bits


def is_mapping_of_domains(spec: Any) -> bool:
    """Whether a source is a mapping from domains to sources: two or more names, none that of a part (train, valid, test)."""
    return isinstance(spec, Mapping) and len(spec) > 1 and not any(str(name) in SPLITS for name in spec)


def domain_sources(spec: Any, column: str | None, documents: str | None = None) -> dict[str, Any] | None:
    """The sources of the domains by name; None where the data say nothing of domains.

    A mapping from domain to source, or records whose `column` names their domain. Raises DataError for a record without one.
    """
    if is_mapping_of_domains(spec):
        if column is not None:
            raise ArgumentError(
                f"domain={column!r}: the data are already given by domain, {', '.join(map(str, spec))}."
            )
        return {str(name): source for name, source in spec.items()}
    if column is None:
        return None
    found: dict[str, dict[str, list[Record]]] = {}
    for split, records in read_splits(spec, documents).items():
        for number, record in enumerate(records):
            name = record.get(column)
            if name is None or name != name or not str(name).strip():
                raise DataError(
                    f"The record {number} of {split!r} has no {column!r} (domain=).{nearest(column, map(str, record))}"
                )
            rest = {key: value for key, value in record.items() if key != column}
            found.setdefault(str(name), {}).setdefault(split, []).append(rest)
    return {name: found[name] for name in sorted(found)}


def load_domains(sources: Mapping[str, Any], tokenizer: Any, options: dict[str, Any]) -> Data:
    """`load_language_data` of every source, joined: parts know their rows' domain, `Data.domains` has the names."""
    from limbeck.data.language import load_language_data

    if options.get("stream"):
        raise ArgumentError("Domains are mixed by rows, and a stream has none to ask for: say stream=False.")
    if options.get("teacher") is not None:
        raise ArgumentError(
            "Domains cannot be mixed yet where student and teacher have different tokenizers. Give the texts as one source, or "
            "a student that has the teacher's tokenizer."
        )
    if len(sources) < 2:
        raise DataError(f"The data have one domain, {', '.join(sources)}: there is nothing to mix.")
    loaded = {}
    for name, source in sources.items():
        try:
            loaded[name] = load_language_data(source, tokenizer, **options)
        except LimbeckError as error:
            raise type(error)(f"The domain {name!r}: {error}") from error
    parts: dict[str, Part] = {
        split: joined(
            {name: data.parts[split] for name, data in loaded.items() if split in data.parts}, list(loaded), split
        )
        for split in ("train", "valid", "test")
        if any(split in data.parts for data in loaded.values())
    }
    about = {name: data.about for name, data in loaded.items()}
    hashes = ";".join(f"{name}={found['content']}" for name, found in about.items())
    first = next(iter(about.values()))
    shared = {key: first[key] for key in ("length", "packed", "streamed", "tokenizer")}
    return Data(
        "+".join(sources), "tokens", parts, "none", domains=list(loaded), tokenizer=next(iter(loaded.values())).tokenizer,
        about={"source": {name: found["source"] for name, found in about.items()}, **shared, "domains": about,
               "warnings": [f"{name}: {text}" for name, found in about.items() for text in found["warnings"]],
               "content": hashlib.sha256(hashes.encode()).hexdigest()},
    )  # fmt: skip


def joined(parts: Mapping[str, Part], domains: Sequence[str], name: str) -> TokenRows:
    """The rows of parts of several domains as one part; `domains` are all names, in the order of their numbers."""
    found: list[tuple[int, TokenRows]] = []
    for domain, part in parts.items():
        if not isinstance(part, TokenRows):
            raise ArgumentError(
                f"The domain {domain!r} holds preferences. Domains are mixed of texts, answers and chats."
            )
        found.append((domains.index(domain), part))
    numbers, rows = [number for number, _ in found], [part for _, part in found]
    if len({(part.packed, part.even, part.padding) for part in rows}) > 1:
        raise ArgumentError("Domains must be packed alike: say pack=True or pack=False for all of them.")
    whole = copy.copy(rows[0])
    whole.name = name
    for field in ("tokens", "counts", "prompts", "sizes"):
        setattr(whole, field, torch.cat([getattr(part, field) for part in rows]))
    for field in ("ids", "samples"):
        setattr(whole, field, torch.cat([getattr(part, field) | number << SHIFT for number, part in found]))
    for field in ("starts", "firsts"):  # running numbers: each part's go on from the last one's end
        ends = torch.tensor([0, *(int(getattr(part, field)[-1]) for part in rows)]).cumsum(0)
        pieces = [getattr(part, field)[:-1] + end for part, end in zip(rows, ends)]
        setattr(whole, field, torch.cat([*pieces, ends[-1:]]))
    whole.width = max(part.width for part in rows)
    whole.domain = torch.tensor(numbers).repeat_interleave(torch.tensor([len(part) for part in rows]))
    return whole
