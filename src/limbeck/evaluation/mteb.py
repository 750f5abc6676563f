"""Public benchmarks of vectors by MTEB, on a student, a teacher, or a student's queries on its teacher's documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from limbeck._optional import need
from limbeck.errors import ArgumentError, DataError, nearest
from limbeck.students.encoders import Encoder

Record = dict[str, Any]


def wrapped(encoder: Encoder, documents: Encoder | None = None, name: str = "limbeck/encoder") -> Any:
    """An encoder as MTEB asks it; with `documents`, what a task searches is encoded by that one (the teacher)."""
    base = need("mteb.models.abs_encoder", "mteb").AbsEncoder
    meta = need("mteb.models.model_meta", "mteb").ModelMeta

    class Wrapped(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.mteb_model_meta = meta.create_empty(overwrites={"name": name, "embed_dim": encoder.width})

        def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> np.ndarray:
            texts = [text for batch in inputs for text in batch["text"]]
            searched = getattr(prompt_type, "value", prompt_type) == "document"
            return (documents if searched and documents is not None else encoder).encode(texts)

        def similarity(self, first: Any, second: Any) -> torch.Tensor:
            return _unit(first) @ _unit(second).T

        def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
            return (_unit(first) * _unit(second)).sum(1)

    return Wrapped()


def _unit(rows: Any) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(rows), dtype=torch.float32), dim=1)


def run_mteb(encoder: Encoder, tasks: Sequence[Any], documents: Encoder | None = None) -> Record:
    """Scores of an encoder on tasks of MTEB, by name or as objects of one's own; see `limbeck.evaluation.harness.run_tasks`.

    Gives {task: {metric: value}}; the task's main score is called "main_score". Several splits or languages are averaged.
    Raises ArgumentError for unknown tasks, and where `documents` have another width.
    """
    if documents is not None and documents.width != encoder.width:
        raise ArgumentError(
            f"The teacher's vectors have {documents.width} numbers, the student's {encoder.width}: they cannot be compared."
        )
    library = need("mteb", "mteb")
    found = [_task(library, each) if isinstance(each, str) else each for each in tasks]
    try:
        results = library.evaluate(
            wrapped(encoder, documents), found, cache=None, co2_tracker=False, show_progress_bar=False
        )
    except (OSError, ConnectionError) as error:
        raise DataError(
            f"The data of the tasks could not be read ({str(error).strip().splitlines()[0]}). MTEB fetches them from the hub."
        ) from error
    return {
        each.task_name: _mean([row for rows in each.scores.values() for row in rows]) for each in results.task_results
    }


def _task(library: Any, name: str) -> Any:
    try:
        return library.get_task(name)
    except KeyError:
        known = sorted({each.metadata.name for each in library.get_tasks()})
        raise ArgumentError(f"MTEB has no task {name!r}.{nearest(name, known)}") from None


def _mean(rows: Sequence[Record]) -> Record:
    """The mean of each number over splits and languages."""
    names = [key for key, value in rows[0].items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
