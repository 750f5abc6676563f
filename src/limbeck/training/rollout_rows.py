"""Rows of a rollout, to train on: with what is known of each answer and of each of its tokens, and given rows beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.data.base import Batch
from limbeck.data.generate import answered
from limbeck.data.language_parts import TokenRows, prompts
from limbeck.training.rollouts import Rollout, document
from limbeck.training.sources import share


class RolloutRows:
    """The rows of one step over all processes: those of a rollout, and behind them some of `beside`.

    `part`: where the prompts are. `answers`: to each prompt. A batch has `extra`: "reward" and "group" [batch], the
    rollout's values of tokens [batch, tokens] at the places of the logits that predict them, and with rows beside the
    groups "own" and "given" [batch] bool.
    """

    def __init__(self, part: TokenRows, rollout: Rollout, answers: int = 1, beside: TokenRows | None = None,
                 generator: torch.Generator | None = None):  # fmt: skip
        self.rollout, self.answers, self.own = rollout, answers, len(rollout)
        asked = prompts(part, rollout.places)
        rows = answered(asked, rollout.answers, padding=part.padding, ids=-1 - rollout.places)
        if beside is not None:
            chosen = torch.randint(len(beside), (len(rows),), generator=generator)
            made = [document(rows, n) for n in range(len(rows))] + [document(beside, n) for n in chosen.tolist()]
            ids = torch.cat([rows.ids, beside.ids[chosen]])
            rows = TokenRows(rows.name, made, ids.tolist(), ids=ids, padding=rows.padding)
        self.rows, self.mixed = rows, beside is not None

    def micro_batches(self, accumulate: int, rank: int, processes: int) -> list[Batch]:
        """This process's share of each micro-batch."""
        batches = []
        for chunk in torch.arange(len(self.rows)).tensor_split(min(accumulate, len(self.rows))):
            mine, filler = share(chunk, rank, processes)
            batch = self.rows.batch(mine)
            batch.weight = torch.zeros(1) if filler else None
            batch.extra |= self._known(batch, mine)
            batches.append(batch)
        return batches

    def _known(self, batch: Batch, mine: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {"own": mine < self.own, "given": mine >= self.own} if self.mixed else {}
        answer = mine.clamp(max=self.own - 1)  # a row beside has none, and is of another group
        if self.answers > 1:
            found["group"] = answer // self.answers
        if self.rollout.rewards is not None:
            found["reward"] = self.rollout.rewards[answer]
        sizes = batch.extra["mask"].sum(1).tolist()
        for name, values in self.rollout.tokens.items():
            chosen = [
                values[row] if row < self.own else values[0].new_zeros(size) for row, size in zip(mine.tolist(), sizes)
            ]
            found[name] = _placed(batch, chosen)
        return found


def _placed(batch: Batch, values: Sequence[Tensor]) -> Tensor:
    """Values of answers' tokens at the places [batch, tokens] of the logits that predict them, 0 elsewhere."""
    mask = batch.extra["mask"].bool()
    found = torch.zeros(mask.shape, dtype=values[0].dtype)
    found[mask] = torch.cat(list(values))
    return found
