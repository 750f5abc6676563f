"""The frontier of throughput against quality: what else can stand between a table of words and its teacher.

    python benchmarks/frontier.py [--cases "the table" "with pairs" ...]

The bench of the proof of leaf, one seed. Throughput is texts a second of processor time, one thread, tokenizing included, in
turns with the teacher's. Needs the shared data folder and the extra `embeddings`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "proofs"))
OUT = HERE / "results" / "frontier.json"

import _embeddings as bench  # noqa: E402
import torch  # noqa: E402

import limbeck as lb  # noqa: E402
from limbeck.evaluation.embeddings import fast_bf16  # noqa: E402


def spans(texts: list[str], each: int = 1, shortest: int = 3, longest: int = 12) -> list[str]:
    """Runs of words out of texts, as short as queries are."""
    draw, found = random.Random(0), []
    for text in texts:
        words = text.split()
        for _ in range(each if len(words) > shortest else 0):
            size = draw.randint(shortest, min(longest, len(words)))
            begin = draw.randint(0, len(words) - size)
            found.append(" ".join(words[begin : begin + size]))
    return list(dict.fromkeys(found))


def leaf(student: Any = "static", more: int = 0, **options: Any) -> Any:
    texts = bench.texts() + (spans(bench.texts(), more) if more else [])
    return lb.distill("leaf", teacher=bench.encoder(), student=student, data=texts, task="embedding", length=64, test=0,
                      store=bench.STORE, measure=False, progress=False, **options).student  # fmt: skip


CASES: dict[str, Callable[[], Any]] = {
    "the table": leaf,
    "rows of 128": lambda: leaf("static:128"),
    "with pairs": lambda: leaf("static(pairs=65536)"),
    "ten epochs": lambda: leaf(epochs=10),
    "with spans of its texts": lambda: leaf(more=1),
    "with spans, ten epochs": lambda: leaf(more=1, epochs=10),
    "with spans and pairs, ten epochs": lambda: leaf("static(pairs=65536)", more=1, epochs=10),
    "one layer of the teacher": lambda: leaf("shrink(depth=1)", epochs=1, batch_size=64, precision="bf16"),
    "two layers, the first and the last": lambda: leaf("shrink(depth=2)", epochs=1, batch_size=64, precision="bf16"),
    "three layers": lambda: leaf("shrink(depth=3)", epochs=1, batch_size=64, precision="bf16"),
}


def per_second(model: Any, turn: int) -> float:
    """Texts a second of processor time: the queries and 1,000 sentences of STS-B, none in a memory of tokenized texts."""
    pairs, cranfield = bench.benches()
    some = [text + " " * turn for text in (*cranfield.queries.values(), *pairs.first[:1000])]
    begun = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(torch.device("cpu"))):
        model.encode(some)
    return len(some) / (time.process_time() - begun)


def measured(name: str) -> dict[str, Any]:
    begun = time.process_time()
    model = CASES[name]()
    seconds = time.process_time() - begun
    ratio = statistics.median(per_second(model, turn) / per_second(bench.encoder(), turn) for turn in (1, 2, 3))
    theirs = bench.sides(bench.encoder())
    found = bench.scores(bench.sides(model), theirs)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    return {"case": name, "throughput": round(ratio, 1), "parameters": numbers, "seconds": round(seconds, 1),
            **{key: round(value, 4) for key, value in found.items()}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    given = parser.parse_args()
    from limbeck.machine import describe

    theirs = bench.sides(bench.encoder())
    teacher = {key: round(value, 4) for key, value in bench.scores(theirs, theirs).items()}
    rows = {row["case"]: row for row in json.loads(OUT.read_text())["rows"]} if OUT.exists() else {}
    for name in given.cases:
        rows[name] = measured(name)
        print(rows[name], flush=True)
        kept = [rows[each] for each in CASES if each in rows]
        OUT.write_text(json.dumps({"teacher": teacher, "rows": kept, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
