"""How long a static student takes from nothing to its first vector, without torch, and how fast it is then.

    python benchmarks/static_start.py FOLDER [--repeats 9]

FOLDER is a run's folder, a saved static student, or one exported as static-int8. Each start is a fresh process; the median of
wall-clock times beyond `import numpy`, in turns with a process that imports NumPy alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from limbeck.machine import describe

OUT = Path(__file__).parent / "results" / "static_start.json"
LOADING = """
import time; begun = time.perf_counter()
import numpy; after = time.perf_counter()
from limbeck.export.static import load_static
model = load_static({folder!r}); loaded = time.perf_counter()
model.encode(["how a query is encoded"]); first = time.perf_counter()
print(after - begun, loaded - after, first - after)
"""


def speed(folder: str) -> float:
    """Short texts a second, in one call, one thread."""
    from limbeck.export.static import load_static

    model = load_static(folder)
    texts = [f"what is the number {place} of the things that were measured" for place in range(20_000)]
    model.encode(texts[:100])
    begun = time.process_time()
    model.encode(texts)
    return len(texts) / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    rows = []
    for _ in range(given.repeats):
        done = subprocess.run(
            [sys.executable, "-c", LOADING.format(folder=given.folder)], capture_output=True, text=True, check=True
        )
        rows.append([1000 * float(value) for value in done.stdout.split()])
    numpy, loaded, first = (statistics.median(column) for column in zip(*rows))
    found = {
        "import numpy, ms": numpy,
        "beyond it: loaded, ms": loaded,
        "first vector, ms": first,
        "texts a second": speed(given.folder),
    }
    print({name: round(value, 1) for name, value in found.items()})
    OUT.write_text(json.dumps({**found, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
