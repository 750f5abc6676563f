"""How long `import limbeck` and `limbeck --help` take: fresh processes, beside an empty one.

    python benchmarks/startup.py

Goals: import at most 0.1 s, --help at most 0.4 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from limbeck.machine import describe

COMMANDS = {
    "python": ["-c", "pass"],
    "import limbeck": ["-c", "import limbeck"],
    "limbeck --help": ["-m", "limbeck", "--help"],
    "limbeck distill --help": ["-m", "limbeck", "distill", "--help"],
    "limbeck recipes": ["-m", "limbeck", "recipes"],
}


def seconds(words: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main(repeats: int = 7) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):  # interleaved; the first round fills the caches
        for name, words in COMMANDS.items():
            times[name].append(seconds(words))
    found = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, value in found.items():
        print(f"{name:24} {value * 1000:7.0f} ms   {max(0.0, value - found['python']) * 1000:7.0f} ms beyond Python")
    out = Path(__file__).parent / "results" / "startup.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"median_seconds": found, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
