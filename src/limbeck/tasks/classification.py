"""Classification of images, texts and tables; and regression, which differs in its loss and scores only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs, Part
from limbeck.errors import DataError, ModelError
from limbeck.tasks.base import Distance, Task
from limbeck.tasks.images import prepare_images

if TYPE_CHECKING:
    from limbeck.objectives import Objective


class Classification(Task):
    """One label out of several for an image, a text or a row. Signal "logits" [batch, classes]."""

    name = "classification"
    best = ("accuracy", "max")

    def view(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        if isinstance(batch.inputs, list):
            from limbeck.tasks.text import tokenize

            if module is None:
                raise ModelError(f"The {role} has no model to say how texts are tokenized.")
            return tokenize(module, batch.inputs)
        if isinstance(batch.inputs, Tensor) and batch.inputs.ndim == 4:
            return prepare_images(module, batch.inputs)
        return batch.inputs

    def forward(self, module: nn.Module, inputs: Inputs) -> Any:
        return module(**inputs) if isinstance(inputs, dict) else module(inputs)

    def signals(self, output: Any) -> dict[str, Tensor]:
        if isinstance(output, Tensor):
            return {"logits": output}
        if isinstance(output, Mapping):
            output = output.get("logits", output)
        logits = getattr(output, "logits", output)
        if isinstance(logits, tuple | list):
            logits = logits[0]
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"The model returned a {type(output).__name__}. Expected a tensor of logits [batch, classes] or an "
                "output with .logits."
            )
        return {"logits": logits}

    def supervised(self) -> Objective:
        from limbeck.objectives import cross_entropy

        return cross_entropy()

    def scores(self, outputs: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> dict[str, float]:
        from limbeck.evaluation.quality import classification_scores

        return classification_scores(outputs, labels)

    def distances(self, model: Any, part: Part, teacher: Any, oracle: Any = None,
                  most: int = 256) -> tuple[Distance, Distance]:  # fmt: skip
        """KL(other || model) of the probabilities ("kl_to_teacher"), the cross-entropy of the labels ("nll"), in nats."""
        from limbeck.data.splits import spread, take
        from limbeck.evaluation.run import predict

        part = take(part, spread(len(part), most), part.name)
        outputs = predict(model, part, self)
        proxy = self._apart(outputs, predict(teacher, part, self))
        if oracle is not None:
            return proxy, self._apart(outputs, predict(oracle, part, self))
        assert part.labels is not None
        name = "mse" if proxy[0] == "mse" else "nll"
        return proxy, (name, self.scores(outputs, part.labels)[name])

    def novelty(self, model: nn.Module, part: Part) -> Tensor:
        """-log of the largest probability (the baseline of Hendrycks and Gimpel, 2017)."""
        from limbeck.evaluation.run import predict

        return -predict(model, part, self).double().log_softmax(-1).max(-1).values

    def _apart(self, outputs: Tensor, others: Tensor) -> Distance:
        from limbeck.evaluation.fidelity import fidelity

        return "kl_to_teacher", fidelity(outputs, others)["kl_to_teacher"]

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Raise where a model's number of outputs is not the data's number of classes."""
        expected = self.width(data)
        for role, module in models.items():
            logits = self.probe(data, module, role)
            if logits.ndim != 2 or logits.shape[1] != expected:
                raise ModelError(
                    f"The {role} gives {list(logits.shape)[1:]} outputs for each sample; the data {data.name!r} have "
                    f"{expected} classes. Give the {role} a head of {expected} outputs, or check the label column."
                )

    def width(self, data: Data) -> int:
        """How many outputs a model of these data has."""
        if not data.classes:
            raise DataError(f"The data {data.name!r} have no classes; for numbers as targets use task='regression'.")
        return len(data.classes)

    def probe(self, data: Data, module: nn.Module, role: str) -> Tensor:
        """The logits of two samples, in eval mode, with errors that name the role."""
        mode = module.training
        module.eval()
        try:
            with torch.no_grad():
                part = data.train
                batch = part.batch(torch.arange(min(2, len(part))))
                first = next(module.parameters(), None)
                if first is not None:
                    batch = batch.to(first.device)
                return self.signals(self.forward(module, self.view(batch, module, role)))["logits"]
        except (RuntimeError, TypeError, IndexError) as error:
            shape = getattr(batch.inputs, "shape", None)
            seen = f" of shape {list(shape)}" if shape is not None else ""
            raise ModelError(f"The {role} does not take the inputs{seen} of {data.name!r}: {error}") from error
        finally:
            module.train(mode)


class Regression(Classification):
    """One number, or several, for each sample. Signal "logits" holds the values, [batch] or [batch, targets]."""

    name = "regression"
    best = ("mse", "min")
    default_recipe = "regression_kd"

    def signals(self, output: Any) -> dict[str, Tensor]:
        values = super().signals(output)["logits"]
        return {"logits": values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values}

    def supervised(self) -> Objective:
        from limbeck.objectives import squared_error

        return squared_error()

    def scores(self, outputs: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> dict[str, float]:
        from limbeck.evaluation.quality import regression_scores

        return regression_scores(outputs, labels)

    def novelty(self, model: nn.Module, part: Part) -> Tensor:
        return Task.novelty(self, model, part)

    def _apart(self, outputs: Tensor, others: Tensor) -> Distance:
        return "mse", self.scores(outputs, others)["mse"]

    def width(self, data: Data) -> int:
        labels = data.train.labels
        return 1 if labels is None or labels.ndim == 1 else labels.shape[1]

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Raise where labels were read as classes, or a model's number of values is not the data's."""
        if data.target == "classes":
            raise DataError(
                f"The labels of {data.name!r} were read as classes ({', '.join((data.classes or [])[:5])}), whose numbers are "
                "no values. For regression on them say target=values."
            )
        expected = self.width(data)
        for role, module in models.items():
            values = self.probe(data, module, role)
            width = 1 if values.ndim == 1 else values.shape[1]
            if width != expected:
                raise ModelError(f"The {role} gives {width} values for each sample; the data have {expected} targets.")
