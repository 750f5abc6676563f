"""Parts made of documents: packed or padded rows of token ids, preference pairs, and prompts to generate from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.base import Batch, Inputs, Part
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError, DataError
from limbeck.functional.core import UNLABELLED


class TokenRows(Part):
    """Rows of one document each, padded on the right; or, `packed`, of several documents that do not see each other.

    A batch has `input_ids` [batch, tokens] int64 and, packed, `position_ids` that start anew with every document (there
    must be no mask and no cache then, see `check_packing`), otherwise `attention_mask`. Labels [batch, tokens] are the next
    tokens, -100 where none is to be predicted: in a prompt, at the end of a document, in padding. `extra["mask"]` says
    which positions are labelled. Padded batches are as wide as their longest row, packed ones and those that are `even` as the
    longest of the part, which a signal store needs; `width` sets that width.

    `rows`: for every row the numbers of its documents. `samples` [documents]: the sample that each comes from. `ids`
    [rows]: one for each row. Held flat: 5 bytes a token.
    """

    def __init__(self, name: str, documents: Sequence[Document], samples: Sequence[int], *, ids: Tensor, padding: int,
                 rows: Sequence[Sequence[int]] | None = None, packed: bool = False, even: bool = False,
                 width: int | None = None):  # fmt: skip
        self.name, self.padding, self.packed, self.even, self.ids = name, padding, packed, even or packed, ids
        rows = [[number] for number in range(len(documents))] if rows is None else rows
        order = [number for row in rows for number in row]
        found = [documents[number] for number in order]
        self.tokens = torch.from_numpy(_joined([document.tokens for document in found], np.int32))
        # whether the token after this one is to be predicted: never at the end of a document
        self.counts = torch.from_numpy(_joined([np.r_[d.predict[1:], False] for d in found], np.bool_))
        self.starts = _running([len(document) for document in found])  # of documents, [documents + 1]
        self.firsts = _running([len(row) for row in rows])  # documents of rows, [rows + 1]
        self.prompts = torch.tensor([document.prompt for document in found], dtype=torch.int64)
        self.samples = torch.tensor([samples[number] for number in order], dtype=torch.int64)
        self.sizes = self.starts[self.firsts[1:]] - self.starts[self.firsts[:-1]]  # tokens of rows, [rows]
        self.width = width or int(self.sizes.max())
        self._given: tuple[Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.firsts) - 1

    @property
    def order(self) -> str:  # type: ignore[override]
        return "any" if self.even else "length"

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """[rows, width] int64, made when it is asked for."""
        return (
            self._labels(*self._place(torch.arange(len(self)), self.width)) if self._given is None else self._given[0]
        )

    @labels.setter
    def labels(self, labels: Tensor | None) -> None:
        self._given = (labels,)

    def is_labelled(self) -> Tensor:
        """Which rows have a token to predict, [rows] bool."""
        labels = self.labels if self._given is not None else None
        if self._given is None:
            return torch.ones(len(self), dtype=torch.bool)  # a document without one is no document
        return torch.zeros(len(self), dtype=torch.bool) if labels is None else (labels != UNLABELLED).any(1)

    def kinds(self) -> set[str]:
        return super().kinds() | ({"prompts"} if bool((self.prompts > 0).any()) else set())

    def gather(self, positions: Tensor) -> Inputs:
        return self._inputs(*self._place(positions, self.width))

    def extra(self, positions: Tensor) -> dict[str, Any]:
        index, inside = self._place(positions, self.width)
        return {"mask": self.counts[index] & inside}

    def batch(self, positions: Tensor | Sequence[int], generator: torch.Generator | None = None, *,
              view: Tensor | None = None) -> Batch:  # fmt: skip
        positions = torch.as_tensor(positions, dtype=torch.int64)
        width = self.width if self.even else int(self.sizes[positions].max())
        index, inside = self._place(positions, width)
        if self._given is None:
            labels: Tensor | None = self._labels(index, inside)
        else:
            labels = None if self._given[0] is None else self._given[0][positions][:, :width]
        extra = {"mask": self.counts[index] & inside}
        return Batch(self._inputs(index, inside), self.ids[positions], labels, view=view, extra=extra)

    def _place(self, positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Where the tokens of rows lie, [batch, width], and which of these places are theirs."""
        begin = self.starts[self.firsts[positions]][:, None]
        columns = torch.arange(width)
        inside = columns < self.sizes[positions][:, None]
        return (begin + columns).where(inside, begin), inside

    def _inputs(self, index: Tensor, inside: Tensor) -> Inputs:
        tokens = self.tokens[index].long().where(inside, self.padding)
        if not self.packed:
            return {"input_ids": tokens, "attention_mask": inside.long()}
        document = torch.searchsorted(self.starts, index, right=True) - 1
        # padding is a document of its own
        filling = torch.arange(index.shape[1]) - inside.sum(1, keepdim=True)
        return {"input_ids": tokens, "position_ids": (index - self.starts[document]).where(inside, filling)}

    def _labels(self, index: Tensor, inside: Tensor) -> Tensor:
        after = self.tokens[(index + 1).clamp(max=len(self.tokens) - 1)].long()
        return after.where(self.counts[index] & inside, UNLABELLED)

    def document(self, number: int) -> Tensor:
        """The token ids of a document, [tokens] int64."""
        return self.tokens[self.starts[number] : self.starts[number + 1]].long()

    def predicted(self, number: int) -> np.ndarray:
        """Which tokens of a document are to be predicted, [tokens] bool."""
        return np.r_[False, self.counts[self.starts[number] : self.starts[number + 1]][:-1].numpy()]


class PairPart(Part):
    """Preference pairs: of every pair the chosen and the rejected answer to one prompt.

    A batch of n pairs has 2 n rows as `TokenRows` gives them: row 2 i is chosen, row 2 i + 1 rejected, with ids of their own.
    `extra["chosen"]` and `extra["rejected"]` [2 n] bool say which, `extra["pair"]` [2 n] int64 to which pair a row belongs,
    `extra["mask"]` which positions are labelled: those of the answers. `labels` are [pairs, 2, width].
    """

    def __init__(self, rows: TokenRows):
        self.rows, self.name, self.tokenizations = rows, rows.name, rows.tokenizations
        self.ids = rows.ids[::2] // 2

    def __len__(self) -> int:
        return len(self.rows) // 2

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        labels = self.rows.labels
        return None if labels is None else labels.reshape(len(self), 2, -1)

    def is_labelled(self) -> Tensor:
        return torch.ones(len(self), dtype=torch.bool)

    def kinds(self) -> set[str]:
        return {"labels", "preferences"} | (self.rows.kinds() & {"prompts"})

    def chosen(self) -> TokenRows:
        """The chosen answers alone, one a row: what plain objectives learn from."""
        return some_rows(self.rows, range(0, len(self.rows), 2))

    def both(self, positions: Tensor) -> Tensor:
        """The rows of pairs, [2 n]."""
        return torch.stack([2 * positions, 2 * positions + 1], 1).flatten()

    def gather(self, positions: Tensor) -> Inputs:
        return self.rows.gather(self.both(positions))

    def extra(self, positions: Tensor) -> dict[str, Any]:
        return {**self.rows.extra(self.both(positions)), **self._pairing(positions)}

    def batch(self, positions: Tensor | Sequence[int], generator: torch.Generator | None = None, *,
              view: Tensor | None = None) -> Batch:  # fmt: skip
        positions = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.rows.batch(self.both(positions))
        batch.extra |= self._pairing(positions)
        return batch

    def _pairing(self, positions: Tensor) -> dict[str, Tensor]:
        rows = self.both(positions)
        chosen = rows % 2 == 0
        return {"chosen": chosen, "rejected": ~chosen, "pair": self.ids[positions].repeat_interleave(2)}


def some_rows(rows: TokenRows, numbers: Sequence[int]) -> TokenRows:
    """Some documents of token rows that are not packed, with their ids, one a row."""
    if rows.packed:
        raise ArgumentError(f"The part {rows.name!r} is packed: its documents have no rows of their own.")
    documents = [
        Document.of(rows.document(number).numpy(), rows.predicted(number), int(rows.prompts[number]))
        for number in numbers
    ]
    chosen = torch.as_tensor(list(numbers))
    return TokenRows(rows.name, documents, rows.samples[chosen].tolist(), ids=rows.ids[chosen], padding=rows.padding,
                     even=rows.even)  # fmt: skip


def prompts(part: Part, documents: Tensor | Sequence[int], start: int | None = None) -> Batch:
    """The prompts of documents of a part, alone, to generate from: what an answer saw in training, token by token.

    Inputs `input_ids`, `attention_mask`, `position_ids` [batch, tokens] int64 are padded on the left, as `generate` wants
    them; `ids` are those of the samples, `extra["prompt"]` [batch] the lengths of the prompts. `documents` are numbers up
    to `len(part.prompts)`: rows where nothing is packed; of pairs, row 2 i and 2 i + 1 have the same prompt. Texts have no
    prompt: `start` is how many of their first tokens to take. Raises DataError for documents without a prompt, and
    ArgumentError for another part.
    """
    rows = part.rows if isinstance(part, PairPart) else part
    if not isinstance(rows, TokenRows):
        raise ArgumentError(f"The part {part.name!r} is a {type(part).__name__}. Expected one of load_language_data.")
    chosen = torch.as_tensor(documents, dtype=torch.int64)
    ends = rows.starts[1:] - rows.starts[:-1]
    sizes = rows.prompts[chosen]
    if start is not None:
        sizes = sizes.where(sizes > 0, ends[chosen].clamp(max=start))
    if not bool((sizes > 0).all()):
        raise DataError(
            f"{int((sizes <= 0).sum())} of {len(chosen)} documents of {part.name!r} have no prompt. Load prompts and "
            "responses or chats, or say start=, the number of first tokens that are to be continued."
        )
    width = int(sizes.max())
    columns = torch.arange(width)
    inside = columns >= width - sizes[:, None]
    index = (rows.starts[chosen][:, None] + columns - (width - sizes[:, None])).where(inside, 0)
    mask = inside.long()
    inputs = {
        "input_ids": rows.tokens[index].long().where(inside, rows.padding), "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }  # fmt: skip
    return Batch(inputs, rows.samples[chosen], extra={"prompt": sizes})


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype=dtype)


def _running(sizes: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.r_[0, np.cumsum(np.asarray(sizes, dtype=np.int64))])
