"""From a torch module to an ONNX file that computes the same, for any batch size; and for any length of tokens."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.data.base import Inputs
from limbeck.errors import ArgumentError, ExportError
from limbeck.evaluation.cost import call, repeated
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.export.files import checked
from limbeck.export.quiet import quiet
from limbeck.export.runtime import OnnxModel, tensors
from limbeck.tasks.base import Task


class Logits(nn.Module):
    """A module that takes one argument, a tensor or a dict of tensors, and gives logits alone, or its task's first signal."""

    @property
    def name(self) -> str:
        """What the output is called in a file."""
        return "logits" if self.task is None else self.task.exported

    def __init__(self, module: nn.Module, task: Task | None = None):
        super().__init__()
        self.module, self.task = module, task

    def forward(self, inputs: Inputs) -> Tensor:
        if self.task is not None:
            logits = self.task.signals(self.task.forward(self.module, inputs))[self.task.outputs[0]]
            return logits.whole() if hasattr(logits, "whole") else logits
        output = call(self.module, inputs)
        if isinstance(output, Mapping):
            output = output.get("logits", output)
        output = getattr(output, "logits", output)
        output = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(output, Tensor):
            raise ExportError(f"The model gives a {type(output).__name__}; expected a tensor of logits, an output with "
                              ".logits, or a task that knows where they are (task=...).")  # fmt: skip
        return output


def export_onnx(module: nn.Module, example_inputs: Inputs, path: str | Path, *, task: Task | None = None,
                tolerance: float = 1e-4, check_inputs: Iterable[Inputs] | None = None) -> dict[str, Any]:  # fmt: skip
    """Write a module as one ONNX file, then run the file and compare it with the module.

    `example_inputs` is what the module takes, real samples: a tensor, or a dict of tensors, with the batch first. The
    batch of the file is free; so is the length of integer inputs [batch, tokens], where the module allows it. The file
    is run on the example at batch sizes 1, 2 and 3 (also at half its length), and on each of `check_inputs`; each
    output may differ by tolerance * (1 + |output|). Gives {"format", "file", "bytes", "max_difference", "dynamic"}.

    Raises ExportError when torch cannot trace the module, or when the file computes something else: that one is kept
    as `path` + ".rejected" for a look, and what was at `path` before stays.
    """
    need("onnxscript", "onnx")
    example = repeated(_inputs(example_inputs), 2)  # a batch of 1 would be taken for a constant
    path = Path(path)
    if device_of(module).type != "cpu":
        module = copy.deepcopy(module).cpu()
    wrapped = Logits(module, task)
    with checked(path) as part, evaluating(wrapped):
        dynamic = _write(wrapped, example, part)
        checks = [repeated(example, 1), example, repeated(_inputs(example_inputs), 3)]
        checks += [_inputs(inputs) for inputs in check_inputs or ()]
        if "sequence" in dynamic:
            checks += [inputs for inputs in map(_half, checks[:3]) if _takes(wrapped, inputs)]
        worst = _compare(wrapped, OnnxModel(part), checks, tolerance)
    return {"format": "onnx", "file": str(path), "bytes": path.stat().st_size, "max_difference": worst,
            "dynamic": dynamic}  # fmt: skip


def _inputs(inputs: Inputs) -> Inputs:
    """Inputs as tensors on the CPU. Raises ArgumentError for what has no batch axis."""
    if isinstance(inputs, Mapping):
        inputs = {name: value for name, value in inputs.items() if value is not None}
    try:
        inputs = tensors(inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"Cannot export for inputs of type {type(inputs).__name__} ({error}). Expected what the "
                            "module takes: a tensor or a dict of tensors; texts must be tokenized.") from error  # fmt: skip
    values = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    if not values or any(value.ndim == 0 or not len(value) for value in values):
        raise ArgumentError("Example inputs need at least one sample, with the batch as the first axis of each tensor.")
    return inputs


def _tokens(inputs: Inputs) -> int | None:
    """The length of token inputs: the second axis of the first integer tensor [batch, tokens]; None without one."""
    for value in inputs.values() if isinstance(inputs, dict) else [inputs]:
        if value.ndim == 2 and value.dtype in (torch.int64, torch.int32) and value.shape[1] > 1:
            return value.shape[1]
    return None


def _along(value: Tensor, length: int | None) -> bool:
    return length is not None and value.ndim == 2 and value.shape[1] == length


def _axes(inputs: Inputs, length: int | None) -> Any:
    if isinstance(inputs, dict):
        return {name: _axes(value, length) for name, value in inputs.items()}
    return {0: "batch", 1: "sequence"} if _along(inputs, length) else {0: "batch"}


def _half(inputs: Inputs, length: int | None = None) -> Inputs:
    length = length or _tokens(inputs)
    if isinstance(inputs, dict):
        return {name: _half(value, length) for name, value in inputs.items()}
    return inputs[:, : length // 2] if length and _along(inputs, length) else inputs


def _takes(module: nn.Module, inputs: Inputs) -> bool:
    try:
        module(inputs)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def _write(module: Logits, example: Inputs, path: Path) -> list[str]:
    """Export with a free length where there are tokens, else or after a refusal with a free batch only."""
    onnx = need("onnx", "onnx")
    length = _tokens(example)
    names = list(example) if isinstance(example, dict) else ["input"]
    for free in [length, None] if length else [None]:
        try:
            with quiet():
                program = torch.onnx.export(
                    module, (), kwargs={"inputs": example}, dynamo=True, verbose=False, input_names=names,
                    output_names=[module.name], dynamic_shapes={"inputs": _axes(example, free)}, external_data=False,
                )  # fmt: skip
                proto = program.model_proto  # type: ignore[union-attr]
            break
        except ExportError:
            raise
        except Exception as error:
            if free is None:
                raise ExportError(
                    f"torch cannot export this {type(module.module).__name__}: {_reason(error)}"
                ) from error
    # The exporter notes stack traces and source paths of this machine at every node: often more bytes than the weights.
    for graph in [proto.graph, *proto.functions]:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.metadata_props[:]
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ExportError(f"The model takes {proto.ByteSize():,} bytes; one ONNX file holds less than 2 GB. Shrink the "
                          "student, or deploy its safetensors.")  # fmt: skip
    path.write_bytes(proto.SerializeToString())
    return ["batch", "sequence"] if free else ["batch"]


def _reason(error: Exception) -> str:
    """The cause inside torch's long export report, without colour codes."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    found = re.search(r"## Exception summary\s+(.*?)(?:\n\n\(Refer|\Z)", text, re.DOTALL)
    return " ".join((found.group(1) if found else text).split())[:600]


def _compare(module: nn.Module, exported: OnnxModel, checks: list[Inputs], tolerance: float) -> float:
    """The largest absolute difference of the two over all checks. Raises ExportError beyond the tolerance."""
    worst, allowed = 0.0, True
    for inputs in checks:
        expected = module(inputs).double()
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        try:
            given = exported(inputs).double()
        except ExportError:
            raise
        except Exception as error:  # the runtime's own classes
            raise ExportError(
                f"The exported file does not run on inputs of shape {list(first.shape)}: {error}"
            ) from error
        if expected.shape != given.shape:
            raise ExportError(f"For inputs of shape {list(first.shape)} the exported file gives {list(given.shape)}, "
                              f"the module {list(expected.shape)}.")  # fmt: skip
        difference = distance(expected, given)
        worst = max(worst, float(difference.max()) if difference.numel() else 0.0)
        allowed = allowed and bool((difference <= tolerance * (1 + expected.abs().nan_to_num())).all())
    if not allowed:
        raise ExportError(
            f"The exported file does not compute what the module computes: outputs differ by up to {worst:.3g}, "
            f"more than the tolerance of {tolerance:g} allows. Is something in the module random in eval mode, or decided "
            "in Python while it is traced? If the difference is harmless, pass a larger tolerance."
        )
    return worst


def distance(expected: Tensor, given: Tensor) -> Tensor:
    """|expected - given| entry by entry; 0 where both are the same infinity or NaN, infinite where only one is."""
    same = (expected == given) | (expected.isnan() & given.isnan())
    return torch.where(same, 0, (expected - given).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)
