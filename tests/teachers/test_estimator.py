"""scikit-learn estimators as teachers."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from limbeck.data.base import Batch, Data, TensorPart, TextPart
from limbeck.errors import ModelError, SignalError
from limbeck.tasks.classification import Classification, Regression
from limbeck.teachers.base import as_teacher
from limbeck.teachers.estimator import ABSENT, EstimatorTeacher

X, Y = load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return RandomForestClassifier(20, random_state=0).fit(X, Y)


def batch(inputs) -> Batch:
    return Batch(inputs, torch.arange(len(inputs)))


def rows(classes: list[str], width: int = 2, target: str = "classes", features: list[str] | None = None) -> Data:
    labels = torch.zeros(4) if target == "values" else torch.zeros(4, dtype=torch.int64)
    part = TensorPart("train", torch.zeros(4, width), labels)
    return Data("rows", "table", {"train": part}, target=target, classes=classes, features=features)


def test_logits_are_the_log_of_predict_proba(forest):
    images = torch.tensor(X[:50], dtype=torch.float32).reshape(50, 1, 8, 8)
    logits = as_teacher(forest).read(batch(images), ["logits"], Classification())["logits"]
    expected = forest.predict_proba(X[:50])
    assert logits.dtype == torch.float32
    assert (expected == 0).any()
    np.testing.assert_allclose(logits.exp().numpy(), np.maximum(expected, np.finfo(np.float32).eps), rtol=1e-5)
    assert logits.min() == pytest.approx(np.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize(
    ("labels", "classes", "order"),
    [
        (["cat", "dog"], ["dog", "cat"], [1, 0]),  # by name
        ([0, 1], ["dog", "cat"], [0, 1]),  # by number
        ([1.0, 2.0], ["1", "2"], [0, 1]),  # numbers that are names
        ([True, False], ["True", "False"], [1, 0]),
    ],
)
def test_columns_are_put_in_the_order_of_the_data(labels, classes, order):
    inputs = np.array([[0.0, 1.0], [1.0, 0.0]] * 3)
    estimator = LogisticRegression().fit(inputs, labels * 3)
    teacher = EstimatorTeacher(estimator)
    teacher.check(rows(classes))
    found = teacher.read(batch(torch.tensor(inputs)), ["logits"], Classification())["logits"].exp().numpy()
    expected = np.empty_like(found)
    expected[:, order] = estimator.predict_proba(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes_never_seen_get_next_to_nothing(forest):
    some = Y != 3
    estimator = GaussianNB().fit(X[some] / 16, Y[some])
    teacher = EstimatorTeacher(estimator, [str(i) for i in range(10)])
    logits = teacher.read(batch(torch.tensor(X[:5] / 16)), ["logits"], Classification())["logits"]
    assert logits.shape == (5, 10)
    assert (logits[:, 3] == ABSENT).all()
    np.testing.assert_allclose(
        np.delete(logits.softmax(-1).numpy(), 3, axis=1), estimator.predict_proba(X[:5] / 16), atol=1e-5
    )


def test_regressors_give_values():
    inputs, values = load_diabetes(return_X_y=True)
    for estimator in (Ridge().fit(inputs, values), RandomForestRegressor(3, random_state=0).fit(inputs, values)):
        teacher = EstimatorTeacher(estimator)
        teacher.check(rows([], inputs.shape[1], "values"))
        found = teacher.read(batch(torch.tensor(inputs[:9])), ["logits"], Regression())["logits"]
        np.testing.assert_allclose(found.numpy(), estimator.predict(inputs[:9]), rtol=1e-6)
    several = EstimatorTeacher(Ridge().fit(inputs, np.stack([values, -values], 1)))
    assert several.read(batch(torch.tensor(inputs[:9])), ["logits"], Regression())["logits"].shape == (9, 2)
    single = EstimatorTeacher(Ridge().fit(inputs, values[:, None]))
    assert single.read(batch(torch.tensor(inputs[:9])), ["logits"], Regression())["logits"].shape == (9,)


def test_pipelines_read_texts():
    texts = ["good film", "great film", "bad film", "awful film"]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["pos", "pos", "neg", "neg"])
    part = TextPart("train", texts, torch.tensor([1, 1, 0, 0]))
    data = Data("films", "text", {"train": part}, classes=["pos", "neg"])
    teacher = EstimatorTeacher(pipeline)
    teacher.check(data)
    found = teacher.read(part.batch([0, 2]), ["logits"], Classification())["logits"].exp().numpy()
    np.testing.assert_allclose(found[:, ::-1], pipeline.predict_proba(["good film", "bad film"]), rtol=1e-5)


def test_wrong_estimators_are_refused(forest):
    for estimator, said in [
        (LogisticRegression(), "is not fitted"),
        (LinearSVC().fit(X[:200], Y[:200]), "CalibratedClassifierCV"),
        (3, "expected predict_proba"),
    ]:
        with pytest.raises(ModelError, match=said):
            EstimatorTeacher(estimator)
    both = MultiOutputClassifier(GaussianNB()).fit(X[:99], np.stack([Y, Y], 1)[:99])
    with pytest.raises(ModelError, match="several targets"):
        EstimatorTeacher(both, ["0", "1"])
    calibrated = CalibratedClassifierCV(LinearSVC()).fit(X[:300], Y[:300])
    assert EstimatorTeacher(calibrated).classifies


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (rows([str(i) for i in range(10)], 63), "fitted on 64 features; a sample of 'rows' has 63"),
        (rows(["a", "b"], 64), "'0', '1'"),
        (rows([], 64, "values"), "predicts classes; the targets of 'rows' are values"),
    ],
)
def test_data_that_do_not_fit_are_refused(forest, data, said):
    with pytest.raises(ModelError, match=said):
        EstimatorTeacher(forest).check(data)


def test_columns_of_another_order_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0, 3.0], "size": [2.0, 1.0, 0.0]})
    teacher = EstimatorTeacher(LogisticRegression().fit(frame, ["a", "b", "b"]))
    teacher.check(rows(["a", "b"], features=["age", "size"]))
    with pytest.raises(ModelError, match="same columns in the same order"):
        teacher.check(rows(["a", "b"], features=["size", "age"]))


def test_pipelines_that_name_columns_get_named_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0, 3.0], "size": [2.0, 1.0, 0.0]})
    chosen = make_pipeline(ColumnTransformer([("one", "passthrough", ["size"])]), GaussianNB())
    chosen.fit(frame, ["a", "b", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = EstimatorTeacher(chosen).read(batch(torch.tensor(frame.to_numpy())), ["logits"], Classification())
    np.testing.assert_allclose(found["logits"].exp().numpy(), chosen.predict_proba(frame), atol=1e-6)


def test_other_taps_and_wrong_inputs_are_refused(forest):
    teacher = EstimatorTeacher(forest)
    with pytest.raises(SignalError, match="no layers to tap"):
        teacher.read(batch(torch.zeros(2, 64)), ["logits", "layer1"], Classification())
    with pytest.raises(ModelError, match="does not take the inputs"):
        teacher.read(batch(torch.zeros(2, 63)), ["logits"], Classification())


IDENTITY = """
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from limbeck.teachers.estimator import EstimatorTeacher
X, Y = load_digits(return_X_y=True)
print(EstimatorTeacher(RandomForestClassifier({trees}, random_state={seed}).fit(X, Y)).identity())
"""


def test_identity_is_that_of_the_fitted_parameters():
    own = EstimatorTeacher(RandomForestClassifier(3, random_state=1).fit(X, Y)).identity()
    ran = subprocess.run([sys.executable, "-c", IDENTITY.format(trees=3, seed=1)], capture_output=True, text=True)
    assert ran.stdout.strip() == own
    assert own != EstimatorTeacher(RandomForestClassifier(3, random_state=2).fit(X, Y)).identity()
    assert own != EstimatorTeacher(RandomForestClassifier(3, random_state=1).fit(X, Y), [*"9876543210"]).identity()
