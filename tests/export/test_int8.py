import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError, ExportError
from limbeck.export import OnnxModel, export_onnx, quantize_onnx
from limbeck.machine import sums_bytes_exactly


def ops(path):
    return {node.op_type for node in onnx.load(str(path)).graph.node}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Float files of an MLP, a CNN and something without weights."""
    folder = tmp_path_factory.mktemp("float")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    export_onnx(net, torch.randn(2, 8), folder / "mlp.onnx")
    conv = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))  # fmt: skip
    export_onnx(conv, torch.randn(2, 1, 8, 8), folder / "cnn.onnx")
    export_onnx(nn.Softmax(-1), torch.randn(2, 4), folder / "softmax.onnx")
    return folder


def test_an_mlp_is_quantized_dynamically(folder, tmp_path):
    batches = [torch.randn(16, 8) for _ in range(3)]
    record = quantize_onnx(
        folder / "mlp.onnx", tmp_path / "mlp.int8.onnx", calibration=batches, batches=(1,), seconds=0.001
    )
    assert record["format"] == "onnx-int8"
    assert record["kind"] == "dynamic"
    assert "MatMulInteger" in ops(tmp_path / "mlp.int8.onnx")
    assert record["bytes"] == (tmp_path / "mlp.int8.onnx").stat().st_size < (folder / "mlp.onnx").stat().st_size / 2
    assert [(row["backend"], row["batch"]) for row in record["latency"]] == [("onnxruntime int8", 1)]
    full, small = OnnxModel(folder / "mlp.onnx"), OnnxModel(tmp_path / "mlp.int8.onnx")
    worst = max(float((full(inputs) - small(inputs)).abs().max()) for inputs in batches)
    assert record["max_difference"] == pytest.approx(worst, abs=1e-6)
    assert 0 < worst < 0.1
    assert small.quantized


def test_dynamic_needs_no_inputs_and_scores_are_recorded(folder, tmp_path):
    inputs = torch.randn(10, 8)
    record = quantize_onnx(
        folder / "mlp.onnx", tmp_path / "mlp.onnx", scores=lambda model: {"mean": float(model(inputs).mean())}
    )
    assert record["max_difference"] is None
    assert record["latency"] == []
    assert record["scores"] == {"mean": float(OnnxModel(tmp_path / "mlp.onnx")(inputs).mean())}


def test_a_cnn_is_quantized_statically(folder, tmp_path):
    batches = [{"input": torch.randn(8, 1, 8, 8)} for _ in range(4)]
    record = quantize_onnx(
        folder / "cnn.onnx", tmp_path / "cnn.onnx", calibration=iter(batches), batches=(1,), seconds=0.001
    )
    assert record["kind"] == "static"
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= ops(tmp_path / "cnn.onnx")
    assert record["bytes"] < (folder / "cnn.onnx").stat().st_size
    assert 0 < record["max_difference"] < 0.1
    assert OnnxModel(tmp_path / "cnn.onnx")(torch.randn(5, 1, 8, 8)).shape == (5, 4)


def test_check_inputs_need_not_be_those_of_the_calibration(folder, tmp_path):
    calibration, checks = [torch.randn(8, 1, 8, 8)], [torch.randn(3, 1, 8, 8)]
    record = quantize_onnx(folder / "cnn.onnx", tmp_path / "a.onnx", calibration=calibration, check_inputs=checks,
                           reduce_range=True, batches=(2,), seconds=0.001)  # fmt: skip
    full, small = OnnxModel(folder / "cnn.onnx"), OnnxModel(tmp_path / "a.onnx")
    assert record["max_difference"] == pytest.approx(float((full(checks[0]) - small(checks[0])).abs().max()), abs=1e-6)
    assert record["latency"][0]["batch"] == 2


def test_an_encoder_is_quantized_with_its_embeddings(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=64, num_labels=3, max_position_embeddings=32)  # fmt: skip
    module = transformers.BertForSequenceClassification(config)
    ids = torch.randint(1, 400, (4, 10))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    export_onnx(module, inputs, tmp_path / "bert.onnx")
    record = quantize_onnx(
        tmp_path / "bert.onnx", tmp_path / "int8.onnx", calibration=[inputs], batches=(1,), seconds=0.001
    )
    assert record["kind"] == "dynamic"
    assert record["bytes"] < 0.6 * (tmp_path / "bert.onnx").stat().st_size
    assert record["max_difference"] < 0.05
    assert OnnxModel(tmp_path / "int8.onnx")(input_ids=ids[:1, :4], attention_mask=ids[:1, :4] * 0 + 1).shape == (1, 3)


def test_errors_say_the_way_out(folder, tmp_path):
    with pytest.raises(ArgumentError, match="needs calibration"):
        quantize_onnx(folder / "cnn.onnx", tmp_path / "a.onnx")
    with pytest.raises(ArgumentError, match="Did you mean 'dynamic'"):
        quantize_onnx(folder / "mlp.onnx", tmp_path / "a.onnx", kind="dynamical")
    with pytest.raises(ExportError, match="Nothing in this graph could be quantized"):
        quantize_onnx(folder / "softmax.onnx", tmp_path / "a.onnx", calibration=[torch.randn(2, 4)])
    with pytest.raises(ExportError, match="takes the inputs"):
        quantize_onnx(folder / "mlp.onnx", tmp_path / "a.onnx", calibration=[{"inptu": torch.randn(2, 8)}])
    assert not (tmp_path / "a.onnx").exists()
    quantize_onnx(folder / "mlp.onnx", tmp_path / "once.onnx")
    with pytest.raises(ArgumentError, match="quantized already"):
        quantize_onnx(tmp_path / "once.onnx", tmp_path / "twice.onnx")


def test_the_kind_follows_the_weight_of_convolutions(tmp_path):
    """An encoder that cuts patches by one convolution is quantized dynamically, and that convolution is left alone."""
    torch.manual_seed(0)

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(1, 16, 4, 4)
            self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)])

        def forward(self, x):
            return self.layers(self.cut(x).flatten(2).transpose(1, 2)).mean(1)

    export_onnx(Patches(), torch.randn(2, 1, 8, 8), tmp_path / "patches.onnx")
    assert quantize_onnx(tmp_path / "patches.onnx", tmp_path / "int8.onnx")["kind"] == "dynamic"
    assert "Conv" in ops(tmp_path / "int8.onnx")
    assert "ConvInteger" not in ops(tmp_path / "int8.onnx")


def test_weights_keep_to_7_bits_where_sums_overflow(folder, tmp_path, monkeypatch):
    def most(name):
        graph = onnx.load(tmp_path / name).graph
        kept = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
        return max(
            int(np.abs(value.astype(np.int16)).max()) for value in kept if value.dtype == np.int8 and value.size > 1
        )

    inputs = [torch.randn(8, 1, 8, 8)]
    for exact, largest in ((True, 127), (False, 64)):
        monkeypatch.setattr("limbeck.export.int8.sums_bytes_exactly", lambda exact=exact: exact)
        quantize_onnx(folder / "cnn.onnx", tmp_path / f"{exact}.onnx", calibration=inputs, batches=(1,), seconds=0.001)
        assert most(f"{exact}.onnx") == pytest.approx(largest, abs=1)
    monkeypatch.setattr("limbeck.machine._flags", frozenset)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert not sums_bytes_exactly()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert sums_bytes_exactly()
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr("limbeck.machine._flags", lambda: frozenset({"avx512_vnni"}))
    assert sums_bytes_exactly()
