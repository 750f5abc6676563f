"""A static student without torch: NumPy, the library tokenizers, and the folder that the run left.

    from limbeck.export.static import load_static
    model = load_static("runs/q/student")
    model.encode(["a text", "another"])            # [texts, width] float32

The table is mapped, not read: what a query costs at the start is the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import ArgumentError, ModelError
from limbeck.students.encoder_grams import read_tokens

WEIGHTS, CONFIG, TOKENS = "model.safetensors", "config.json", "tokenizer"
BUILDER = "limbeck.students.encoders:static_encoder"
TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "BF16": np.uint16}  # the upper half of a float32
AT_ONCE = 512


def load_static(folder: str | Path) -> StaticModel:
    """A static student from the folder of a saved one, or of one exported in bytes ("static-int8").

    Raises ModelError for a folder that holds something else.
    """
    folder = Path(folder)
    if (folder / "student" / CONFIG).is_file():
        folder = folder / "student"
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no saved student: {error}") from error
    if config.get("builder") != BUILDER:
        raise ModelError(
            f"{folder} holds a {config.get('builder') or config.get('class') or 'model of another kind'}; without torch only "
            "static students are read (student=static)."
        )
    model = StaticModel(mapped(folder / WEIGHTS), config["arguments"], folder / TOKENS)
    model.limbeck_teacher, model.prompts = config.get("teacher"), config.get("prompts")
    return model


def mapped(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped into memory: only what is used is read."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if 8 + length > file.stat().st_size:
                raise ValueError("it is no safetensors file, or was cut")
            header = json.loads(opened.read(length))
        whole = np.memmap(file, dtype=np.uint8, mode="r", offset=8 + length)
        return {
            name: whole[slice(*about["data_offsets"])].view(TYPES[about["dtype"]]).reshape(about["shape"])
            for name, about in header.items() if name != "__metadata__"
        }  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def floats(values: np.ndarray) -> np.ndarray:
    """What was read, as float32."""
    if values.dtype == TYPES["BF16"]:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


class StaticModel:
    """What `load_static` gives. `width`: of the vectors. `limbeck_teacher`: the hash of the teacher, for an index.

    `prompts`: what it learnt to see before a "query" and a "document", where it did: for `encode(prompt=)`.
    """

    limbeck_teacher: str | None = None
    prompts: dict[str, str] | None = None

    def __init__(self, arrays: dict[str, np.ndarray], arguments: dict[str, Any], tokens: Path):
        self.arrays, self.arguments, self.tokens = arrays, arguments, tokens
        self.vocabulary, self.pairs, self.width = arguments["vocabulary"], arguments["pairs"], arguments["outputs"]
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = read_tokens(self.tokens)
        return self._tokenizer

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> np.ndarray:
        """The vectors of texts, [texts, width] float32. `prompt` is put before each."""
        if isinstance(texts, str):
            raise ArgumentError("encode takes a list of texts, not one text: encode([text]).")
        found = np.empty((len(texts), self.width), dtype=np.float32)
        for begin in range(0, len(texts), AT_ONCE):
            some = [prompt + text for text in texts[begin : begin + AT_ONCE]]
            found[begin : begin + len(some)] = self._vectors(some)
        return found

    def _vectors(self, texts: list[str]) -> np.ndarray:
        rows = self.tokenizer(texts)["input_ids"]
        total, count = self._sums("table", rows)
        if self.pairs:
            more, pairs = self._sums("pair_table", list(self._pair_rows(rows)))
            total, count = total + more, count + pairs
        vectors = total / count[:, None]
        if "projection.weight" in self.arrays:
            weight, bias = (floats(self.arrays[f"projection.{name}"]) for name in ("weight", "bias"))
            vectors = vectors @ weight.T + bias
        if self.arguments["normalize"]:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _pair_rows(self, rows: list[list[int]]) -> Iterator[list[int]]:
        for row in rows:  # as StaticEncoder.pair_rows has it
            yield [(a * 1_000_003 + b * 7_919) % self.pairs for a, b in pairwise(row)]

    def _sums(self, name: str, rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the rows of each text, [texts, width], and their number."""
        table, scale = self.arrays[f"{name}.weight"], self.arrays.get(f"{name}.scale")
        count = np.array([len(row) for row in rows])
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(count.sum()))
        total = np.zeros((len(rows), table.shape[1]), dtype=np.float32)
        if len(ids):
            picked = floats(table[ids])
            if scale is not None:
                picked *= scale[ids, None]
            some = np.flatnonzero(count)  # reduceat would give a text without rows the next one's
            total[some] = np.add.reduceat(picked, (count.cumsum() - count)[some], axis=0, dtype=np.float32)
        return total, count
