"""Terms across tokenizers: what a student and a teacher that cut a text differently can still be compared on.

They read the two tokenizations of a batch of `TwinRows` (limbeck.data.language_twin_rows).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck import functional as f
from limbeck.errors import ArgumentError, SignalError, nearest
from limbeck.functional.core import UNLABELLED
from limbeck.objectives.algebra import Term
from limbeck.signals.lazy import Lazy
from limbeck.signals.scores import label_log_probabilities
from limbeck.signals.step import Ref, Step

DIVERGENCES = {
    "binary_kl": f.binary_kl, "binary_cross_entropy": f.binary_cross_entropy, "binary_reverse_kl": f.binary_reverse_kl,
    "rate_kl": f.rate_kl, "likelihood_gap": f.likelihood_gap,
}  # fmt: skip
TEMPERED = ("binary_kl", "binary_cross_entropy", "binary_reverse_kl")
SPANS = {"bytes": "chunk", "space": "word"}
STUDENT, TEACHER = Ref("self", "logits"), Ref("teacher", "logits")


def chunk_likelihoods(divergence: str = "binary_kl", *, temperature: float = 100.0, epsilon: float = f.EPSILON,
                      ends: str = "bytes", weigh: str = "chunks") -> ChunkLikelihoods:  # fmt: skip
    """How far the student's log-probabilities of chunks of text are from the teacher's. See `ChunkLikelihoods`."""
    for name, value, known in (
        ("divergence", divergence, DIVERGENCES),
        ("ends", ends, SPANS),
        ("weigh", weigh, ("chunks", "tokens")),
    ):
        if value not in known:
            raise ArgumentError(f"chunk_likelihoods: {name}={value!r}.{nearest(value, known)}")
    return ChunkLikelihoods(divergence, temperature, epsilon, ends, weigh)


class ChunkLikelihoods(Term):
    """A divergence of two log-probabilities of every chunk of text, values [batch, chunks].

    A chunk's log-probability is the sum of those of its tokens. `divergence`: "binary_kl" (of `limbeck.functional`, as all of
    these), "binary_cross_entropy", "binary_reverse_kl", all three at `temperature`; "rate_kl", the limit of a high
    temperature; "likelihood_gap". `ends`: chunks are the smallest that end at the same byte on both sides ("bytes"), or
    at the same white space ("space"). A chunk with a token that a side does not predict (the first of a text, a prompt) is
    left out. `weigh`: the mean over chunks, or over the teacher's tokens ("tokens").

    With one tokenizer every token is a chunk. Source: ALM (Minixhofer et al., 2025).
    """

    def __init__(self, divergence: str, temperature: float, epsilon: float, ends: str, weigh: str):
        super().__init__("chunk_likelihoods")
        self.options: dict[str, Any] = {"epsilon": epsilon} if divergence != "likelihood_gap" else {}
        if divergence in TEMPERED:
            self.options["temperature"] = temperature
        self.divergence, self.ends, self.weigh, self.labelled = divergence, ends, weigh, True

    def needs(self) -> list[Ref]:
        return [STUDENT, TEACHER]

    def values(self, step: Step) -> Tensor:
        student, teacher = self.likelihoods(step)
        return DIVERGENCES[self.divergence](student, teacher, **self.options, reduction="none")

    def likelihoods(self, step: Step) -> tuple[Tensor, Tensor]:
        """Log-probabilities [batch, chunks] of the student and of the teacher, who gets no gradient."""
        batch = step.batch
        if batch.labels is None:
            raise SignalError(f"{self.name!r} needs the next tokens as labels, and this batch has none.")
        mine = label_log_probabilities(step.signal(STUDENT), batch.labels)
        other = batch.extra["twin"]["labels"] if "twin" in batch.extra else batch.labels
        with torch.no_grad():
            theirs = label_log_probabilities(step.signal(TEACHER), other)
        if "twin" not in batch.extra:
            return mine, theirs
        places, words = (batch.extra["chunks"][side] for side in ("student", "teacher")), batch.extra["chunks"]["words"]
        chunks = list(places)
        if self.ends == "space":
            chunks = [words.gather(1, place.clamp(min=0)).where(place >= 0, -1) for place in chunks]
        count = batch.extra["populations"][SPANS[self.ends]].shape[1]
        return f.chunk_sums(mine, chunks[0], count), f.chunk_sums(theirs, chunks[1], count)

    def population(self, step: Step, values: Tensor) -> tuple[Tensor | None, float]:
        if "twin" not in step.batch.extra:
            return super().population(step, values)
        return step.population(SPANS[self.ends] + (" token" if self.weigh == "tokens" else ""), False, self.group)

    def __str__(self) -> str:
        options = {**self.options, "ends": self.ends, "weigh": self.weigh}
        usual = {"epsilon": f.EPSILON, "ends": "bytes", "weigh": "chunks"}
        shown = [f"{key}={value!r}" for key, value in options.items() if usual.get(key) != value]
        return f"chunk_likelihoods({', '.join([repr(self.divergence), *shown])})"


def sorted_l1_by_index(*, student_temperature: float = 1.0, teacher_temperature: float = 1.0,
                       block: int = 128) -> SortedL1ByIndex:  # fmt: skip
    """`sorted_l1` of the rows that predict an answer, the k-th of the student's with the k-th of the teacher's."""
    return SortedL1ByIndex(student_temperature, teacher_temperature, block)


class SortedL1ByIndex(Term):
    """The mean of `sorted_l1` over the first min(n_S, n_T) labelled rows of every sample, paired by number. Values [batch].

    n_S and n_T are the numbers of tokens that student and teacher predict; what the longer side has beyond is not compared.
    Once the two have cut the text differently, paired rows predict different places of it. Probabilities exist for
    `block` rows at a time. Source: ULD (Boizard et al., 2024). Not for packed rows, which hold several texts.
    """

    def __init__(self, student_temperature: float, teacher_temperature: float, block: int):
        super().__init__("sorted_l1_by_index")
        self.options: dict[str, Any] = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
        }
        self.block = block

    def needs(self) -> list[Ref]:
        return [STUDENT, TEACHER]

    def check(self, step: Step) -> None:
        inputs = step.batch.inputs
        if isinstance(inputs, dict) and "position_ids" in inputs and "attention_mask" not in inputs:
            raise SignalError(
                f"{self.name!r} pairs the rows of a sample by their numbers, and these rows hold several texts each. Load "
                "the data with pack=False."
            )

    def values(self, step: Step) -> Tensor:
        batch, student, teacher = step.batch, step.signal(STUDENT), step.signal(TEACHER)
        if batch.labels is None:
            raise SignalError(f"{self.name!r} needs the next tokens as labels, and this batch has none.")
        known = [batch.labels != UNLABELLED]
        known.append(batch.extra["twin"]["labels"] != UNLABELLED if "twin" in batch.extra else known[0])
        counts = torch.minimum(*(side.sum(1) for side in known))
        # both lists have the same length and order: sample by sample, row by row
        mine, theirs = ((side & (side.cumsum(1) <= counts[:, None])).flatten().nonzero()[:, 0] for side in known)
        values = [
            checkpoint(self._compare, student, teacher, *rows, use_reentrant=False, preserve_rng_state=False)
            for rows in zip(mine.split(self.block), theirs.split(self.block))
        ]
        sample = mine // batch.labels.shape[1]
        found = torch.cat(values)
        return found.new_zeros(len(batch)).index_add(0, sample, found) / counts.clamp(min=1)

    def _compare(self, student: Lazy | Tensor, teacher: Lazy | Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            target = _rows(teacher, theirs)
        return f.sorted_l1(_rows(student, mine), target, **self.options, reduction="none")

    def __str__(self) -> str:
        shown = [f"{key}={value:g}" for key, value in self.options.items() if value != 1]
        return f"sorted_l1_by_index({', '.join(shown)})"


def _rows(logits: Lazy | Tensor, rows: Tensor) -> Tensor:
    """The logits [number, vocabulary] of rows of the flattened leading axes."""
    return logits.block(rows) if isinstance(logits, Lazy) else logits.flatten(0, -2)[rows]
