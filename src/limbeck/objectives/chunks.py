"""Terms across tokenizers: what a student and a teacher that cut a text differently can still be compared on.

They read the two tokenizations of a batch of `TwinRows` (limbeck.data.language_twin_rows).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limbeck import functional as f
from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError, nearest
from limbeck.functional.core import UNLABELLED
from limbeck.objectives.algebra import Term
from limbeck.signals.scores import label_log_probabilities, token_values
from limbeck.signals.step import Ref, Step

DIVERGENCES = {
    "binary_kl": f.binary_kl, "binary_cross_entropy": f.binary_cross_entropy, "binary_reverse_kl": f.binary_reverse_kl,
    "rate_kl": f.rate_kl, "likelihood_gap": f.likelihood_gap,
}  # fmt: skip
TEMPERED = ("binary_kl", "binary_cross_entropy", "binary_reverse_kl")
SPANS = {"bytes": "chunk", "space": "word"}
STUDENT, TEACHER = Ref("self", "logits"), Ref("teacher", "logits")


def chunk_likelihoods(divergence: str = "binary_kl", *, temperature: float = 100.0, epsilon: float = f.EPSILON,
                      ends: str = "bytes", weigh: str = "chunks", boundary: bool = False) -> ChunkLikelihoods:  # fmt: skip
    """How far the student's log-probabilities of chunks of text are from the teacher's. See `ChunkLikelihoods`."""
    for name, value, known in (
        ("divergence", divergence, DIVERGENCES),
        ("ends", ends, SPANS),
        ("weigh", weigh, ("chunks", "tokens")),
    ):
        if value not in known:
            raise ArgumentError(f"chunk_likelihoods: {name}={value!r}.{nearest(value, known)}")
    return ChunkLikelihoods(divergence, temperature, epsilon, ends, weigh, boundary)


class ChunkLikelihoods(Term):
    """A divergence of two log-probabilities of every chunk of text, values [batch, chunks].

    A chunk's log-probability is the sum of those of its tokens. `divergence`: "binary_kl" (of `limbeck.functional`, as all of
    these), "binary_cross_entropy", "binary_reverse_kl", all three at `temperature`; "rate_kl", the limit of a high
    temperature; "likelihood_gap". `ends`: chunks are the smallest that end at the same byte on both sides ("bytes"), or
    at the same white space ("space"). A chunk with a token that a side does not predict (the first of a text, a prompt) is
    left out. `weigh`: the mean over chunks, or over the teacher's tokens ("tokens"). `boundary`: a chunk's likelihood is that
    it stands there and that white space or the end follows, so that on neither side a longer word has a part in it.

    With one tokenizer every token is a chunk. Source: ALM (Minixhofer et al., 2025).
    """

    def __init__(self, divergence: str, temperature: float, epsilon: float, ends: str, weigh: str, boundary: bool):
        super().__init__("chunk_likelihoods")
        self.options: dict[str, Any] = {"epsilon": epsilon} if divergence != "likelihood_gap" else {}
        if divergence in TEMPERED:
            self.options["temperature"] = temperature
        self.divergence, self.ends, self.weigh, self.labelled = divergence, ends, weigh, True
        self.boundary = boundary

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
        student, teacher = step.signal(STUDENT), step.signal(TEACHER)
        if "twin" not in batch.extra:
            with torch.no_grad():
                theirs = label_log_probabilities(teacher, batch.labels)
            return label_log_probabilities(student, batch.labels), theirs
        mine = self.scores(batch, student, batch.labels, "student")
        with torch.no_grad():
            return mine, self.scores(batch, teacher, batch.extra["twin"]["labels"], "teacher")

    def scores(self, batch: Batch, logits: Any, labels: Tensor, side: str) -> Tensor:
        """Log-probabilities [batch, chunks] that one side gives."""
        chunks, known = batch.extra["chunks"][side], batch.extra["chunks"]
        if self.ends == "space":
            chunks = known["words"].gather(1, chunks.clamp(min=0)).where(chunks >= 0, -1)
        count = batch.extra["populations"][SPANS[self.ends]].shape[1]
        scores = label_log_probabilities(logits, labels)
        found = f.chunk_sums(scores, chunks, count)
        if not self.boundary:
            return found
        last, _ = f.chunk_rows(scores.detach(), chunks, count, "bayesian")
        after = (last + 1).clamp(max=chunks.shape[1] - 1)  # the row that has read the chunk to its end
        text = f.chunk_sums((~known["marks"].gather(1, known[side].clamp(min=0))).to(scores), chunks, count) > 0
        wanted = torch.zeros_like(scores).scatter_reduce(1, after, text.to(scores), "amax") > 0
        opens = known["opens"][side]

        def open_mass(student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> Tensor:
            return student[:, opens].logsumexp(-1) - student.logsumexp(-1)

        return found + token_values(logits, None, None, wanted, open_mass).gather(1, after).where(text, 0)

    def population(self, step: Step, values: Tensor) -> tuple[Tensor | None, float]:
        if "twin" not in step.batch.extra:
            return super().population(step, values)
        return step.population(SPANS[self.ends] + (" token" if self.weigh == "tokens" else ""), False, self.group)

    def __str__(self) -> str:
        options = {**self.options, "ends": self.ends, "weigh": self.weigh, "boundary": self.boundary}
        usual = {"epsilon": f.EPSILON, "ends": "bytes", "weigh": "chunks", "boundary": False}
        shown = [f"{key}={value!r}" for key, value in options.items() if usual.get(key) != value]
        return f"chunk_likelihoods({', '.join([repr(self.divergence), *shown])})"


def sorted_l1_by_index(*, student_temperature: float = 1.0, teacher_temperature: float = 1.0,
                       block: int = 128) -> SortedL1ByIndex:  # fmt: skip
    """`sorted_l1` of the rows that predict an answer, the k-th of the student's with the k-th of the teacher's."""
    return SortedL1ByIndex(student_temperature, teacher_temperature, block)


def sorted_l1_of_chunks(*, merge: str = "observed", student_temperature: float = 1.0, teacher_temperature: float = 1.0,
                        block: int = 128) -> SortedL1OfChunks:  # fmt: skip
    """`sorted_l1` of the rows that predict the same chunk of text. See `SortedL1OfChunks`."""
    return SortedL1OfChunks(student_temperature, teacher_temperature, block, merge)


class SortedL1(Term):
    """What both share: pairs of rows, compared `block` at a time, so that [tokens, vocabulary] never exists."""

    def __init__(self, name: str, student_temperature: float, teacher_temperature: float, block: int):
        super().__init__(name)
        for key, value in (("student_temperature", student_temperature), ("teacher_temperature", teacher_temperature)):
            if not value > 0:
                raise ArgumentError(f"{name}: {key}={value!r}, expected a positive number.")
        self.temperatures, self.block = (student_temperature, teacher_temperature), block

    def needs(self) -> list[Ref]:
        return [STUDENT, TEACHER]

    def labels(self, step: Step) -> list[Tensor]:
        """The next tokens of both sides."""
        if step.batch.labels is None:
            raise SignalError(f"{self.name!r} needs the next tokens as labels, and this batch has none.")
        own = step.batch.labels
        return [own, step.batch.extra["twin"]["labels"] if "twin" in step.batch.extra else own]

    def compare(self, step: Step, rows: list[Tensor], masses: list[Tensor] | None = None) -> Tensor:
        """Values [pairs] of rows of the flattened logits of both sides, each perhaps multiplied by a mass [pairs]."""
        signals = step.signal(STUDENT), step.signal(TEACHER)
        splits = zip(*(part.split(self.block) for part in [*rows, *(masses or [])]))
        found = [
            checkpoint(self._compare, signals, *parts, use_reentrant=False, preserve_rng_state=False)
            for parts in splits
        ]
        return torch.cat(found)

    def _compare(self, signals: tuple[Any, Any], mine: Tensor, theirs: Tensor, *masses: Tensor) -> Tensor:
        q = f.tempered(_rows(signals[0], mine), self.temperatures[0])
        with torch.no_grad():
            p = f.tempered(_rows(signals[1], theirs), self.temperatures[1])
        if masses:
            q, p = (part * mass[:, None] for part, mass in zip((q, p), masses))
        return f.sorted_gap(q, p)

    def shown(self) -> list[str]:
        names = ("student_temperature", "teacher_temperature")
        return [f"{name}={value:g}" for name, value in zip(names, self.temperatures) if value != 1]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.shown())})"


class SortedL1ByIndex(SortedL1):
    """The mean of `sorted_l1` over the first min(n_S, n_T) labelled rows of every sample, paired by number. Values [batch].

    n_S and n_T are the numbers of tokens that student and teacher predict; what the longer side has beyond is not compared.
    Once the two have cut the text differently, paired rows predict different places of it. Source: ULD (Boizard et al.,
    2024). Not for packed rows, which hold several texts.
    """

    def __init__(self, student_temperature: float, teacher_temperature: float, block: int):
        super().__init__("sorted_l1_by_index", student_temperature, teacher_temperature, block)

    def check(self, step: Step) -> None:
        inputs = step.batch.inputs
        if isinstance(inputs, dict) and "position_ids" in inputs and "attention_mask" not in inputs:
            raise SignalError(
                f"{self.name!r} pairs the rows of a sample by their numbers, and these rows hold several texts each. Load "
                "the data with pack=False."
            )

    def values(self, step: Step) -> Tensor:
        labels = self.labels(step)
        known = [side != UNLABELLED for side in labels]
        counts = torch.minimum(*(side.sum(1) for side in known))
        # both lists have the same length and order: sample by sample, row by row
        rows = [(side & (side.cumsum(1) <= counts[:, None])).flatten().nonzero()[:, 0] for side in known]
        found = self.compare(step, rows)
        sample = rows[0] // labels[0].shape[1]
        return found.new_zeros(len(step.batch)).index_add(0, sample, found) / counts.clamp(min=1)


class SortedL1OfChunks(SortedL1):
    """`sorted_l1` of the rows that stand for each chunk that ends at the same byte on both sides. Values [batch, chunks].

    A chunk of several tokens is predicted by several rows: `merge` says which stands for it, and it is multiplied by the
    probabilities of the chunk's other tokens (`functional.chunk_rows`). Source: the alignment of GOLD (TRL, 2025), without
    its divergence on tokens that stand in both vocabularies.
    """

    def __init__(self, student_temperature: float, teacher_temperature: float, block: int, merge: str):
        super().__init__("sorted_l1_of_chunks", student_temperature, teacher_temperature, block)
        if merge not in ("observed", "bayesian"):
            raise ArgumentError(f"{self.name}: merge={merge!r}.{nearest(merge, ('observed', 'bayesian'))}")
        self.merge, self.labelled = merge, True

    def check(self, step: Step) -> None:
        if "twin" not in step.batch.extra:
            raise SignalError(
                f"{self.name!r} compares chunks of text, and student and teacher have one tokenizer, whose tokens they are. "
                "Use sorted_l1, or a divergence of whole distributions such as forward_kl."
            )

    def values(self, step: Step) -> Tensor:
        labels, batch = self.labels(step), step.batch
        worth = batch.extra["populations"]["chunk"]
        chosen = (worth > 0).flatten().nonzero()[:, 0]
        rows, masses = [], []
        for ref, side, tokens in ((STUDENT, "student", labels[0]), (TEACHER, "teacher", labels[1])):
            scores = label_log_probabilities(step.signal(ref), tokens)
            place, mass = f.chunk_rows(scores, batch.extra["chunks"][side], worth.shape[1], self.merge)
            starts = torch.arange(len(batch), device=place.device)[:, None] * tokens.shape[1]
            rows.append((place + starts).flatten()[chosen])
            masses.append(mass.flatten()[chosen].exp())
        found = self.compare(step, rows, [masses[0], masses[1].detach()])
        return found.new_zeros(worth.numel()).index_put((chosen,), found).view(worth.shape)

    def population(self, step: Step, values: Tensor) -> tuple[Tensor | None, float]:
        return step.population("chunk", False, self.group)

    def shown(self) -> list[str]:
        return super().shown() + ([f"merge={self.merge!r}"] if self.merge != "observed" else [])


def _rows(logits: Any, rows: Tensor) -> Tensor:
    """The logits [number, vocabulary] of rows of the flattened leading axes."""
    return logits.flatten(0, -2)[rows] if isinstance(logits, Tensor) else logits.block(rows)
