import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import DataError, ModelError
from limbeck.evaluation.quality import classification_scores, regression_scores


def case(n=200, classes=5, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, classes, generator=generator), torch.randint(0, classes, (n,), generator=generator))


def by_hand(logits, labels, bins=15):
    """Every score in plain Python."""
    n, classes = len(logits), len(logits[0])
    right = nll = brier = 0.0
    counts = [[0, 0, 0] for _ in range(classes)]  # hits, predicted, true
    cells = [[0, 0.0, 0] for _ in range(bins)]
    for row, label in zip(logits, labels):
        top = max(row)
        weights = [math.exp(z - top) for z in row]
        chances = [w / sum(weights) for w in weights]
        named = chances.index(max(chances))
        right += named == label
        nll -= math.log(chances[label])
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(chances))
        counts[named][0] += named == label
        counts[named][1] += 1
        counts[label][2] += 1
        confidence = chances[named]
        cell = next(i for i in range(bins) if confidence <= (i + 1) / bins + 1e-15)
        cells[cell][0] += 1
        cells[cell][1] += confidence
        cells[cell][2] += named == label
    f1 = [2 * hits / (said + true) for hits, said, true in counts if said + true]
    return {
        "accuracy": right / n, "macro_f1": sum(f1) / len(f1), "nll": nll / n, "brier": brier / n,
        "ece": sum(abs(trust - hits) for _, trust, hits in cells) / n,
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), classes=st.integers(2, 6), seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1, 8]))
def test_scores_are_the_hand_loops(n, classes, seed, scale):
    logits, labels = case(n, classes, seed, scale)
    expected = by_hand(logits.double().tolist(), labels.tolist())
    assert classification_scores(logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes):
    from sklearn import metrics

    logits, labels = case(300, classes)
    ours = classification_scores(logits, labels)
    chances, predicted = logits.double().softmax(-1).numpy(), logits.argmax(-1)
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-15)
    assert ours["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-12)
    assert ours["nll"] == pytest.approx(metrics.log_loss(labels, chances), abs=1e-12)
    one_column = metrics.brier_score_loss(labels, chances[:, 1] if classes == 2 else chances)
    assert ours["brier"] == pytest.approx(one_column * (2 if classes == 2 else 1), abs=1e-12)


def test_ece_is_that_of_torchmetrics():
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = case(400, 5)
    theirs = multiclass_calibration_error(logits.softmax(-1), labels, 5, n_bins=15)
    assert classification_scores(logits, labels)["ece"] == pytest.approx(float(theirs), abs=1e-6)


def test_macro_f1_is_over_classes_seen_in_labels_or_predictions():
    from sklearn.metrics import f1_score

    predicted, labels = (
        torch.tensor([0, 0, 3, 1]),
        torch.tensor([0, 1, 0, 1]),
    )  # class 2 nowhere, class 3 only predicted
    logits = torch.nn.functional.one_hot(predicted, 5).float()
    expected = f1_score(labels, predicted, average="macro", zero_division=0)
    assert classification_scores(logits, labels)["macro_f1"] == pytest.approx(expected, abs=1e-15)


def test_unlabelled_rows_are_left_out():
    logits, labels = case(40)
    hidden = labels.clone()
    hidden[::2] = -100
    assert classification_scores(logits, hidden) == classification_scores(logits[1::2], labels[1::2])
    with pytest.raises(DataError, match="No sample has a label"):
        classification_scores(logits, torch.full((40,), -100))


def test_one_logit_each_is_the_sigmoid():
    logits, labels = case(50, 2)
    one = logits[:, 1] - logits[:, 0]
    two = classification_scores(logits, labels)
    assert classification_scores(one, labels) == pytest.approx(two, abs=1e-6)
    assert classification_scores(one.unsqueeze(-1), labels) == pytest.approx(two, abs=1e-6)


def test_tokens_are_rows():
    logits, labels = case(60)
    assert classification_scores(logits.view(6, 10, 5), labels.view(6, 10)) == classification_scores(logits, labels)


def test_arrays_half_precision_and_certain_models():
    logits, labels = case(30)
    assert classification_scores(logits.numpy(), labels.numpy()) == classification_scores(logits, labels)
    assert classification_scores(logits.half(), labels)["accuracy"] == pytest.approx(
        classification_scores(logits.half().float(), labels)["accuracy"]
    )
    sure = torch.full((2, 2), -torch.inf)
    sure[:, 0] = 0.0
    perfect = classification_scores(sure, torch.tensor([0, 0]))
    assert perfect == {"accuracy": 1.0, "macro_f1": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    worst = classification_scores(sure, torch.tensor([1, 1]))
    assert worst["nll"] == math.inf
    assert worst["brier"] == 2.0


def test_errors_name_shapes_labels_and_rows():
    logits, labels = case(6, 3)
    with pytest.raises(DataError, match=r"\[6, 3\] and labels \[5\]"):
        classification_scores(logits, labels[:5])
    with pytest.raises(DataError, match="from 0 to 3, but the model has 3 classes"):
        classification_scores(logits, torch.tensor([0, 1, 2, 3, 0, 0]))
    with pytest.raises(DataError, match="whole numbers"):
        classification_scores(logits, labels.float())
    logits[1] = torch.nan
    logits[4, 0] = torch.inf
    with pytest.raises(ModelError, match="2 of 6 rows"):
        classification_scores(logits, labels)


@pytest.mark.parametrize("targets", [None, 3])
def test_regression_is_scikit_learn(targets):
    from sklearn import metrics

    generator = torch.Generator().manual_seed(3)
    shape = (80,) if targets is None else (80, targets)
    labels = torch.randn(shape, generator=generator)
    values = labels + 0.3 * torch.randn(shape, generator=generator)
    ours = regression_scores(values, labels)
    wide, truth = values.double().numpy(), labels.double().numpy()
    assert ours["mse"] == pytest.approx(metrics.mean_squared_error(truth, wide), abs=1e-12)
    assert ours["mae"] == pytest.approx(metrics.mean_absolute_error(truth, wide), abs=1e-12)
    assert ours["r2"] == pytest.approx(metrics.r2_score(truth, wide), abs=1e-12)


def test_regression_edges():
    labels = torch.tensor([1.0, torch.nan, 3.0])
    assert regression_scores(torch.tensor([1.0, 99.0, 5.0]), labels) == pytest.approx(
        {"mse": 2.0, "mae": 1.0, "r2": -1}
    )
    assert regression_scores(torch.tensor([[1.0], [9.0], [3.0]]), labels)["mse"] == 0
    constant = torch.ones(4)
    assert regression_scores(constant, constant)["r2"] == 1.0
    assert regression_scores(constant + 1, constant)["r2"] == 0.0
    assert math.isnan(regression_scores(torch.ones(1), torch.ones(1))["r2"])
    with pytest.raises(DataError, match="all are NaN"):
        regression_scores(torch.ones(2), np.array([np.nan, np.nan]))
    with pytest.raises(DataError, match=r"\[2\] and labels \[3\]"):
        regression_scores(torch.ones(2), torch.ones(3))
