"""From what a user has to token rows: texts, prompts with responses, chats, preferences; packed, padded or streamed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck._optional import need
from limbeck.data.base import Data, Part
from limbeck.data.language_domains import domain_sources, load_domains
from limbeck.data.language_encode import Encoder
from limbeck.data.language_pack import pack as pack_rows
from limbeck.data.language_parts import PairPart, TokenRows
from limbeck.data.language_read import Record, find_fields, read_splits
from limbeck.data.language_stream import TokenStream, read_stream, stream_files, stream_splits
from limbeck.data.language_tokens import Document, tokenizer_hash
from limbeck.data.language_twins import UNLIMITED, TwinEncoder
from limbeck.data.splits import Size, amount
from limbeck.errors import ArgumentError, DataError

LENGTH, CHUNK = 1024, 1000
ORDER = ("train", "valid", "test")


def load_language_data(spec: Any, tokenizer: Any, *, length: int | None = None, valid: Size = 0.1, test: Size = 0.0,
                       seed: int = 0, text: str | None = None, prompt: str | None = None, response: str | None = None,
                       messages: str | None = None, chosen: str | None = None, rejected: str | None = None,
                       template: str | None = None, join: str = "\n", documents: str | None = None, eos: bool = True,
                       long: str | None = None, pack: bool = True, even: bool = False, stream: bool = False,
                       buffer: int = 4096, domain: str | None = None, teacher: Any = None,
                       teacher_length: int | None = None) -> Data:  # fmt: skip
    """Token rows of a source for causal language models: a `Data` of kind "tokens" whose parts are `TokenRows`.

    `spec`: a .txt, JSONL, JSON, CSV, TSV or Parquet file; a folder of such files, named train, valid, test or all taken
    together; a list of texts, of dicts, of chats or of paths; a frame; the name or an object of the `datasets` library; a
    mapping from split to any of these. `tokenizer`: one of Transformers, or the name or folder of one.

    What the records hold is seen from their columns, or named: `text`; `prompt` and `response` (also question and answer;
    instruction, input and output); `messages` [{role, content}]; `chosen` and `rejected`, which give a `PairPart`.
    Predicted are whole texts, responses, and what the assistant says, each with the token that ends it. `template`: "chat"
    writes prompts and responses through the tokenizer's chat template (the default where it has one), "plain" with `join`
    between. `documents`: a .txt is split at "blank" lines (default), at every "line", or is one document, "file" (default
    for a folder of them). `eos=False` puts no end-of-text token behind texts and responses.

    `length`: the longest row in tokens, at most and by default what the tokenizer says, and 1,024 where it says more or
    nothing. `long`: what is done with longer samples, "split" (default for texts), cut the "end" (default for all else) or
    the "start", "drop", "error". `pack`: several documents a row, kept apart by positions that start anew; not every model
    can (`check_packing`). `even`: batches all of one width, as signal stores need. `valid`, `test`: samples cut from
    training where the source lacks these parts, by `seed`.

    `stream`: training is read from JSONL or Parquet files as it is needed, `buffer` records at a time, and is a
    `TokenStream`; `valid` and `test` are files too, or a count or share of the first `buffer` records.

    `domain`: the column that names the domain of each record; or `spec` is a mapping from domain to any of the above. Each
    domain is then split, packed and cut by itself, and may hold records of another kind (see `Data.domains`).

    `teacher`: a second tokenizer, the teacher's. Rows are then `TwinRows`, which carry both tokenizations of the same texts
    and what they share; cuts leave the same text on both sides. `teacher_length`: the longest row in its tokens, by
    default what it says.

    `about` has the columns used, statistics (samples, rows, tokens, predicted tokens, length p50, p95 and max before cuts,
    share of samples cut, padding), what was left out and why, a hash of the tokenizer, and one of the content with it.
    Raises DataError for what cannot be read or leaves nothing, ArgumentError for options that are not known.
    """
    options = {key: value for key, value in locals().items() if key not in ("spec", "tokenizer", "domain")}
    tokenizer = _tokenizer(tokenizer)
    sources = domain_sources(spec, domain, documents)
    if sources is not None:
        return load_domains(sources, tokenizer, options)
    named = {
        "text": text, "prompt": prompt, "response": response, "messages": messages, "chosen": chosen, "rejected": rejected,
    }  # fmt: skip
    encoding: dict[str, Any] = {
        "length": _length(length, tokenizer), "long": long, "template": template, "join": join, "eos": eos,
    }  # fmt: skip
    if stream:
        splits, files = stream_splits(spec, documents), stream_files(spec)
        first = list(islice(read_stream(files), buffer))
        splits["train"] = [record for record, _ in first]
        if not first:
            raise DataError(f"{_name(spec)} has no records to train on.")
    else:
        splits, files, first = read_splits(spec, documents), [], []
    fields = find_fields(_columns(splits), _name(spec), **named)
    if teacher is None:
        encoder = Encoder(tokenizer, fields, **encoding)
    else:
        teacher = _tokenizer(teacher)
        encoding["teacher_length"] = _teacher_length(teacher_length, teacher)
        encoder = TwinEncoder(tokenizer, teacher, fields, **encoding)
    builder = Builder(encoder, pack and encoder.fields.kind != "preference", even)
    numbered, made = _numbered(splits, {"test": test, "valid": valid}, seed)
    for split in [split for split in ORDER if split in numbered]:
        builder.add(split, *numbered[split])
    _warn_of_repeats(numbered, builder.warnings)
    parts: dict[str, Part] = dict(builder.parts)
    described = ""
    if stream:
        # what the other parts were cut from is left out of training, in every pass
        held = {first[number][1] for split in made for number in numbered[split][0]}
        parts["train"] = train = TokenStream(
            files, encoder, packed=builder.packed, seed=seed, buffer=buffer, without=held, even=even
        )
        described = train.describe()
        builder.statistics["train"]["of_the_first"] = len(first)  # records: the rest is not read yet
    kind = tokenizer_hash(tokenizer) + (f" {tokenizer_hash(teacher)}" if teacher is not None else "")
    about = {
        "source": _name(spec), "kind": encoder.fields.kind, "columns": dict(encoder.fields.columns), "length": encoder.length,
        "long": encoder.long, "template": ("chat" if encoder.chats else "plain") if encoder.fields.kind != "text" else None,
        "packed": builder.packed, "streamed": stream, "split": {"seed": seed, "made": made, "sizes": {
            split: len(records) for split, (_, records) in numbered.items()}},
        "statistics": builder.statistics, "left_out": builder.left_out, "warnings": builder.warnings,
        "tokenizer": kind, "content": _content(kind, builder.parts, described),
    }  # fmt: skip
    return Data(_short(spec), "tokens", parts, "none", about=about, tokenizer=tokenizer, teacher_tokenizer=teacher)


def _way_out(left_out: Mapping[str, int]) -> str:
    """What may help where nothing is left to learn, by the commonest reason."""
    reason = max(left_out, key=lambda name: left_out[name], default="")
    ways = {
        "the prompt alone": "Raise length=, or cut prompts with long='start'",
        "the response is empty": "Fill the responses, or name their column: response=",
        "nobody answers": "Expected messages with 'role' (user, assistant, ...) and 'content', some of an assistant",
    }
    return next((f" {way}." for start, way in ways.items() if reason.startswith(start)), "")


@dataclass
class Builder:
    """Parts from records, split by split, with what there is to say about them."""

    encoder: Encoder
    packed: bool
    even: bool = False
    parts: dict[str, TokenRows | PairPart] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    rows: int = 0

    def add(self, split: str, numbers: Sequence[int], records: Sequence[Record]) -> None:
        """Make a part. Raises DataError where no sample has anything to predict."""
        documents, owners, sizes, cut = [], [], [], 0
        left_out: Counter[str] = Counter()
        for start in range(0, len(records), CHUNK):
            chunk = slice(start, start + CHUNK)
            names = [f"The sample {number}" for number in numbers[chunk]]
            for number, one in zip(numbers[chunk], self.encoder(records[chunk], names)):
                left_out[one.left_out] += bool(one.left_out)
                cut += one.cut
                documents += one.documents
                owners += [number] * len(one.documents)
                sizes += [one.size] * bool(one.size)
        left_out = +left_out
        why = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common())
        if not documents:
            nothing = f"None of the {len(records)} samples of {split!r} has anything to predict: {why}."
            raise DataError(nothing + _way_out(left_out))
        if left_out:
            self.warnings.append(f"{left_out.total()} of {len(records)} samples of {split!r} were left out: {why}.")
        if cut:
            self.warnings.append(
                f"{cut} of {len(records)} samples of {split!r} had more than {self.encoder.length} tokens: their "
                f"{self.encoder.long} was cut off."
            )
        self.left_out[split] = dict(left_out)
        part = self._part(split, documents, owners)
        self.parts[split] = part
        rows = part.rows if isinstance(part, PairPart) else part
        places = len(rows) * rows.width
        self.statistics[split] = {
            "samples": len(records) - left_out.total(), "rows": len(rows), "documents": len(documents),
            "tokens": len(rows.tokens), "predicted": int(rows.counts.sum()),
            "length": {name: int(np.quantile(sizes, share)) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1))},
            "cut": cut / len(records), "padding": 1 - len(rows.tokens) / places,
        }  # fmt: skip

    def _part(self, split: str, documents: list[Document], owners: list[int]) -> TokenRows | PairPart:
        sizes = [len(document) for document in documents]
        packed = pack_rows(sizes, self.encoder.length) if self.packed else None
        ids = torch.tensor(self._ids(owners) if packed is None else range(self.rows, self.rows + len(packed)))
        self.rows += len(ids)
        part = self.encoder.part(split, documents, owners, ids=ids, rows=packed, packed=self.packed, even=self.even)
        return PairPart(part) if self.encoder.fields.kind == "preference" else part

    def _ids(self, owners: list[int]) -> list[int]:
        """Ids of unpacked rows: the sample's number, with the number of the piece below where samples may have several."""
        if self.encoder.fields.kind == "preference":
            return [2 * owner + place % 2 for place, owner in enumerate(owners)]
        if self.encoder.long != "split":
            return owners
        seen: Counter[int] = Counter()
        ids = []
        for owner in owners:
            ids.append(owner << 20 | seen[owner])
            seen[owner] += 1
        return ids


def _numbered(splits: dict[str, list[Record]], sizes: dict[str, Size], seed: int) -> tuple[
        dict[str, tuple[list[int], list[Record]]], dict[str, int]]:  # fmt: skip
    """Samples by split with their numbers in the source; the parts that it lacks are cut from training."""
    found: dict[str, tuple[list[int], list[Record]]] = {}
    start = 0
    for split in [split for split in ORDER if split in splits]:
        found[split] = list(range(start, start + len(splits[split]))), splits[split]
        start += len(splits[split])
    made: dict[str, int] = {}
    total = start
    for split, size in sizes.items():
        if split in found or not size:
            continue
        numbers, records = found["train"]
        try:
            made[split] = count = amount(size, total, split)
        except DataError as error:
            raise DataError(
                f"{error} Say {split}=0 for none, or give both: {{'train': ..., {split!r}: ...}}."
            ) from error
        if count >= len(records):
            raise DataError(f"{split}={size!r}: training has {len(records)} samples, too few to cut {count} from.")
        off = set(random.Random(f"{seed} {split}").sample(range(len(records)), count))
        for name, places in ((split, sorted(off)), ("train", [n for n in range(len(records)) if n not in off])):
            found[name] = [numbers[n] for n in places], [records[n] for n in places]
    return found, made


def _warn_of_repeats(numbered: dict[str, tuple[list[int], list[Record]]], warnings: list[str]) -> None:
    """Samples of valid and test that stand in training too make a student look better than it is."""
    known = {hash(repr(record)) for record in numbered.get("train", ([], []))[1]} if len(numbered) > 1 else set()
    for split in ("valid", "test"):
        again = sum(hash(repr(record)) in known for record in numbered.get(split, ([], []))[1])
        if again:
            warnings.append(f"{again} of {len(numbered[split][1])} samples of {split!r} stand in training too.")


def _content(tokenizer: str, parts: dict[str, TokenRows | PairPart], more: str) -> str:
    digest = hashlib.sha256(f"{tokenizer};{more}".encode())
    for name in sorted(parts):
        part = parts[name]
        rows = part.rows if isinstance(part, PairPart) else part
        digest.update(f"{name}:{rows.packed}".encode())
        for tensor in (rows.ids, rows.tokens, rows.counts, rows.starts, rows.firsts):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _columns(splits: dict[str, list[Record]]) -> list[str]:
    # a record may lack what others have
    return list(dict.fromkeys(key for records in splits.values() for record in records[:1000] for key in record))


def _tokenizer(tokenizer: Any) -> Any:
    if isinstance(tokenizer, str | Path):
        return need("transformers", "language").AutoTokenizer.from_pretrained(tokenizer)
    if not callable(tokenizer):
        raise ArgumentError(
            f"tokenizer={tokenizer!r}: expected a Transformers tokenizer, or the name or folder of one."
        )
    return tokenizer


def _length(length: int | None, tokenizer: Any) -> int:
    limit = getattr(tokenizer, "model_max_length", 10**30)
    if length is not None and limit < 10**9 and length > limit:
        raise ArgumentError(f"length={length}: the tokenizer's model takes {limit} tokens. Say length={limit} or less.")
    return int(min(limit, LENGTH)) if length is None else length


def _teacher_length(length: int | None, tokenizer: Any) -> int:
    """A teacher reads as much as it can: it is not trained, and its tokens may be many to one of the student's."""
    limit = int(min(getattr(tokenizer, "model_max_length", UNLIMITED), UNLIMITED))
    return _length(length, tokenizer) if length is not None else limit


def _name(spec: Any) -> str:
    return str(spec) if isinstance(spec, str | Path) else f"<{type(spec).__name__}>"


def _short(spec: Any) -> str:
    return Path(spec).stem if isinstance(spec, str | Path) else type(spec).__name__.lower()


__all__ = ["load_language_data"]
