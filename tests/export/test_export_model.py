import pytest
import torch
from torch import nn

from limbeck.data.base import Data, TensorPart, TextPart
from limbeck.errors import ArgumentError
from limbeck.evaluation.run import evaluate, predict
from limbeck.export import OnnxModel, export_model
from limbeck.students.build import cnn, mlp, text_bag
from limbeck.students.save import load_module
from limbeck.tasks.classification import Classification

QUICK = {"batches": (1,), "seconds": 0.001}
WORDS = ["still", "copper", "alchemist", "vapour", "drop", "ember"]


def table(n=40):
    torch.manual_seed(0)
    parts = {name: TensorPart(name, torch.randn(n, 6), torch.randint(0, 3, (n,))) for name in ("train", "test")}
    return Data("toy", "table", parts, classes=["a", "b", "c"])


def test_onnx_with_data_is_checked_scored_and_timed(tmp_path):
    data, module = table(), mlp(6, 3, hidden=8)
    record = export_model(module, tmp_path / "student.onnx", Classification(), data, **QUICK)
    assert record["format"] == "onnx"
    assert record["max_difference"] < 1e-5
    assert record["scores"] == pytest.approx(evaluate(module, data, Classification())["scores"], abs=1e-5)
    assert [(row["backend"], row["batch"]) for row in record["latency"]] == [("onnxruntime", 1)]


def test_int8_calibrates_a_cnn_on_the_training_part(tmp_path):
    parts = {name: TensorPart(name, torch.randn(50, 1, 8, 8), torch.randint(0, 3, (50,))) for name in ("train", "test")}
    data = Data("toy", "image", parts, classes=["a", "b", "c"])
    record = export_model(
        cnn(1, 3, width=8, depth=1, size=8), tmp_path, Classification(), data, format="onnx-int8", **QUICK
    )
    assert record["kind"] == "static"
    assert record["file"] == str(tmp_path / "student.int8.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["student.int8.onnx"]
    assert 0 <= record["scores"]["accuracy"] <= 1
    assert record["latency"][0]["backend"] == "onnxruntime int8"


def test_texts_go_through_the_tokenizer_of_the_student(tmp_path):
    torch.manual_seed(0)
    texts = [" ".join(WORDS[int(i)] for i in torch.randint(0, 6, (int(n),))) for n in torch.randint(1, 9, (30,))]
    data = Data("toy", "text", {"test": TextPart("test", texts, torch.randint(0, 2, (30,)))}, classes=["a", "b"])
    module = text_bag(2, buckets=200, width=8)
    record = export_model(module, tmp_path / "bag.onnx", Classification(), data, **QUICK)
    assert record["dynamic"] == ["batch", "sequence"]
    ours = predict(OnnxModel(tmp_path / "bag.onnx", like=module), data.parts["test"], Classification(), batch_size=7)
    assert torch.allclose(ours, predict(module, data.parts["test"], Classification()), atol=1e-5)


def test_safetensors_are_a_folder_that_loads_to_the_same(tmp_path):
    data, module = table(), mlp(6, 3, hidden=8)
    record = export_model(module, tmp_path / "student", Classification(), data)
    assert record["format"] == "safetensors"
    assert record["max_difference"] == 0.0
    assert record["bytes"] == sum(file.stat().st_size for file in (tmp_path / "student").rglob("*") if file.is_file())
    again = predict(load_module(tmp_path / "student"), data.parts["test"], Classification())
    assert torch.equal(again, predict(module, data.parts["test"], Classification()))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(x)


def test_a_module_without_a_builder_is_saved_uncompared(tmp_path):
    record = export_model(Own(), tmp_path / "own", example_inputs=torch.randn(2, 6))
    assert record["max_difference"] is None
    assert (tmp_path / "own" / "model.safetensors").exists()


def test_the_ending_or_the_name_decides(tmp_path):
    module, inputs = mlp(6, 3), torch.randn(2, 6)
    assert export_model(module, tmp_path / "a.int8.onnx", example_inputs=inputs, **QUICK)["format"] == "onnx-int8"
    record = export_model(module, tmp_path / "new", example_inputs=inputs, format="onnx", **QUICK)
    assert record["file"] == str(tmp_path / "new" / "student.onnx")
    assert record["scores"] == {}


def test_errors_say_the_way_out(tmp_path):
    module = mlp(6, 3)
    with pytest.raises(ArgumentError, match="Did you mean 'onnx-int8'"):
        export_model(module, tmp_path, format="onnx-int4")
    with pytest.raises(ArgumentError, match=r"Did you mean '\.onnx'"):
        export_model(module, tmp_path / "student.onx")
    with pytest.raises(ArgumentError, match="is a folder of"):
        export_model(module, tmp_path / "student.onnx", format="safetensors")
    with pytest.raises(ArgumentError, match="example_inputs="):
        export_model(module, tmp_path / "student.onnx")
    for tolerance in ("small", -1, float("nan")):
        with pytest.raises(ArgumentError, match="tolerance="):
            export_model(module, tmp_path / "student.onnx", example_inputs=torch.ones(2, 6), tolerance=tolerance)
    assert list(tmp_path.iterdir()) == []
