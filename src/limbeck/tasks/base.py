"""A task says how a kind of model is run, supervised, scored and exported. Adding one does not touch the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs, Part
from limbeck.errors import ArgumentError
from limbeck.signals.taps import Taps

if TYPE_CHECKING:
    from limbeck.objectives import Objective
    from limbeck.teachers.base import Teacher


Distance = tuple[str, float]


class Task:
    """One kind of model. Subclasses override what differs.

    `name`: the word users write. `best`: the score that chooses a checkpoint, with "max" or "min".
    """

    name: str = ""
    outputs: tuple[str, ...] = ("logits",)  # the signals that `signals` gives; every other name is a tap
    exported: str = "logits"  # the name of the first of them in an exported file
    best: tuple[str, str] = ("accuracy", "max")
    default_recipe: str = "kd"
    measures: bool = False  # whether it scores models itself (`measure`), because outputs of a whole part would not fit
    exports: tuple[str, ...] = ("onnx", "onnx-int8", "safetensors")  # the forms in which its models leave
    learns_alone: bool = True  # whether a student can be trained on its data without a teacher
    writes: bool = False  # whether its models write text
    builders: Mapping[str, Any] = {}  # what a student's word ("encoder") builds, where here it is another model
    at_once: int = 256  # samples that a teacher reads at once in a pass of its own
    kept_as: str = "float16"  # how what it says then is kept
    length: int | None = (
        None  # tokens of a text that models read, where the user bounds them; stored signals are of one length
    )
    keyed: bool = False  # whether the id of a sample is a hash of it, so that it is the same sample in other data
    tokenized: bool = False  # whether what the data are depends on a tokenizer, so that the models are loaded first

    # what it is about
    def load(self, spec: Any, models: Sequence[Any] = (), **options: Any) -> Data:
        """Data of this task from what a user has; `models` are the teacher's and student's, for a `tokenized` task."""
        from limbeck.data import load_data

        return load_data(spec, **options)

    def pretrained(self, name: str, *, role: str, trust_remote_code: bool, seed: int) -> nn.Module | None:
        """A model of this task from a folder or hub name of Transformers; None where it is one with a head as saved."""
        return None

    def taught(self, teacher: Teacher, data: Data) -> Teacher:
        """The teacher as models of this task learn from it: by default as it is."""
        return teacher

    # how a model is run
    def view(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        """What one role sees of a batch: its modality, tokenizer, mask. By default the inputs as they are."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a role sees")

    def forward(self, module: nn.Module, inputs: Inputs) -> Any:
        """Run a model on what `view` gave; returns its raw output."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a model is run")

    def signals(self, output: Any) -> dict[str, Tensor]:
        """The named signals of a raw output: at least {"logits": [batch, ...]}."""
        raise NotImplementedError(f"{type(self).__name__} does not say what an output holds")

    def read(self, module: nn.Module, inputs: Inputs, taps: Sequence[str], *, stop: bool = False,
             replace: Mapping[str, Any] | None = None, clone: Collection[str] = ()) -> dict[str, Any]:  # fmt: skip
        """Run a model once and return the named signals. With `stop`, no further than the last tap that is asked for."""
        inner = [tap for tap in taps if tap not in self.outputs]
        if not inner and not replace:
            return self.signals(self.forward(module, inputs))
        stop = stop and len(inner) == len(taps)
        with Taps(module, inner, replace, stop=stop, clone=clone) as opened:
            output = opened.run(lambda: self.forward(module, inputs))
        return dict(opened.signals) if stop else {**self.signals(output), **opened.signals}

    # how it is supervised and measured
    def supervised(self) -> Objective:
        """The loss of a model trained on labels alone."""
        raise NotImplementedError(f"{type(self).__name__} has no supervised loss")

    def scores(self, outputs: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> dict[str, float]:
        """Scores of a whole part: `outputs` [n, ...] (logits, values), `labels` [n]."""
        raise NotImplementedError(f"{type(self).__name__} has no scores")

    def measure(self, model: Any, part: Part, teacher: Any = None) -> dict[str, Any]:
        """{"scores", "agreement", "reliability"} of a model (module or teacher) on a part; see `measures`."""
        raise NotImplementedError(f"{type(self).__name__} does not measure models itself")

    def distances(self, model: Any, part: Part, teacher: Any, oracle: Any = None,
                  most: int = 256) -> tuple[Distance, Distance]:  # fmt: skip
        """How far a model is from its teacher, and from an oracle or, without one, from the labels: (measure's name, mean).

        Models are modules or teachers. At most `most` samples of the part are taken, evenly spread, at every call the same.
        """
        raise NotImplementedError(f"{type(self).__name__} has no distances between models")

    def novelty(self, model: nn.Module, part: Part) -> Tensor:
        """How novel each sample of a part is to a model, [n], the higher the more."""
        raise ArgumentError(
            f"What is novel is told of language models and classifiers (task=causal_lm, classification), not of {self.name}."
        )

    def finish(self, student: nn.Module, teacher: Any) -> None:
        """Write on a trained student what those must know of its teacher who use it. By default nothing."""

    # what it checks and how it leaves the house
    def width(self, data: Data) -> int | None:
        """How many outputs a model of these data has; None where models may differ in it (padded vocabularies)."""
        return None

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Raise a LimbeckError where data and models do not fit, before anything is trained."""

    def check_export(self, format: str, module: nn.Module | None = None) -> None:
        """Raise ArgumentError for a form in which models of this task, or this one of them, do not leave."""
        if format not in self.exports:
            raise ArgumentError(
                f"A model of {self.name} is not exported as {format!r}, only as {' or '.join(self.exports)}: a folder that "
                "Transformers, and what reads its models, loads."
            )

    def example(self, data: Data, module: nn.Module | None, count: int = 2) -> Inputs:
        """What `forward` takes, for `count` samples: used for export, probes and cost."""
        for name in ("test", "valid", "train"):
            if name in data.parts and len(data.parts[name]):
                part = data.parts[name]
                positions = torch.arange(count) % len(part)
                return self.view(part.batch(positions), module, "student")
        raise ValueError("the data have no part with a sample in it")
