"""What vectors are worth: similarity of pairs, retrieval of judged documents, and how near they are to the teacher's.

Symmetric scores have queries and documents of one model. Asymmetric ones have queries of the student and documents of the
teacher: what holds where an index stays as it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from limbeck._optional import need
from limbeck.data.base import Part
from limbeck.data.splits import spread, take
from limbeck.data.texts import Pairs, Retrieval, text_part
from limbeck.data.translations import TranslatedPart
from limbeck.evaluation.vector_forms import Form, forms, rotation
from limbeck.machine import fast_bf16
from limbeck.teachers.base import ModuleTeacher, Teacher

if TYPE_CHECKING:
    from limbeck.tasks.base import Task

Vectors = np.ndarray  # [texts, width] float32
AT_ONCE = 512
MOST = 1000  # texts of a part by which a student is compared with its teacher
_kept: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[int, Vectors]]] = weakref.WeakKeyDictionary()


def vectors(task: Task, model: Any, part: Part) -> Vectors:
    """The vectors of a part's texts by a module or teacher, [texts, width]. Those of an unchanged module are kept."""
    module = model.module if isinstance(model, ModuleTeacher) else model
    if not isinstance(module, nn.Module):
        return _read(task, model, part)
    state = tuple((p.data_ptr(), p._version) for p in module.parameters())
    known = _kept.get(module)
    if known is None or known[0] != state:
        known = _kept[module] = (state, {})
    key = hash(tuple(part.ids.tolist()))
    if key not in known[1]:
        known[1][key] = _read(task, ModuleTeacher(module), part)
    return known[1][key]


def _read(task: Task, model: Teacher, part: Part) -> Vectors:
    device = next((p.device for module in model.modules() for p in module.parameters()), torch.device("cpu"))
    found = []
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        for positions in torch.arange(len(part)).split(AT_ONCE):
            with torch.no_grad():
                read = model.read(part.batch(positions).to(device), ["embedding"], task)["embedding"]
            found.append(read.float().cpu().numpy())
    return np.concatenate(found)


def measure(task: Any, model: Any, part: Part, teacher: Any = None) -> dict[str, Any]:
    """Scores on the benches of the data, and beside a teacher: asymmetric ones, cosine and neighbours shared on a part.

    Where the task says `forms`, the main scores again of vectors made smaller: "ndcg@10, signs" (`vector_forms`).
    """
    task, part = task.whole(), take(part, spread(len(part), MOST), part.name)
    scores: dict[str, float] = {}
    agreement: dict[str, float] = {}
    smaller: dict[str, Form] = {}
    if task.forms:  # teacher and student are turned alike
        smaller = forms(rotation(vectors(task, model if teacher is None else teacher, part)))
    for name, bench in task.benches.items():
        several = len(task.benches) > 1
        found = _bench(task, bench, model, teacher, smaller)
        scores |= {f"{name}: {key}" if several else key: value for key, value in found.items()}
    if teacher is not None:
        own, theirs = vectors(task, model, part), vectors(task, teacher, part)
        agreement = {"cosine": cosine(own, theirs)} if own.shape[1] == theirs.shape[1] else {}  # else of other spaces
        agreement["neighbours"] = shared_neighbours(own, theirs)
        if isinstance(part, TranslatedPart) and own.shape[1] == theirs.shape[1]:
            agreement |= _across(vectors(task, model, text_part("translations", part.translations)), theirs, part)
    return {"scores": scores, "agreement": agreement, "reliability": []}


def _across(own: Vectors, theirs: Vectors, part: TranslatedPart) -> dict[str, float]:
    """How a student's vectors of translations lie to the teacher's of the texts: their cosine, and how often the nearest of
    all texts of the part is a translation's own."""
    found = (unit(own) @ unit(theirs).T).argmax(1)
    own_text = [part.texts[place] == text for place, text in zip(found.tolist(), part.texts)]
    return {"cosine_of_translations": cosine(own, theirs), "translations_found": float(np.mean(own_text))}


def _bench(task: Any, bench: Any, model: Any, teacher: Any, smaller: Mapping[str, Form]) -> dict[str, float]:
    if isinstance(bench, Pairs):
        sides = [vectors(task, model, text_part("", task.queries(side))) for side in (bench.first, bench.second)]

        def scores(form: Form) -> dict[str, float]:
            return {"spearman": spearman(pair_cosines(*map(form, sides)), bench.similarity)}
    else:
        queries, documents = _texts(task, bench)
        mine, own = (vectors(task, model, part) for part in (queries, documents))
        theirs = None if teacher is None else vectors(task, teacher, documents)
        theirs = None if theirs is None or theirs.shape[1] != mine.shape[1] else theirs

        def scores(form: Form) -> dict[str, float]:
            found = retrieve(bench, form(mine), form(own))
            if theirs is not None:
                found |= {
                    f"{name} asymmetric": value for name, value in retrieve(bench, form(mine), form(theirs)).items()
                }
            return found

    found = scores(lambda rows: rows)
    for name, form in smaller.items():
        if name != "as they are":
            found |= {
                f"{key}, {name}": value for key, value in scores(form).items() if key.startswith(("spearman", "ndcg"))
            }
    return found


def _texts(task: Any, bench: Retrieval) -> tuple[Part, Part]:
    return (text_part("queries", task.queries(list(bench.queries.values()))),
            text_part("documents", task.documents(list(bench.documents.values()))))  # fmt: skip


# of vectors alone -----------------------------------------------------------------------------------------------------


def unit(rows: Vectors) -> Vectors:
    """Rows of length 1; rows of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def pair_cosines(first: Vectors, second: Vectors) -> np.ndarray:
    """The cosine of each pair, [pairs]; products before lengths, so that equal whole numbers (signs, bytes) give equal ones."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(lengths, 1e-12)


def cosine(own: Vectors, theirs: Vectors) -> float:
    """The mean cosine of vectors to those of the same texts by the teacher."""
    return float(pair_cosines(own, theirs).mean())


def spearman(found: np.ndarray, wanted: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one of them is constant."""
    from scipy.stats import spearmanr

    return float(spearmanr(found, wanted).statistic)


def shared_neighbours(own: Vectors, theirs: Vectors, k: int = 10) -> float:
    """The share of each text's k nearest texts, by cosine, that both spaces agree on."""
    k = min(k, len(own) - 1)
    if k < 1:
        return 1.0
    near = []
    for rows in (unit(own), unit(theirs)):
        likeness = rows @ rows.T
        np.fill_diagonal(likeness, -np.inf)
        near.append(np.argpartition(-likeness, k - 1, axis=1)[:, :k])
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*near)]))


def retrieve(bench: Retrieval, queries: Vectors, documents: Vectors) -> dict[str, float]:
    """Scores of a ranking of all documents by cosine. See `ranking_scores`."""
    return ranking_scores(bench, unit(queries) @ unit(documents).T)


def ranking_scores(bench: Retrieval, likeness: np.ndarray, depth: int = 1000) -> dict[str, float]:
    """nDCG@10 (graded, linear gain), Recall@100 and MRR of scores [queries, documents], through ir-measures."""
    measures = need("ir_measures", "embeddings")
    names = list(bench.documents)
    depth = min(depth, len(names))
    run = {}
    for query, row in zip(bench.queries, likeness):
        best = np.argpartition(-row, depth - 1)[:depth]
        run[query] = {names[place]: float(row[place]) for place in best}
    wanted = {"ndcg@10": measures.nDCG @ 10, "recall@100": measures.R @ 100, "mrr": measures.RR}
    found = measures.calc_aggregate(list(wanted.values()), bench.judgements, run)
    return {name: float(found[value]) for name, value in wanted.items()}


def standardized(likeness: np.ndarray) -> np.ndarray:
    """Scores [queries, documents] with mean 0 and deviation 1 for each query: so that those of several models can be added."""
    centred = likeness - likeness.mean(1, keepdims=True)
    return centred / np.maximum(likeness.std(1, keepdims=True), 1e-12)


def bm25(bench: Retrieval, k1: float = 1.2, b: float = 0.75) -> np.ndarray:
    """BM25 scores of all documents for each query, [queries, documents]. See `bm25_of`."""
    return bm25_of(list(bench.documents.values()), k1, b)(list(bench.queries.values()))


def bm25_of(documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from queries to their BM25 scores of these documents, [queries, documents], through bm25s."""
    library = need("bm25s", "embeddings")
    index = library.BM25(k1=k1, b=b)
    index.index(library.tokenize(list(documents), show_progress=False), show_progress=False)

    def scores(queries: Sequence[str]) -> np.ndarray:
        tokens = library.tokenize(list(queries), return_ids=False, show_progress=False)
        return np.stack([index.get_scores(words) if words else np.zeros(len(documents)) for words in tokens])

    return scores


__all__: Sequence[str] = [
    "bm25",
    "bm25_of",
    "cosine",
    "measure",
    "ranking_scores",
    "retrieve",
    "standardized",
    "vectors",
]
