"""Public benchmarks on a student's folder, by libraries that are optional extras: language models by the lm-evaluation-harness,
encoders by MTEB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, DataError, ModelError, nearest
from limbeck.students.encoders import Encoder

Record = dict[str, Any]


def run_tasks(*, model: Any, tasks: str | Sequence[Any], include: str | Path | None = None, limit: int | None = None,
              shots: int | None = None, batch_size: int = 16, teacher: Any = None,
              task: str | None = None) -> Record:  # fmt: skip
    """Scores on public tasks: of a causal language model by the lm-evaluation-harness (`pip install 'limbeck[harness]'`), of an
    encoder of texts by MTEB (`pip install 'limbeck[mteb]'`).

    `model`: a run folder, a saved or Transformers folder, or a module with a tokenizer; `task="embedding"` reads a Transformers
    folder that does not say so as an encoder. `tasks`: names, in a list or with commas. `include`: a folder of task files
    (YAML) of one's own; with local data no network is needed. `limit`: only so many samples of each task. `shots`: examples in
    the prompt (None: the task's own number). `teacher`: of an encoder, what encodes the documents that a task searches.

    Gives {"model", "harness" (its version), "limit", "tasks": {task: {metric: value, "metric_stderr": error, "samples": n}}}.
    Raises ModelError for a model that is neither, ArgumentError for unknown tasks, a missing folder, and options of the other
    library.
    """
    names: list[Any] = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    if not any(names):
        raise ArgumentError("tasks= names no task. For example: limbeck evaluate runs/x tasks=arc_easy,hellaswag")
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(f"{name}={value!r}: expected a whole number of 1 or more.")
    if include is not None and not Path(include).is_dir():
        raise ArgumentError(f"include={str(include)!r} is no folder. Give the one that holds the tasks' YAML files.")
    module = _loaded(model, task)
    title = str(model) if isinstance(model, str | Path) else type(module).__name__
    if isinstance(module, Encoder):
        from limbeck.evaluation.mteb import run_mteb

        for name, given in {"include": include, "limit": limit, "shots": shots}.items():
            if given is not None:
                raise ArgumentError(f"{name}={str(given)!r} is for language models; MTEB runs its tasks as they are.")
        documents = None if teacher is None else _loaded(teacher, "embedding")
        version = f"mteb {need('mteb', 'mteb').__version__}"
        return {"model": title, "harness": version, "limit": None, "tasks": run_mteb(module, names, documents)}
    if teacher is not None:
        raise ArgumentError("teacher= is for encoders, whose documents it encodes. Leave it out for a language model.")
    harness = need("lm_eval", "harness")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it forks after the tokenizer was used
    manager = need("lm_eval.tasks", "harness").TaskManager(include_path=None if include is None else str(include))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ArgumentError(f"The harness has no task {unknown[0]!r}.{nearest(unknown[0], manager.all_tasks)}")
    wrapped = need("lm_eval.models.huggingface", "harness").HFLM(
        pretrained=module, tokenizer=module.tokenizer, batch_size=batch_size
    )
    try:
        found = harness.simple_evaluate(
            model=wrapped, tasks=names, task_manager=manager, limit=limit, num_fewshot=shots, batch_size=batch_size,
            log_samples=False,
        )  # fmt: skip
    except (OSError, ConnectionError) as error:
        raise DataError(
            f"The data of {', '.join(names)} could not be read ({str(error).strip().splitlines()[0]}). Public tasks fetch them "
            "from the hub; without a network, give include= a folder with tasks on local data."
        ) from error
    return {"model": title, "harness": harness.__version__, "limit": limit, "tasks": _plain(found)}


def _loaded(model: Any, task: str | None = None) -> Any:
    """The module, with its tokenizer on it: a causal language model, or an encoder."""
    from limbeck.tasks import resolve
    from limbeck.teachers.load import is_causal, load_model

    folder = (
        isinstance(model, str | Path) and (Path(model) / "modules.json").is_file()
    )  # as sentence-transformers saves one
    module = load_model(model, task=resolve(task or ("embedding" if folder else "causal_lm")), role="teacher")
    if isinstance(module, Encoder):
        return module
    if not isinstance(module, nn.Module) or not is_causal(module) or getattr(module, "tokenizer", None) is None:
        raise ModelError(
            "Public tasks ask causal Transformers models with a tokenizer, and encoders of texts (task=embedding), and "
            f"{str(model)!r} is a {type(module).__name__}. For other models: limbeck evaluate without tasks=."
        )
    return module


def _plain(found: Any) -> Record:
    """The harness's results by task: "acc,none" is called acc, its error acc_stderr."""
    tasks: Record = {}
    for name, scores in found["results"].items():
        kept: Record = {}
        for key, value in scores.items():
            metric, _, rule = str(key).partition(",")
            if isinstance(value, int | float) and not isinstance(value, bool):
                kept[metric if rule in ("", "none") else f"{metric}[{rule}]"] = float(value)
        samples = found.get("n-samples", {}).get(name, {})
        tasks[name] = {**kept, "samples": samples.get("effective")}
    return tasks


def show_tasks(found: Record) -> None:
    """Print a row for each task and metric."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("task", "metric", "value", "standard error", "samples"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right", overflow="fold")
    for task, scores in found["tasks"].items():
        for metric, value in scores.items():
            if metric == "samples" or "_stderr" in metric or metric == "sample_len":
                continue
            base, _, rule = metric.partition("[")
            error = scores.get(f"{base}_stderr[{rule}" if rule else f"{base}_stderr")
            table.add_row(
                Text(task),
                Text(metric),
                f"{value:.4g}",
                "\u2013" if error is None else f"{error:.2g}",
                str(scores["samples"]),
            )
    Console().print(table)
