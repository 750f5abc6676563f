"""What a student's spec leaves open and the data know: outputs, inputs, channels, image size, tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, ModelError

if TYPE_CHECKING:
    from limbeck.data.base import Data
    from limbeck.tasks.base import Task

READS = {
    "bag": "text",
    "encoder": "text",
    "static": "text",
    "grams": "text",
    "decoder": "tokens",
}  # the kind of data of students that read words


def example_of(data: Data | None) -> Tensor | None:
    """The inputs of one sample, [1, ...], where they are one tensor."""
    sample = None if data is None else data.train.gather(torch.tensor([0]))
    return sample if isinstance(sample, Tensor) else None


def complete(name: str, function: Callable[..., nn.Module], given: dict[str, Any], data: Data | None,
             task: Task | None, teacher: nn.Module | None) -> dict[str, Any]:  # fmt: skip
    """The arguments of a builder: those given, and those that the data and the teacher know.

    Raises ArgumentError where one is open and there are no data, ModelError where builder and data do not fit.
    """
    parameters = inspect.signature(function).parameters
    missing = [key for key in parameters if key not in given]
    required = [key for key in missing if parameters[key].default is inspect.Parameter.empty]
    found = dict(given)
    if "tokenizer" in required:
        found["tokenizer"] = getattr(task, "tokenizer", None) or getattr(teacher, "tokenizer", None)
        if found["tokenizer"] is None:
            raise ModelError(
                f"The student {name!r} takes its tokenizer from the teacher, and the teacher has none. "
                "Use 'bag', which needs none, or text_encoder(outputs, tokenizer) in Python."
            )
        required.remove("tokenizer")
    if data is None:
        if required:
            raise ArgumentError(f"The student {name!r} needs {', '.join(required)}, or data to take them from.")
        return found
    _fits(name, data)
    if "outputs" in required:
        found["outputs"] = outputs_of(data, task)
    example = example_of(data)
    if example is None:
        if {"inputs", "channels"} & set(missing):
            raise ModelError(f"The inputs of {data.name!r} are not one tensor: give a module of your own as student.")
        return found
    if "inputs" in missing:
        found["inputs"] = example[0].numel()
    if "channels" in missing:
        if example.ndim != 4:
            raise ModelError(
                f"The student {name!r} takes images [channels, height, width]; the samples of {data.name!r} have shape "
                f"{list(example.shape[1:])}. Use 'mlp:64'."
            )
        found["channels"] = example.shape[1]
    if "size" in missing and example.ndim == 4:
        found["size"] = min(example.shape[2:])
    return found


def _fits(name: str, data: Data) -> None:
    wanted = READS.get(name)
    if wanted == data.kind or (wanted is None and data.kind not in READS.values()):
        return
    fitting = next((f"'{word}'" for word, kind in READS.items() if kind == data.kind), "'mlp:64'")
    raise ModelError(f"The student {name!r} does not take what {data.name!r} holds ({data.kind}). Use {fitting}.")


@torch.no_grad()
def begin_at_values(module: nn.Module, data: Data) -> None:
    """Let the outputs of a fresh student begin around the mean of the training values, with their spread.

    Without it a student of values in the hundreds spends its training on reaching them. Nothing is done for classes.
    """
    labels = data.train.labels
    if data.target != "values" or labels is None or not labels.is_floating_point():
        return
    known = labels[data.train.is_labelled()].reshape(-1, *labels.shape[1:])
    width = 1 if labels.ndim == 1 else labels.shape[1]
    heads = [child for child in module.modules() if isinstance(child, nn.Linear) and child.out_features == width]
    if len(known) < 2 or not heads or heads[-1].bias is None:
        return
    mean, spread = known.mean(0).reshape(width), known.std(0).reshape(width)
    heads[-1].bias.copy_(mean)
    heads[-1].weight.mul_(torch.where(spread > 0, spread, 1.0)[:, None])


def outputs_of(data: Data, task: Task | None = None) -> int:
    """How many outputs a model of these data has: classes, or values for each sample."""
    width = getattr(task, "width", None)
    if width is not None:
        return width(data)
    if data.target == "classes" and data.classes:
        return len(data.classes)
    if data.target == "values" and data.train.labels is not None:
        return 1 if data.train.labels.ndim == 1 else data.train.labels.shape[1]
    raise ArgumentError(f"The data {data.name!r} do not say how many outputs a student has: write outputs=... in it.")
