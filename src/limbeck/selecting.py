"""Which samples of a pool to have labelled next, by what a model says of them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.describe import run_config
from limbeck.disk import write_text
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.functional.pool import margin_gain, prediction_entropy
from limbeck.given import DATA_OPTIONS, load_given
from limbeck.signals.step import derive

Record = dict[str, Any]


@dataclass
class Selection:
    """What `select` chose: a line for each sample, in the order in which it was chosen.

    `rows`: its place in the pool's file, from 0 (`row`), its `id`, the class that the model takes it for (`prediction`) with
    its `probability`, and how unsure it is (`entropy` in nats, `gap` 1 - first + second probability).
    """

    rows: list[Record]
    pool: int
    known: int
    selector: str

    def show(self) -> None:
        """Print them."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("row", "prediction", "probability", "entropy"):
            table.add_column(name, justify="left" if name == "prediction" else "right")
        for row in self.rows[:20]:
            table.add_row(
                f"{row['row']:,}", str(row["prediction"]), f"{row['probability']:.3f}", f"{row['entropy']:.3f}"
            )
        console = Console()
        console.print(table)
        more = f" The first 20 of {len(self.rows):,} are shown." if len(self.rows) > 20 else ""
        console.print(
            f"{len(self.rows):,} of {self.pool:,} samples without a label, by {self.selector}; {self.known:,} have one.{more}"
        )

    def save(self, path: str | Path) -> Path:
        """Write them as CSV."""
        out = io.StringIO()
        write = csv.DictWriter(out, list(self.rows[0]) if self.rows else ["row"], lineterminator="\n")
        write.writeheader()
        write.writerows(self.rows)
        write_text(Path(path), out.getvalue())
        return Path(path)


def select(selector: Any = "margin", *, model: Any, data: Any = None, count: int = 100, wrong: float = 0.0,
           out: str | Path | None = None, seed: int | None = None, **options: Any) -> Selection:  # fmt: skip
    """Choose `count` samples without a label to have labelled (or answered by a teacher that costs) next.

    `selector`: "margin", "entropy", "core_set", "badge", "pcoreset", "rad", "random", or a function from a
    `limbeck.training.selectors.Pool` and a number to places. `model`: a classifier, such as a run's folder. `data`: as in
    `distill`, with the pool beside it as `unlabelled=`, or in it with labels of -100 (of a run's folder its own data and their
    options, where none are given); what has a label is known, which is what
    "core_set" and "pcoreset" cover from. `wrong`: for "rad", the share of answers that will be false. `out`: a CSV for what was
    chosen. Other options are those of the data.

    Raises DataError where every sample has a label, ModelError for a model that is no classifier of these classes.
    """
    from torch import nn

    from limbeck.teachers.base import ModuleTeacher
    from limbeck.training.asking import last_inputs
    from limbeck.training.inside import signals_of_train
    from limbeck.training.job import Job
    from limbeck.training.selectors import Pool, choose, selector_of

    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"count={count!r}: expected how many samples to choose, 1 or more.")
    if not 0 <= wrong < 1:
        raise ArgumentError(f"wrong={wrong!r}: expected a share of the answers, from 0 to below 1.")
    selector_of(selector)
    is_run = isinstance(model, str | Path) and (Path(model) / "config.yaml").is_file()
    config = run_config(model) if is_run else {}  # tables are scaled as they were in training
    data, seed = data if data is not None else config.get("data"), config.get("seed", 0) if seed is None else seed
    if data is None:
        raise ArgumentError("Give data=: what has labels, with the pool as unlabelled=FILE.")
    known_options = {key: config[key] for key in DATA_OPTIONS if key in config} if config else {"valid": 0, "test": 0}
    options = {**known_options, **options}
    given = load_given(data, model, role="student", seed=seed, **options)
    module, train = given.model, given.data.train
    if given.task.name != "classification" or not isinstance(module, nn.Module):
        raise ModelError(
            f"Selectors look at a classifier's probabilities; this is a {type(module).__name__} for {given.task.name}."
        )
    given.task.check(given.data, {"model": module})
    known = train.is_labelled()
    left = (~known).nonzero()[:, 0]
    if not len(left):
        raise DataError(
            f"Every sample of {given.data.name!r} has a label: there is nothing to choose from. Give the pool as "
            "unlabelled=FILE, or with labels of -100."
        )
    job = Job(given.task, given.data, module)
    features = last_inputs(job)
    said = signals_of_train(job, ModuleTeacher(module), ["logits", features])
    probabilities, inner = said["logits"].softmax(-1), said[features]
    draw = torch.Generator().manual_seed(derive(seed, "select") % 2**62)
    pool = Pool(probabilities[left], inner[left], probabilities[known], inner[known], draw, wrong * len(left))
    chosen = left[choose(selector, pool, count)]
    entropy, gap = prediction_entropy(probabilities), margin_gain(probabilities)
    best, of = probabilities.max(-1)
    classes = given.data.classes or [str(number) for number in range(probabilities.shape[1])]
    # ids count the rows of data= and then those of unlabelled=, in the order of the files
    before = int(train.ids[left].min()) if options.get("unlabelled") is not None else 0
    rows = [{"row": int(train.ids[place]) - before, "id": int(train.ids[place]), "prediction": classes[int(of[place])],
             "probability": round(float(best[place]), 6), "entropy": round(float(entropy[place]), 6),
             "gap": round(float(gap[place]), 6)} for place in chosen.tolist()]  # fmt: skip
    found = Selection(rows, len(left), int(known.sum()), selector if isinstance(selector, str) else selector.__name__)
    if out is not None:
        found.save(out)
    return found
