"""`limbeck demo`: the main job on real input, in a situation in which distillation honestly pays.

Someone has a good teacher (trained on labels that they no longer have), 100 labelled images, and a thousand unlabelled
ones. The student learns from the teacher on all of them; the baseline is the same student, with the same number of
updates, on the 100 labels. (On *all* labels of digits a tuned small network does not gain from a teacher.)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

SETTING: dict[str, Any] = {"student": "mlp:32", "labelled": 100, "steps": 1500, "batch_size": 64, "learning_rate": 3e-3}


def teach(out: Path, seed: int = 0) -> Path:
    """Train the demo's teacher, a small convolutional network, on all training labels of digits; returns its folder."""
    from limbeck.api import distill

    run = distill(
        "alone", student="cnn(width=32, depth=3)", data="digits", out=out, overwrite=True, steps=700, batch_size=64,
        learning_rate=3e-3, seed=seed, measure=False,
    )  # fmt: skip
    return run.path / "student"  # type: ignore[union-attr, operator]


def demo(out: str | Path = "runs/demo", seeds: int = 5) -> None:
    """Train teacher, students and baselines; print the table; leave student, ONNX file and report in `out`."""
    import torch
    from rich.console import Console

    from limbeck.api import distill

    begun, out, console = time.perf_counter(), Path(out), Console()
    torch.set_num_threads(1)  # the models are small: a second thread costs more than it gives
    console.print("[bold]Limbeck demo[/]: handwritten digits (8 x 8 pixels), bundled with scikit-learn.")
    console.print("1. A teacher: a convolutional network, trained on all labels.")
    teacher = teach(out.with_name(out.name + "-teacher"))
    console.print(
        "2. Now those labels are gone but for 100. The student, a network of one hidden layer, learns from the teacher on all\n"
        f"   training images; the baseline is the same student, as many updates, on the 100 labels. {seeds} seeds."
    )
    run = distill(
        "kd", teacher=str(teacher), data="digits", out=out, seeds=seeds, baseline="alone", overwrite=True,
        export=["onnx"], **SETTING,
    )  # fmt: skip
    run.show()  # type: ignore[union-attr]
    console.print(f"\nStudent, ONNX file and report are in {out}/ ({time.perf_counter() - begun:.0f} s in all).")
    console.print(f"Open {out}/report.html in a browser. Next: limbeck distill --help")
