"""An encoder of texts distilled end to end, cold, beside sentence-transformers' own distillation and model2vec.

    python benchmarks/embeddings.py [--cases leaf "sentence-transformers, MSE" model2vec]

The bench of the proof of leaf: its 37,515 texts, its teacher; all cases make a static student of the same word pieces,
each in a fresh process with one thread; processor time. Needs the shared data folder and the extra `embeddings`; model2vec only
where it is installed (its extra `distill`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "proofs"))
OUT = HERE / "results" / "embeddings.json"


class Clock:
    """Processor seconds since the last look."""

    def __init__(self) -> None:
        self.before = time.process_time()

    def __call__(self) -> float:
        now, self.before = time.process_time(), self.before
        seconds, self.before = now - self.before, now
        return round(seconds, 1)


def leaf() -> tuple[dict[str, float], Any]:
    """The recipe: tokens through the teacher, texts through the teacher, five passes."""
    import _embeddings as bench

    import limbeck as lb
    from limbeck.teachers.once import run_once, token_vectors_once

    found: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*args, **options)
            finally:
                found[name] = round(time.process_time() - begun, 1)

        return call

    import limbeck.teachers.once as once

    once.run_once, once.token_vectors_once = timed("texts", run_once), timed("tokens", token_vectors_once)
    teacher, clock = bench.encoder(), Clock()
    run = lb.distill("leaf", teacher=teacher, student="static", data=bench.texts(), task="embedding", length=64, test=0,
                     measure=False, progress=False)  # fmt: skip
    total = clock()
    return {"total": total, **found, "training": round(total - found["texts"] - found["tokens"], 1)}, run.student


def sentence_transformers() -> tuple[dict[str, float], Any]:
    """Its documented way: vectors of the teacher as labels, MSELoss, its trainer; a static embedding at random, at the rate its
    documentation gives for those."""
    import _embeddings as bench
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MSELoss
    from sentence_transformers.models import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    texts, path = bench.texts(), bench.teacher_path()
    teacher, clock = SentenceTransformer(str(path), device="cpu"), Clock()
    teacher.max_seq_length = 64
    vectors = teacher.encode(texts, batch_size=32, show_progress_bar=False)
    passed = clock()
    static = StaticEmbedding(Tokenizer.from_file(str(path / "tokenizer.json")), embedding_dim=vectors.shape[1])
    student = SentenceTransformer(modules=[static, Normalize()], device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=5, per_device_train_batch_size=256, learning_rate=2e-1, report_to="none", use_cpu=True,
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        data = Dataset.from_dict({"sentence": texts, "label": vectors})
        SentenceTransformerTrainer(model=student, args=arguments, train_dataset=data, loss=MSELoss(student)).train()
    trained = clock()
    return {"total": round(passed + trained, 1), "texts": passed, "training": trained}, student


def model2vec() -> tuple[dict[str, float], Any]:
    """Tokens through the teacher and a PCA to 256 numbers, its defaults; no texts."""
    import _embeddings as bench
    from model2vec.distill import distill

    clock = Clock()
    model = distill(model_name=str(bench.teacher_path()))
    total = clock()
    return {"total": total, "tokens": total}, model


CASES = {"leaf": leaf, "sentence-transformers, MSE": sentence_transformers, "model2vec": model2vec}


def measured(name: str) -> dict[str, Any]:
    """Times, and what the student is worth."""
    import _embeddings as bench

    from limbeck.evaluation.embeddings import pair_cosines, retrieve, spearman

    seconds, model = CASES[name]()
    pairs, cranfield = bench.benches()
    options = {} if name == "leaf" else {"show_progress_bar": False}
    first, second, queries, documents = (
        model.encode(list(side), **options)
        for side in (pairs.first, pairs.second, cranfield.queries.values(), cranfield.documents.values())
    )
    found = {"sts": spearman(pair_cosines(first, second), pairs.similarity)}
    found["ndcg"] = retrieve(cranfield, queries, documents)["ndcg@10"]
    theirs = bench.sides(bench.encoder())["documents"]
    if theirs.shape[1] == queries.shape[1]:
        found["asymmetric"] = retrieve(cranfield, queries, theirs)["ndcg@10"]
    return {"case": name, "seconds": seconds, **{key: round(value, 4) for key, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measured(given.only)))
        return
    from limbeck.machine import describe

    rows = []
    for name in given.cases:
        done = subprocess.run([sys.executable, __file__, "--only", name], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: not measured: {done.stderr.strip().splitlines()[-1]}")
            continue
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(rows[-1])
    OUT.write_text(json.dumps({"rows": rows, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
