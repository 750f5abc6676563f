"""What the numbers were measured on: processor, cores, versions. No host names."""

from __future__ import annotations

import functools
import os
import platform
import sys
from importlib import metadata
from typing import Any


def describe() -> dict[str, Any]:
    """The machine and the versions that matter, in plain values."""
    found: dict[str, Any] = {
        "processor": _processor(), "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "limbeck": metadata.version("limbeck"),
    }  # fmt: skip
    for name in ("torch", "accelerate", "transformers", "onnxruntime", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name(0)
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def fast_bf16(device: Any) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there: GPUs of today, CPUs with AVX512-BF16 or AMX."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and ("avx512_bf16" in _flags() or "amx_bf16" in _flags())


def sums_bytes_exactly() -> bool:
    """Whether products of 8-bit numbers are summed without overflow: on all but x86 processors without VNNI."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")
    return not x86 or any("vnni" in flag for flag in _flags())


@functools.cache
def _flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return frozenset(next((line.split(":", 1)[1].split() for line in file if line.startswith("flags")), []))
    except OSError:
        return frozenset()
