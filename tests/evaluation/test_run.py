import pytest
import torch
from torch import nn

from limbeck.data.base import Data, TensorPart
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.evaluation.calibration import reliability
from limbeck.evaluation.fidelity import CLOSENESS
from limbeck.evaluation.loyalty import agreement, confusion, regression_loyalty
from limbeck.evaluation.quality import classification_scores, regression_scores
from limbeck.evaluation.run import evaluate, predict
from limbeck.tasks.classification import Classification, Regression


def data(n=23, classes=3, target="classes"):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 4, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator) if target == "classes" else inputs.sum(1)
    ids = torch.arange(n) + 100
    names = ["red", "green", "blue"] if target == "classes" else None
    return Data("toy", "table", {"test": TensorPart("test", inputs, labels, ids)}, target=target, classes=names)


def net(out=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, out))


class Reader:
    """A teacher of someone else: only `.read`."""

    def __init__(self, module):
        self.module, self.taps = module.eval(), []

    def read(self, batch, taps, task):
        self.taps.append(list(taps))
        with torch.no_grad():
            return {"logits": self.module(batch.inputs)}


def test_predict_is_one_eval_pass_in_order():
    module, part = net(), data().parts["test"]
    module[1].eval()
    before = module[1].running_mean.clone()
    seen = []
    logits = predict(
        module, part, Classification(), batch_size=5, progress=lambda done, total: seen.append((done, total))
    )
    assert [child.training for child in module.children()] == [True, False, True, True, True]
    assert module.training
    assert torch.equal(module[1].running_mean, before)
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    with torch.no_grad():
        assert torch.allclose(logits, module.eval()(part.inputs), atol=1e-6)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


def test_what_predict_gives_can_be_used_in_a_backward():
    module = net()
    logits = predict(module, data().parts["test"], Classification())
    weight = torch.ones(3, requires_grad=True)
    (logits * weight).square().sum().backward()  # inference tensors would refuse
    assert weight.grad is not None


def test_modes_are_put_back_after_an_error():
    module = net()
    with pytest.raises(RuntimeError):
        predict(module, TensorPart("test", torch.randn(3, 9)), Classification())
    assert module.training


def test_predict_takes_a_teacher_and_half_precision():
    part = data().parts["test"]
    teacher = Reader(net(seed=1))
    theirs = predict(teacher, part, Classification(), batch_size=10)
    assert torch.equal(theirs, predict(teacher.module, part, Classification(), batch_size=10))
    assert teacher.taps == [["logits"]] * 3
    half = predict(net().bfloat16(), TensorPart("test", part.inputs.bfloat16()), Classification())
    assert half.dtype == torch.float32


def test_predict_names_what_is_wrong():
    part = data().parts["test"]
    broken = TensorPart("test", part.inputs.clone(), part.labels, part.ids)
    broken.inputs[[2, 7]] = torch.nan
    with pytest.raises(ModelError, match=r"2 of 23 rows .*'test' are NaN .*\[102, 107\]"):
        predict(net(), broken, Classification())
    with pytest.raises(ModelError, match="one row for each"):
        predict(nn.Flatten(0), part, Classification(), batch_size=2)
    with pytest.raises(DataError, match="no samples"):
        predict(net(), TensorPart("valid", torch.randn(0, 4)), Classification())
    with pytest.raises(ModelError, match="A str cannot be run"):
        predict("net", part, Classification())
    with pytest.raises(ArgumentError, match="batch_size=0"):
        predict(net(), part, Classification(), batch_size=0)


def test_evaluate_puts_the_pure_functions_together():
    everything, student, teacher = data(), net(), net(seed=1)
    part = everything.parts["test"]
    result = evaluate(student, everything, Classification(), teacher=teacher)
    ours, theirs = predict(student, part, Classification()), predict(teacher, part, Classification())
    assert result["count"] == 23
    assert result["scores"] == classification_scores(ours, part.labels)
    assert result["agreement"] == agreement(ours, theirs, part.labels)
    assert result["reliability"] == reliability(ours.double().softmax(-1), part.labels)
    table = result["confusion"]
    assert table["labels"] == ["red", "green", "blue"]
    assert table["matrix"] == confusion(ours.argmax(-1), theirs.argmax(-1), 3).tolist()
    assert evaluate(student, everything, Classification(), teacher=theirs) == result
    alone = evaluate(student, everything, Classification())
    assert alone["agreement"] == {}
    assert alone["confusion"] is None


def test_evaluate_without_labels():
    everything = data()
    everything.parts["test"] = everything.parts["test"].with_labels(None)
    result = evaluate(net(), everything, Classification(), teacher=net(seed=1))
    assert result["scores"] == {}
    assert result["reliability"] == []
    assert set(result["agreement"]) == {"label_agreement", "probability_loyalty", *CLOSENESS}


def test_evaluate_values():
    everything, student, teacher = data(target="values"), net(1), net(1, seed=1)
    part = everything.parts["test"]
    result = evaluate(student, everything, Regression(), teacher=teacher)
    ours, theirs = predict(student, part, Regression()), predict(teacher, part, Regression())
    assert result["scores"] == regression_scores(ours, part.labels)
    assert result["agreement"] == {"regression_loyalty": regression_loyalty(ours, theirs)}
    assert result["reliability"] == []


def test_evaluate_names_the_part():
    with pytest.raises(ArgumentError, match="Did you mean 'test'"):
        evaluate(net(), data(), Classification(), part="tests")
    with pytest.raises(ModelError, match="5 rows"):
        evaluate(net(), data(), Classification(), teacher=torch.randn(5, 3))
