import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.data.base import Data, TensorPart
from limbeck.errors import ArgumentError, ExportError
from limbeck.evaluation.run import evaluate, predict
from limbeck.export import OnnxModel, export_onnx, ort_latency
from limbeck.export.onnx import distance
from limbeck.tasks.classification import Classification


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def mlp_file(tmp_path_factory):
    module = mlp()
    path = tmp_path_factory.mktemp("mlp") / "deep" / "student.onnx"
    return module, path, export_onnx(module, torch.randn(4, 5), path, check_inputs=[torch.randn(17, 5)])


def test_the_record_and_the_one_file(mlp_file):
    module, path, record = mlp_file
    assert record["format"] == "onnx"
    assert record["file"] == str(path)
    assert record["bytes"] == path.stat().st_size
    assert 0 <= record["max_difference"] < 1e-5
    assert record["dynamic"] == ["batch"]
    assert [file.name for file in path.parent.iterdir()] == ["student.onnx"]
    assert module.training
    assert all(child.training for child in module.children())


def test_any_batch_gives_what_the_module_gives(mlp_file):
    module, path, _ = mlp_file
    model = OnnxModel(path)
    module.eval()
    for batch in (1, 2, 7, 64):
        inputs = torch.randn(batch, 5)
        with torch.no_grad():
            assert torch.allclose(model(inputs), module(inputs), atol=1e-5)
    module.train()
    assert not model.quantized


def test_the_file_says_nothing_of_the_machine_it_was_made_on(mlp_file):
    content = mlp_file[1].read_bytes()
    assert str(Path(torch.__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content
    assert b"test_export_onnx" not in content


def test_the_deployed_file_is_evaluated_as_a_module_is(mlp_file):
    module, path, _ = mlp_file
    inputs, labels = torch.randn(30, 5), torch.randint(0, 3, (30,))
    data = Data("toy", "table", {"test": TensorPart("test", inputs, labels)}, classes=["a", "b", "c"])
    ours = predict(OnnxModel(path), data.parts["test"], Classification(), batch_size=8)
    assert torch.allclose(ours, predict(module, data.parts["test"], Classification()), atol=1e-5)
    result = evaluate(OnnxModel(path), data, Classification(), teacher=module)
    assert result["agreement"]["label_agreement"] == 1.0


def test_latency_has_the_rows_of_the_report(mlp_file):
    rows = ort_latency(mlp_file[1], torch.randn(2, 5), batches=(1, 4), seconds=0.001)
    assert [(row["backend"], row["batch"]) for row in rows] == [("onnxruntime", 1), ("onnxruntime", 4)]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["calls"] >= 3 and row["threads"] >= 1 for row in rows)


def bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=32, num_labels=3, max_position_embeddings=32)  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def tokens(batch, length):
    ids = torch.randint(1, 50, (batch, length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_an_encoder_takes_any_batch_and_any_length(tmp_path, capfd):
    module = bert()
    capfd.readouterr()
    record = export_onnx(
        module, tokens(4, 9), tmp_path / "bert.onnx", task=Classification(), check_inputs=[tokens(5, 14)]
    )
    assert record["dynamic"] == ["batch", "sequence"]
    assert record["max_difference"] < 1e-4
    model = OnnxModel(tmp_path / "bert.onnx")
    module.eval()
    for batch, length in itertools.product((1, 3), (2, 9, 30)):
        inputs = tokens(batch, length)
        with torch.no_grad():
            assert torch.allclose(model(**inputs), module(**inputs).logits, atol=1e-5)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ExportError, match="attention_mask"):
        model(input_ids=inputs["input_ids"])


class Embedded(nn.Module):
    """Token ids of a fixed number: the length cannot be free."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(20, 3)

    def forward(self, ids):
        return {"logits": self.head(self.embedding(ids).flatten(1))}


def test_a_fixed_length_stays_fixed(tmp_path):
    record = export_onnx(Embedded(), torch.randint(0, 9, (1, 5)), tmp_path / "fixed.onnx")
    assert record["dynamic"] == ["batch"]
    assert OnnxModel(tmp_path / "fixed.onnx")(torch.randint(0, 9, (6, 5))).shape == (6, 3)


class Counting(nn.Module):
    """Its output depends on how often it was called: tracing freezes one of the answers."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) + self.calls


def test_a_file_that_computes_something_else_is_rejected(tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(b"the last good one")
    module = Counting()
    with pytest.raises(ExportError, match=r"differ by up to \d.*tolerance of 0.0001"):
        export_onnx(module, torch.randn(2, 3), path)
    assert path.read_bytes() == b"the last good one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["student.onnx", "student.onnx.rejected"]
    assert module.training


def test_what_torch_cannot_trace_is_said(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError, match="torch cannot export this Branching"):
        export_onnx(Branching(), torch.randn(2, 3), tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="a str; expected a tensor of logits"):
        export_onnx(Texts(), torch.randn(2, 3), tmp_path / "a.onnx")
    with pytest.raises(ArgumentError, match="texts must be tokenized"):
        export_onnx(mlp(), ["a text"], tmp_path / "a.onnx")
    with pytest.raises(ArgumentError, match="at least one sample"):
        export_onnx(mlp(), torch.randn(0, 5), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


class Texts(nn.Module):
    def forward(self, x):
        return "logits"


def test_a_file_that_is_no_model_is_said(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="cannot load"):
        OnnxModel(tmp_path / "a.onnx")


def test_distance_of_what_is_not_finite():
    inf, nan = torch.inf, torch.nan
    expected, given = torch.tensor([1.0, inf, nan, 0.0, nan, inf]), torch.tensor([1.5, inf, nan, nan, 0.0, -inf])
    assert distance(expected, given).tolist() == [0.5, 0, 0, inf, inf, inf]
