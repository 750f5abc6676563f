"""From a float ONNX file to an INT8 one: smaller, and faster where the operations allow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck._optional import need
from limbeck.data.base import Inputs
from limbeck.errors import ArgumentError, ExportError, nearest
from limbeck.export.files import checked
from limbeck.export.onnx import distance
from limbeck.export.quiet import quiet
from limbeck.export.runtime import MARK, OnnxModel, ort_latency
from limbeck.machine import sums_bytes_exactly

KINDS = ("auto", "dynamic", "static")
CONVOLUTIONS = ("Conv", "ConvTranspose")
Scores = Callable[[OnnxModel], dict[str, float]]


def quantize_onnx(path: str | Path, out: str | Path, *, kind: str = "auto", calibration: Iterable[Inputs] | None = None,
                  check_inputs: Iterable[Inputs] | None = None, scores: Scores | None = None,
                  reduce_range: bool | None = None, batches: Sequence[int] = (1, 32),
                  seconds: float = 0.3) -> dict[str, Any]:  # fmt: skip
    """Quantize the weights of an ONNX file to 8 bits, per channel.

    "dynamic" finds the range of the activations at every call: for encoders and MLPs; it leaves convolutions as they
    are, which it would make slower. "static" takes the ranges from `calibration`, batches of real inputs (a few hundred
    samples): for convolutional networks. "auto" counts: static where there are at least half as many convolutions as
    matrix products with weights. `reduce_range` keeps weights to 7 bits, for x86 processors without VNNI, on which
    sums of 8-bit products overflow and outputs are wrong; None: where this machine is one. Say True for a file that runs on
    such elsewhere.

    Gives {"format", "kind", "file", "bytes"}, and beside the float file, on `check_inputs` (or else `calibration`):
    "max_difference" of the outputs and "latency"; None and [] without any. `scores(model)` is called with the new
    file as an `OnnxModel` and its answer recorded. Raises ArgumentError when static has nothing to calibrate on,
    ExportError when nothing could be quantized, the quantizer fails, or outputs are no longer finite.
    """
    reduce_range = not sums_bytes_exactly() if reduce_range is None else reduce_range
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is no way to quantize.{nearest(kind, KINDS)}")
    onnx = need("onnx", "onnx")
    path, out = Path(path), Path(out)
    float_model = OnnxModel(path)
    if float_model.quantized:
        raise ArgumentError(f"{path.name} is quantized already; give the float file that export_onnx wrote.")
    proto = onnx.load(str(path))
    if kind == "auto":
        kind = _suits(proto)
    feeds = [float_model.feed(inputs) for inputs in calibration or ()]
    checks = feeds if check_inputs is None else [float_model.feed(inputs) for inputs in check_inputs]
    if kind == "static" and not feeds:
        raise ArgumentError(
            f"{path.name} is quantized statically, which needs calibration=[...]: batches of real inputs, "
            "a few hundred samples in all."
        )
    # Shapes that the exporter inferred clash with those the quantizer infers.
    del proto.graph.value_info[:]
    with checked(out) as part:
        try:
            with quiet():
                _quantize(proto, part, kind, feeds, reduce_range)
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot quantize {path.name} ({kind}): {error}") from error
        _mark(part, kind)
        model = OnnxModel(part)
        worst = max((_difference(float_model, model, feed) for feed in checks), default=None)
    record: dict[str, Any] = {
        "format": "onnx-int8", "kind": kind, "file": str(out), "bytes": out.stat().st_size, "max_difference": worst,
        "latency": ort_latency(out, checks[0], batches, seconds) if checks else [],
    }  # fmt: skip
    if scores is not None:
        record["scores"] = scores(OnnxModel(out))
    return record


def _suits(proto: Any) -> str:
    """Static for a network of convolutions; dynamic for encoders, also those that cut patches by one convolution."""
    weights = {value.name for value in proto.graph.initializer}
    convolutions = sum(node.op_type in CONVOLUTIONS for node in proto.graph.node)
    products = sum(
        node.op_type in ("MatMul", "Gemm") and not weights.isdisjoint(node.input) for node in proto.graph.node
    )
    return "static" if convolutions and 2 * convolutions >= products else "dynamic"


class _Reader:
    """What ONNX Runtime's calibrators read: one feed after the other, then None."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]):
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _quantize(proto: Any, out: Path, kind: str, feeds: list[dict[str, np.ndarray]], reduce_range: bool) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    # Signed weights: the kernels for unsigned ones are slower where the processor has 8-bit dot products.
    if kind == "dynamic":
        kinds = [name for name in IntegerOpsRegistry if name not in CONVOLUTIONS]
        quantize_dynamic(proto, str(out), op_types_to_quantize=kinds, weight_type=QuantType.QInt8, per_channel=True,
                         reduce_range=reduce_range)  # fmt: skip
    else:
        quantize_static(proto, str(out), _Reader(feeds), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8,
                        activation_type=QuantType.QInt8, per_channel=True, reduce_range=reduce_range)  # fmt: skip


def _mark(path: Path, kind: str) -> None:
    """Write into the file that it is quantized. Raises ExportError when it holds no 8-bit weight."""
    onnx = need("onnx", "onnx")
    proto = onnx.load(str(path))
    eight_bits = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    if not any(value.data_type in eight_bits and value.dims for value in proto.graph.initializer):
        raise ExportError("Nothing in this graph could be quantized: it has no matrix product, embedding or convolution "
                          "with float32 weights. Deploy the float file.")  # fmt: skip
    proto.metadata_props.add(key=MARK, value=kind)
    path.write_bytes(proto.SerializeToString())


def _difference(float_model: OnnxModel, model: OnnxModel, feed: dict[str, np.ndarray]) -> float:
    expected, given = float_model(feed).double(), model(feed).double()
    difference = distance(expected, given)
    if not bool(difference.isfinite().all()):
        raise ExportError("The quantized file gives NaN or infinite outputs where the float file does not. "
                          "Try kind='dynamic', or calibration inputs that cover the data.")  # fmt: skip
    return float(difference.max()) if difference.numel() else 0.0
