"""Export: a student that leaves the house, and the check that it still computes what it computed inside."""

from __future__ import annotations

from typing import Any

__all__ = ["OnnxModel", "export_model", "export_onnx", "open_index", "ort_latency", "quantize_onnx", "write_index"]

_HOMES = {"OnnxModel": "runtime", "ort_latency": "runtime", "export_model": "model", "export_onnx": "onnx",
          "quantize_onnx": "int8", "open_index": "index", "write_index": "index"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
