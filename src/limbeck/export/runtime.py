"""An exported model, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.data.base import Inputs
from limbeck.errors import ExportError
from limbeck.evaluation.cost import latency, repeated
from limbeck.tasks.text import length_limit, tokenizer_of

MARK = "limbeck.int8"  # the metadata of a quantized file: how it was quantized


class OnnxModel(nn.Module):
    """An ONNX file as a module: takes the tensor, dict or keywords that the student takes, gives its logits (CPU).

    So `evaluate(OnnxModel(path), data, task)` measures the file that is deployed. For texts name the module that it was
    made from, `like=student`: its tokenizer and its limit of length are used. Runs on the CPU with as many threads as
    torch has. Raises ExportError when the file does not load.
    """

    def __init__(self, path: str | Path, like: nn.Module | None = None):
        super().__init__()
        self.path = Path(path)
        self.tokenizer = None if like is None else tokenizer_of(like)
        if like is not None and self.tokenizer is not None:
            self.config = SimpleNamespace(max_position_embeddings=length_limit(like, self.tokenizer))
        onnxruntime = need("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has a dozen exception classes of its own, without a common base
            raise ExportError(f"ONNX Runtime cannot load {str(path)!r}: {_first_line(error)}") from error
        self.inputs = [value.name for value in self.session.get_inputs()]

    @property
    def quantized(self) -> bool:
        """Whether the file holds integer weights, by the mark that `quantize_onnx` leaves in it."""
        return MARK in self.session.get_modelmeta().custom_metadata_map

    def feed(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """The inputs by name, as arrays. A dict may hold more than the graph takes. Raises ExportError for less."""
        named = inputs if isinstance(inputs, Mapping) else {self.inputs[0]: inputs}
        missing = [name for name in self.inputs if name not in named]
        if missing:
            raise ExportError(f"{self.path.name} takes the inputs {self.inputs}; {missing} were not given.")
        return {name: array(named[name]) for name in self.inputs}

    def forward(self, inputs: Inputs = None, **named: Any) -> Tensor:
        return torch.from_numpy(self.session.run(None, self.feed(named if inputs is None else inputs))[0])


def array(value: Any) -> np.ndarray:
    """A contiguous array of a tensor, array or list."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value)


def tensors(inputs: Inputs) -> Inputs:
    """The same inputs as tensors on the CPU."""
    if isinstance(inputs, Mapping):
        return {name: torch.as_tensor(value).detach().cpu() for name, value in inputs.items()}
    return torch.as_tensor(inputs).detach().cpu()


def ort_latency(path: str | Path, inputs: Inputs, batches: Sequence[int] = (1, 32), seconds: float = 0.3,
                ) -> list[dict[str, Any]]:  # fmt: skip
    """Time an exported file on the CPU: the rows of `evaluation.cost.latency`, made from `inputs` by repetition.

    The backend is "onnxruntime", or "onnxruntime int8" for a file that `quantize_onnx` made.
    """
    model = OnnxModel(path)
    backend = "onnxruntime int8" if model.quantized else "onnxruntime"
    example = tensors(inputs)
    return latency(lambda feed: model.session.run(None, feed), lambda batch: model.feed(repeated(example, batch)),
                   batches, seconds, backend=backend)  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
