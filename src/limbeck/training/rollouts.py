"""What was written in one step, the same on every process; and rows of it that a step can be trained on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.base import Part
from limbeck.data.generate import Answers
from limbeck.data.language_parts import PairPart, TokenRows
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError, DataError


@dataclass
class Rollout:
    """Answers to documents' prompts, and what is known of them. Rows are those of the whole step, over all processes.

    `places` [rows]: documents of the part. `rewards` [rows] float, where there is a checker. `tokens`: by name, a list of
    one tensor for each row with a value for each token of its answer ("old": log-probabilities of the student that wrote).
    """

    places: Tensor
    answers: Answers
    rewards: Tensor | None = None
    tokens: dict[str, list[Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answers)

    def select(self, rows: Tensor) -> Rollout:
        chosen = rows.tolist()
        return Rollout(
            self.places[rows], self.answers.select(rows), None if self.rewards is None else self.rewards[rows],
            {name: [values[row] for row in chosen] for name, values in self.tokens.items()},
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Rollout]) -> Rollout:
        """One behind the other; rewards and values of tokens where all have them."""
        answers = Answers(
            [row for part in parts for row in part.answers.tokens], torch.cat([part.answers.finished for part in parts])
        )
        given = [part.rewards for part in parts if part.rewards is not None]
        names = set.intersection(*(set(part.tokens) for part in parts)) if parts else set()
        tokens = {name: [values for part in parts for values in part.tokens[name]] for name in sorted(names)}
        rewards = torch.cat(given) if len(given) == len(parts) else None
        return cls(torch.cat([part.places for part in parts]), answers, rewards, tokens)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, for a checkpoint."""
        flat = [row.int() for row in self.answers.tokens]
        return {
            "places": self.places, "tokens": torch.cat(flat) if flat else torch.zeros(0, dtype=torch.int32),
            "sizes": self.answers.sizes, "finished": self.answers.finished, "rewards": self.rewards,
            "values": {name: torch.cat(values) for name, values in self.tokens.items() if values},
        }  # fmt: skip

    @classmethod
    def of(cls, state: dict[str, Any]) -> Rollout:
        """What `state_dict` gave."""
        sizes = state["sizes"].tolist()
        answers = Answers([row.long().cpu() for row in state["tokens"].split(sizes)], state["finished"].cpu())
        rewards = None if state["rewards"] is None else state["rewards"].cpu()
        values = {name: [row.cpu() for row in flat.split(sizes)] for name, flat in state["values"].items()}
        return cls(state["places"].cpu(), answers, rewards, values)


def exchanged(mine: Rollout, rank: int, processes: int) -> Rollout:
    """The rollout of all processes from their parts, of which row i belongs to process i modulo `processes`."""
    if processes == 1:
        return mine
    found: list[Any] = [None] * processes
    torch.distributed.all_gather_object(found, mine.state_dict() | {"names": sorted(mine.tokens)})
    whole = Rollout.joined([_named(state) for state in found])
    sizes = [len(state["sizes"]) for state in found]
    starts = np.r_[0, np.cumsum(sizes)]
    order = [int(starts[row % processes]) + row // processes for row in range(sum(sizes))]
    return whole.select(torch.tensor(order, dtype=torch.int64))


def _named(state: dict[str, Any]) -> Rollout:
    """A part, which may have no rows and must still say which values its rows would have."""
    found = Rollout.of(state)
    found.tokens = {name: found.tokens.get(name, []) for name in state["names"]}
    if not len(found.answers.tokens):
        found.answers = Answers([], torch.zeros(0, dtype=torch.bool))
    return found


def documents(part: Part, start: int | None = None, whole: bool = False) -> TokenRows:
    """A part with one document for each row, all of them with a prompt (or a beginning of `start` tokens to be continued).

    `whole`: all documents, with a prompt or not. Raises ArgumentError for another part than one of token rows, DataError
    where no document has a prompt.
    """
    rows = part.rows if isinstance(part, PairPart) else part
    if not isinstance(rows, TokenRows):
        raise ArgumentError(
            f"The part {part.name!r} is a {type(part).__name__}, which has no prompts to answer. Expected prompts and "
            "responses or chats, loaded by load_language_data and not streamed."
        )
    sizes = rows.starts[1:] - rows.starts[:-1]
    prompt = rows.prompts if start is None else rows.prompts.where(rows.prompts > 0, start)
    usable = torch.arange(len(sizes)) if whole else ((prompt > 0) & (prompt < sizes)).nonzero()[:, 0]
    if not len(usable):
        raise DataError(
            f"No document of {part.name!r} has a prompt to answer. Load prompts and responses or chats, or say how many "
            "first tokens of a text are to be continued (start=)."
        )
    if len(usable) < len(sizes):
        made = [document(rows, number, start) for number in usable.tolist()]
        return TokenRows(rows.name, made, rows.samples[usable].tolist(), ids=-1 - usable, padding=rows.padding)
    if len(rows) == len(sizes) and not rows.even and start is None:
        return rows
    found = copy.copy(rows)
    found.packed = found.even = False
    found.firsts, found.sizes, found.prompts = torch.arange(len(sizes) + 1), sizes, prompt
    found.ids, found.width = (
        -1 - usable,
        int(sizes.max()),
    )  # no ids of the part's own rows, which hold several documents
    return found


def document(rows: TokenRows, number: int, start: int | None = None) -> Document:
    """A document of a part, as it was made."""
    return Document.of(rows.document(number).numpy(), rows.predicted(number), int(rows.prompts[number]) or start or 0)


def log_probabilities(model: Any, task: Any, rows: TokenRows, batch_size: int = 32) -> list[Tensor]:
    """log p of every predicted token, one tensor for each row: by one forward pass, in eval mode, without gradient."""
    from limbeck.evaluation.modes import device_of, evaluating
    from limbeck.signals.scores import label_log_probabilities

    found: list[Tensor] = []
    module = isinstance(model, nn.Module)
    place = device_of(model if module else next(iter(model.modules()), None))
    for start in range(0, len(rows), batch_size):
        batch = rows.batch(torch.arange(start, min(start + batch_size, len(rows)))).to(place)
        labels, mask = batch.labels, batch.extra["mask"]
        assert labels is not None
        with torch.no_grad(), evaluating(model):  # of a teacher that is no module: it is always at rest
            signals = (
                task.signals(task.forward(model, task.view(batch, model, "student"))) if module
                else model.read(batch, ["logits"], task)
            )  # fmt: skip
            values = label_log_probabilities(signals["logits"], labels, mask)
        found += [row[kept].cpu() for row, kept in zip(values, mask.bool())]
    return found
