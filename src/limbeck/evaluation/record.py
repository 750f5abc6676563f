"""What a report says of one model: scores over seeds, agreement with the teacher, cost, reliability."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.data.base import Data
from limbeck.evaluation.cost import measure as measure_cost
from limbeck.evaluation.run import evaluate, predict

if TYPE_CHECKING:
    from limbeck.training.job import Job

Record = dict[str, Any]


def spread(values: Sequence[float]) -> Record:
    """Mean and standard deviation (n - 1; 0 for one value) over seeds, with the values.

    The deviation is NaN where a value is not finite: an infinite nll, the r2 of one sample.
    """
    finite = all(map(math.isfinite, values))  # statistics.stdev fails on others
    deviation = 0.0 if len(values) < 2 else statistics.stdev(values) if finite else math.nan
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def model_record(name: str, role: str, models: Sequence[Any], job: Job, part: str, teacher: Any,
                 measure: bool, saved: Path | None = None) -> tuple[Record, Any, Any]:  # fmt: skip
    """One model (the same over several seeds) on a part. Returns its record, what others compare with, its confusion.

    `teacher`: the teacher's logits on that part (or itself, where logits are not kept), None for the teacher itself. Cost
    is that of the first model, and only of modules: an estimator or a store has no parameters to count.
    """
    results = [evaluate(model, job.data, job.task, part, teacher) for model in models]
    record: Record = {"name": name, "role": role, "cost": {}, "reliability": results[0]["reliability"]}
    for key in ("scores", "agreement"):
        record[key] = {score: spread([result[key][score] for result in results]) for score in results[0][key]}
    first = models[0]
    if measure and isinstance(first, nn.Module):
        example = job.task.example(job.data, first)
        record["cost"] = measure_cost(first, example, saved, run=job.task.forward)
    kept = first if job.task.measures else predict(first, job.data.parts[part], job.task)
    return record, kept, results[0]["confusion"]


def add_written(records: Sequence[Record], models: Mapping[str, Sequence[Any]], writing: Any, teacher: Any) -> Record:
    """Put the scores of what models write into their records, and give what else the report shows of it.

    `models` by role; `writing`: a `limbeck.evaluation.written.Writing`. A teacher without a record (a black box) is shown
    with what it writes alone.
    """
    texts: dict[str, list[str]] = {}
    for record in records:
        found = [writing.measure(model) for model in models[record["role"]]]
        texts[record["role"]] = found[0][1]
        record["scores"] |= {name: spread([scores[name] for scores, _ in found]) for name in found[0][0]}
    if "teacher" not in texts and teacher is not None and not teacher.stored:
        texts = {"teacher": writing.measure(teacher)[1], **texts}
    return {"samples": writing.side_by_side(texts), "generation": writing.describe(len(texts))}


def sample_counts(data: Data) -> dict[str, int]:
    """How many samples each part has, labelled and unlabelled ones of training apart; of a stream nobody knows."""
    known = data.train.is_labelled()
    train = {"train, labelled": int(known.sum()), "train, unlabelled": int((~known).sum())} if len(known) else {}
    return {**train, **{name: len(part) for name, part in data.parts.items() if name != "train"}}


def describe_data(data: Data, part: str) -> Record:
    """The data as a report shows them: kind, classes, counts of labelled and unlabelled samples, how they were split."""
    return {
        **data.about, "name": data.name, "kind": data.kind, "classes": data.classes, "counts": sample_counts(data),
        "scored on": part,
    }  # fmt: skip
