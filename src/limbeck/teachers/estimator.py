"""A fitted scikit-learn estimator (or pipeline) as a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck._optional import need
from limbeck.errors import ModelError, SignalError
from limbeck.teachers.base import Teacher

if TYPE_CHECKING:
    from limbeck.data.base import Batch, Data
    from limbeck.tasks.base import Task

SMALLEST = torch.finfo(
    torch.float32
).eps  # 1.19e-7, a logit of -15.9: an estimator's zero means "below one in millions"
ABSENT = float(np.log(torch.finfo(torch.float32).tiny))  # -87.3: a class that the estimator has never seen


class EstimatorTeacher(Teacher):
    """An estimator with `predict_proba` (classes) or `predict` (numbers).

    Signal "logits" for classes: log of predict_proba, clipped below at float32's eps (1.19e-7), [batch, classes]; for
    numbers: predict, [batch] or [batch, targets]. The estimator gets the inputs of the data as they are: rows and
    images flattened to [batch, features] in float64, texts as a list of str.

    `classes` are the data's class names in the order of their labels (`check(data)` fills them in): columns are put in
    that order by name, or, where the estimator was fitted on label numbers, by number. A class that the estimator has
    never seen gets -87.3.
    """

    def __init__(self, estimator: Any, classes: Sequence[str] | None = None):
        from sklearn.base import BaseEstimator
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        name = type(estimator).__name__
        if isinstance(estimator, BaseEstimator):
            try:
                check_is_fitted(estimator)
            except NotFittedError as error:
                raise ModelError(
                    f"The {name} is not fitted. Fit it, on the training part alone, before it teaches."
                ) from error
        self.estimator, self.classes = estimator, list(classes) if classes is not None else None
        self.classifies = hasattr(estimator, "predict_proba")
        if not self.classifies and hasattr(estimator, "classes_"):
            raise ModelError(
                f"The {name} has no predict_proba, so it gives labels and no probabilities. Wrap it: "
                "sklearn.calibration.CalibratedClassifierCV(estimator), fitted, or fit it with probabilities."
            )
        if not self.classifies and not hasattr(estimator, "predict"):
            raise ModelError(f"A {name} cannot teach: expected predict_proba (classes) or predict (numbers).")
        self._columns = self._order() if self.classifies and self.classes is not None else None

    def check(self, data: Data) -> None:
        """Take the order of the classes from the data. Raises ModelError where estimator and data do not fit."""
        name = type(self.estimator).__name__
        if self.classifies != (data.target == "classes") and data.target != "none":
            gives = "classes" if self.classifies else "numbers"
            raise ModelError(f"The {name} predicts {gives}; the targets of {data.name!r} are {data.target}.")
        expected = getattr(self.estimator, "n_features_in_", None)
        sample = data.train.gather(torch.tensor([0]))
        if isinstance(sample, Tensor) and expected not in (None, sample[0].numel()):
            raise ModelError(
                f"The {name} was fitted on {expected} features; a sample of {data.name!r} has {sample[0].numel()}."
            )
        named = getattr(self.estimator, "feature_names_in_", None)
        if named is not None and data.features is not None and list(named) != list(data.features):
            raise ModelError(
                f"The {name} was fitted on the columns {list(named)[:6]}; those of {data.name!r} are "
                f"{data.features[:6]}. Fit it on the same columns in the same order."
            )
        if self.classifies and data.classes is not None and self.classes is None:
            self.classes = list(data.classes)
            self._columns = self._order()

    def _order(self) -> list[int]:
        """For each column of predict_proba, its place among the data's classes."""
        own = getattr(self.estimator, "classes_", None)
        if own is None or isinstance(own, list):
            raise ModelError(
                f"The {type(self.estimator).__name__} predicts several targets at once; a teacher predicts one."
            )
        assert self.classes is not None
        places = {name: place for place, name in enumerate(self.classes)}
        names = [_name(value) for value in own]
        if all(name in places for name in names):
            return [places[name] for name in names]
        if all(name.isdigit() and int(name) < len(places) for name in names):
            return [int(name) for name in names]
        unknown = [name for name in names if name not in places]
        raise ModelError(
            f"The {type(self.estimator).__name__} knows the classes {names[:8]}, the data {self.classes[:8]}: "
            f"{unknown[:8]} are not among them. Fit it on the class names, or on their numbers 0 to {len(places) - 1}."
        )

    def read(self, batch: Batch, taps: Sequence[str], task: Task, *, progress: float = 0.0) -> dict[str, Any]:
        """The "logits" of a batch, on its device. Raises SignalError for any other tap."""
        unknown = [tap for tap in taps if tap != "logits"]
        if unknown:
            raise SignalError(f"An estimator gives 'logits' only, not {unknown}: it has no layers to tap.")
        inputs, name = batch.inputs, type(self.estimator).__name__
        if isinstance(inputs, Tensor):
            inputs = inputs.flatten(1).cpu().double().numpy()
            names = getattr(self.estimator, "feature_names_in_", None)
            if names is not None and len(names) == inputs.shape[1]:  # fitted on a table: give it one
                inputs = need("pandas", "tables").DataFrame(inputs, columns=list(names))
        try:
            found = self.estimator.predict_proba(inputs) if self.classifies else self.estimator.predict(inputs)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"The {name} does not take the inputs of these data: {error}") from error
        values = torch.as_tensor(np.asarray(found, dtype=np.float64))
        if not self.classifies and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        return {"logits": (self._logits(values) if self.classifies else values).float().to(batch.ids.device)}

    def _logits(self, probabilities: Tensor) -> Tensor:
        if probabilities.ndim != 2:
            raise ModelError(f"predict_proba gave the shape {list(probabilities.shape)}, expected [batch, classes].")
        logits = probabilities.clamp(min=SMALLEST).log()
        if self._columns is None or self.classes is None:
            return logits
        full = logits.new_full((len(logits), len(self.classes)), ABSENT)
        full[:, self._columns] = logits
        return full

    def identity(self) -> str:
        """sha256 over the fitted parameters (through joblib) and the order of the classes."""
        import joblib

        text = f"{type(self.estimator).__qualname__} {joblib.hash(self.estimator)} {self.classes}"
        return hashlib.sha256(text.encode()).hexdigest()


def _name(value: Any) -> str:
    """A class as the data name it: 1.0 and 1 are '1'."""
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)
