"""Students with other heads than they came with. What is saved of them is whole: the folder loads back as it was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.data.base import move
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.signals.order import classifier_of

if TYPE_CHECKING:
    from limbeck.training.job import Job

CARRIED = ("tokenizer", "processor", "pretrained_cfg", "limbeck_pretrained")  # how a task prepares inputs for a module


class Headed(nn.Module):
    """A model without what came last, `body`, with something else on it. Subclasses define `forward`."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        for name in CARRIED:
            if name in vars(body):
                setattr(self, name, vars(body)[name])

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the body gives now that its classifier is gone."""
        output = self.body(*args, **kwargs)
        if isinstance(output, Mapping) and "logits" in output:
            return output["logits"]
        output = getattr(output, "logits", output)
        return output[0] if isinstance(output, tuple) else output


def without(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of a module in which the named submodules pass on what they are given."""
    body = copy.deepcopy(module)
    body.__dict__.pop("limbeck_spec", None)  # it no longer says how to build this
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(body.get_submodule(parent), last, nn.Identity())
    return body


def bodied(job: Job) -> tuple[nn.Module, str, int]:
    """The job's student without its classifier, the classifier's name, and how wide the vectors are that it was given."""
    inputs = job.task.example(job.data, job.student)
    inputs = move(inputs, device_of(job.student))
    with evaluating(job.student):
        name = classifier_of(
            job.student, lambda: job.task.forward(job.student, inputs), lambda o: job.task.signals(o)["logits"]
        )
    head: Any = job.student.get_submodule(name)
    return without(job.student, [name]), name, int(head.in_features)


def spec_of(job: Job, function: Any, **arguments: Any) -> dict[str, Any] | None:
    """How a student around the job's is built again; None, with a warning, where nobody knows how to build that one."""
    from limbeck.students.save import how_to_build

    student = how_to_build(job.student)
    if "builder" not in student:
        job.warn(
            f"How to build a {type(job.student).__name__} is not known to Limbeck, so that the saved student is loaded by its "
            "class alone: load_module(folder, builder=...), with a function that makes the whole student."
        )
        return None
    return {"builder": f"{function.__module__}:{function.__qualname__}", "arguments": {"student": student, **arguments}}
