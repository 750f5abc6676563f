"""How fast the signal store is: python benchmarks/store.py [--rows 200000]

Rows of 258 bytes, kept in two ways: 129 values in float16 (one column), and the top 64 of 1,000 logits in float16 (three
columns). Each in one shard and in many. Printed: writing (with a teacher that costs nothing, so top-k is the cost of
finding it), bytes a sample, checksums, and reading batches of 256 random samples from the page cache, beside the same
number of rows of one numpy memory map.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from limbeck.data.base import Batch, Data, TensorPart
from limbeck.signals.store import store_signals
from limbeck.tasks.classification import Classification
from limbeck.teachers.base import CallableTeacher
from limbeck.teachers.stored import StoredTeacher

BATCH = 256


def seconds(call: Callable[[], object], times: int = 300) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    torch.set_num_threads(1)
    task = Classification()
    data = Data("random", "other", {"train": TensorPart("train", torch.zeros(rows, 1))})
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randperm(rows, generator=generator)[:BATCH] for _ in range(50)]
    turn = iter(batches * 10_000)

    with tempfile.TemporaryDirectory() as folder:
        np.zeros((rows, 258), np.uint8).tofile(Path(folder) / "plain")
        plain = np.memmap(Path(folder) / "plain", np.uint8, "r", shape=(rows, 258))
        plain.sum()
        base = seconds(lambda: plain[next(turn).numpy()])
        print(f"{rows:,} rows of 258 bytes, {BATCH} at random; np.memmap alone: {base * 1e3:.3f} ms")
        heads = f"{'write MB/s':>11}{'bytes/sample':>14}{'verify GB/s':>13}{'read ms':>9}{'M rows/s':>10}"
        print(f"{'':28}{heads}{'as teacher ms':>15}")
        for kind, width, top_k in (("129 values", 129, None), ("top 64 of 1,000", 1000, 64)):
            drawn = torch.randn(BATCH, width, generator=generator) * 4
            teacher = CallableTeacher(lambda inputs, drawn=drawn: drawn[: len(inputs)])
            for shard_rows in (rows, rows // 100):
                out = Path(folder) / f"{width}-{shard_rows}"
                begun = time.perf_counter()
                store = store_signals(teacher, data, out, task=task, top_k=top_k, shard_rows=shard_rows)
                written = time.perf_counter() - begun
                size = sum(file.stat().st_size for file in out.iterdir())
                verify = seconds(lambda store=store: store.broken("full"), 5)
                read = seconds(lambda store=store: store.read(next(turn)))
                stored = StoredTeacher(store)
                replay = seconds(lambda stored=stored: stored.read(Batch(None, next(turn)), ["logits"], task))
                name = f"{kind}, {len(store.manifest.shards)} shard{'s' * (len(store.manifest.shards) > 1)}"
                print(f"{name:28}{size / written / 1e6:11.0f}{size / rows:14.1f}{size / verify / 1e9:13.1f}"
                      f"{read * 1e3:9.3f}{BATCH / read / 1e6:10.1f}{replay * 1e3:15.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
