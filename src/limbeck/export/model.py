"""One way out for every student: the format by its name or by the ending of the path, checked on real samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.data.base import Data, Inputs, Part, move
from limbeck.errors import ArgumentError, ExportError, ModelError, nearest
from limbeck.evaluation.cost import bytes_on_disk
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.evaluation.run import predict
from limbeck.export.int8 import quantize_onnx
from limbeck.export.onnx import Logits, distance, export_onnx
from limbeck.export.runtime import OnnxModel, ort_latency
from limbeck.tasks.base import Task

FILES = {"onnx": "student.onnx", "onnx-int8": "student.int8.onnx"}
FOLDERS = ("safetensors", "sentence-transformers", "static-int8")
FORMATS = (*FILES, *FOLDERS)
ENDINGS = (".onnx", ".int8.onnx")
CALIBRATION = 256  # samples of the training part that a static quantization looks at


def export_model(
    module: nn.Module, out: str | Path, task: Task | None = None, data: Data | None = None, *,
    format: str | None = None, example_inputs: Inputs = None, calibration: Iterable[Inputs] | None = None,
    tolerance: float = 1e-4, batches: Sequence[int] = (1, 32), seconds: float = 0.3,
) -> dict[str, Any]:  # fmt: skip
    """Export a module as "onnx", "onnx-int8" or "safetensors", a student of vectors as "sentence-transformers" or
    "static-int8" too, and record what came out.

    `out` is a file for ONNX (`.onnx`, `.int8.onnx`), or a folder in which it gets its usual name; for safetensors it is
    the folder of a saved model. Without `format` the ending decides: none means safetensors. With `task` and `data`,
    real samples are taken for tracing, checking and calibrating, and the file is scored on the test part; otherwise
    `example_inputs` (what the module takes) and, for a quantized CNN, `calibration` must be given.

    Gives {"format", "file", "bytes", "max_difference", "scores", "latency", ...}: the largest difference from torch for
    "onnx" and "safetensors", from the float file for "onnx-int8". Raises ArgumentError for an unknown format or missing
    inputs, ExportError when the export fails or computes something else than the module.
    """
    out = Path(out)
    format = _format(out, format)
    if task is not None:
        task.check_export(format, module)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise ArgumentError(f"tolerance={tolerance!r}: expected a number of 0 or more.")
    samples = _scored(data)
    if example_inputs is None and samples is not None and task is not None:
        example_inputs = _view(module, samples, task, range(min(8, len(samples))))
    if format == "safetensors":
        return _save(module, out, task, example_inputs, tolerance)
    if format in FOLDERS:
        return _folder(module, out, format, samples, tolerance)
    if out.suffix != ".onnx" or out.is_dir():
        out = out / FILES[format]
    if example_inputs is None:
        raise ArgumentError(f"Exporting as {format!r} runs the model: give task= and data=, or example_inputs=, what the "
                            "module takes for a few real samples.")  # fmt: skip
    if format == "onnx":
        record = export_onnx(module, example_inputs, out, task=task, tolerance=tolerance)
        record["latency"] = ort_latency(out, example_inputs, batches, seconds)
    else:
        if calibration is None and data is not None and task is not None:
            calibration = _batches(module, data.parts.get("train", samples), task)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "student.onnx"
            export_onnx(module, example_inputs, whole, task=task, tolerance=tolerance)
            record = quantize_onnx(whole, out, calibration=calibration, check_inputs=[example_inputs], batches=batches,
                                   seconds=seconds)  # fmt: skip
    record["scores"] = {}
    if samples is not None and data is not None and task is not None and bool(samples.is_labelled().any()):
        logits = predict(OnnxModel(out, like=module), samples, task)
        record["scores"] = task.scores(logits, samples.labels, data.classes)  # type: ignore[arg-type]
    return record


def _folder(module: nn.Module, out: Path, format: str, samples: Part | None, tolerance: float) -> dict[str, Any]:
    """A folder that others read, compared with the module on some texts."""
    texts = [] if samples is None else list(samples.gather(torch.arange(min(64, len(samples)))))
    if not texts or not isinstance(texts[0], str):
        raise ArgumentError(f"Exporting as {format!r} compares vectors of texts: give task= and data= of texts.")
    from limbeck.tasks.embedding import Embedding

    Embedding().check_export(format, module)  # also of a module that is exported without its task
    if format == "static-int8":
        from limbeck.export.static_bytes import export_bytes

        return export_bytes(module, out, texts)  # type: ignore[arg-type]
    from limbeck.export.sentence_folder import export_sentence_folder

    return export_sentence_folder(module, out, texts, tolerance)  # type: ignore[arg-type]


def _format(out: Path, format: str | None) -> str:
    """The format by name, or by the ending of a path; refuses the two where they contradict each other."""
    if format is None:
        if out.suffix == ".onnx":
            return "onnx-int8" if out.name.endswith(".int8.onnx") else "onnx"
        if out.suffix and not out.is_dir():
            raise ArgumentError(f"{out.name!r} says no format that can be exported.{nearest(out.suffix, ENDINGS)} "
                                "Or name one by format=; safetensors are a folder.")  # fmt: skip
        return "safetensors"
    if format not in FORMATS:
        raise ArgumentError(f"format={format!r} cannot be exported.{nearest(format, FORMATS)}")
    if format in FOLDERS and out.suffix in (".onnx", ".safetensors"):
        raise ArgumentError(f"{out.name!r} is a file; {format} is a folder of weights, config and tokenizer.")
    return format


def _scored(data: Data | None) -> Part | None:
    """The part on which an export is scored and checked: test, else valid, else train."""
    parts = [] if data is None else [data.parts[name] for name in ("test", "valid", "train") if name in data.parts]
    return next((part for part in parts if len(part)), None)


def _view(module: nn.Module, part: Part, task: Task, positions: range) -> Inputs:
    return task.view(part.batch(torch.tensor(positions)), module, "student")


def _batches(module: nn.Module, part: Part, task: Task, size: int = 32) -> Iterable[Inputs]:
    """Batches of samples spread evenly over a part."""
    positions = torch.linspace(0, len(part) - 1, min(CALIBRATION, len(part))).round().long()
    for chosen in positions.split(size):
        yield task.view(part.batch(chosen), module, "student")


def _save(module: nn.Module, folder: Path, task: Task | None, example: Inputs, tolerance: float) -> dict[str, Any]:
    """Save, load again where Limbeck knows how, and compare on the example."""
    from limbeck.students.save import load_module, save_model

    save_model(module, folder, task=task)
    worst = None
    try:
        loaded = load_module(folder).to(device_of(module)) if example is not None else None
    except ModelError:  # no builder is known: the weights are saved, the user's own code builds the module
        loaded = None
    if loaded is not None:
        first, second, inputs = Logits(module, task), Logits(loaded, task), move(example, device_of(module))
        with evaluating(first), evaluating(second):
            worst = float(distance(first(inputs), second(inputs)).max())
        if worst > tolerance:
            raise ExportError(f"The model loaded again from {folder} gives outputs that differ by {worst:.3g}.")
    return {"format": "safetensors", "file": str(folder), "bytes": bytes_on_disk(folder), "max_difference": worst,
            "scores": {}, "latency": []}  # fmt: skip
