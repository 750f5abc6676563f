"""What the proofs of rankers share: the rows and the student of the proof of margin_mse, without or with its teacher."""

from __future__ import annotations

from typing import Any

from _embeddings import benches, encoder
from margin_mse import BUDGET, begun, rows

import limbeck as lb
from limbeck.students.encoders import static
from limbeck.students.rankers import ranker
from limbeck.tasks.ranking import order_agreement, scores_of

NOTE = (
    "Rows, teacher and student as in the proof of margin_mse: 1,398 titles of Cranfield with their text and four others, the "
    "sum of two standardised scores, a cosine of static vectors times a learnt scale; 10 epochs of 32. Without the teacher: "
    "the cross-entropy of the title's own text among the same five."
)


def worth(recipe: str, seed: int, scale: float = 1, shift: float = 0, **arguments: Any) -> tuple[float, float]:
    """nDCG@10 on Cranfield's own queries, and the share of pairs of held-out rows that are ordered as the teacher has them."""
    student = static(encoder().width, encoder().tokenizer)
    student.load_state_dict(begun())
    given = rows(seed, scale, shift)
    teacher = None if recipe in ("alone", "contrastive") else "scores"
    run = lb.distill(recipe, task="ranking", teacher=teacher, student=ranker("cosine", student, scale=20.0), test=50, length=64,
                     data=given, seed=seed, measure=False, progress=False, **BUDGET, **arguments)  # fmt: skip
    test = run.data.parts["test"]
    return scores_of(run.student, benches()[1])["ndcg@10"], order_agreement(
        run.task.scored(run.student, test), test.scores
    )
