"""Sentences of an answer, as teacher and student see them: how likely each is, and whose it is."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import ArgumentError

STUDENT, SHARED, TEACHER = -1, 0, 1


def sentence_probabilities(log_probabilities: Tensor, sentence: Tensor) -> Tensor:
    """The geometric mean of the probabilities of each sentence's tokens: [sentences].

    log_probabilities [tokens] in nats; sentence [tokens] int64: the number of each token's sentence, 0 to sentences - 1,
    each with a token. Source: DASD (Yan et al., 2026).
    """
    if log_probabilities.shape != sentence.shape or sentence.ndim != 1:
        raise ArgumentError(
            f"log_probabilities {list(log_probabilities.shape)}, sentence {list(sentence.shape)}: expected [tokens] twice."
        )
    counts = torch.bincount(sentence)
    sums = log_probabilities.new_zeros(len(counts)).index_add(0, sentence, log_probabilities)
    return (sums / counts).exp()


def sentence_kinds(teacher: Tensor, student: Tensor, *, threshold: float = 0.1) -> Tensor:
    """Whose each sentence is, [sentences] int64: 1 the teacher's, -1 the student's, 0 shared.

    teacher, student [sentences]: `sentence_probabilities` under the two. A sentence is the teacher's where its probability
    under the teacher is above the student's by more than the threshold, the student's where it is so far below it. Source:
    DASD (Yan et al., 2026); the threshold is not published, 0.1 is ours.
    """
    if not 0 <= threshold < 1:
        raise ArgumentError(f"threshold={threshold!r}: expected a difference of probabilities, from 0 to 1.")
    gap = teacher - student
    return (gap > threshold).long() - (gap < -threshold).long()


def teacher_share(kinds: Tensor) -> float:
    """The share of sentences that are the teacher's, of kinds [sentences]; 0 where there is none."""
    return float((kinds == TEACHER).double().mean()) if len(kinds) else 0.0
