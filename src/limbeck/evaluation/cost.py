"""What a model costs: size, multiply-accumulates, time, memory. Measured, never estimated from a formula of the layers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Inputs, move
from limbeck.errors import ArgumentError
from limbeck.evaluation.memory import peak_memory
from limbeck.evaluation.modes import device_of, evaluating

Run = Callable[[nn.Module, Inputs], Any]


def call(module: nn.Module, inputs: Inputs) -> Any:
    """Run a module the plain way: a dict as keyword arguments, anything else as the one argument."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns or learned; a tensor shared by two layers counts once. Buffers do not count."""
    return sum(value.numel() for value in module.parameters())


def bytes_in_memory(module: nn.Module) -> int:
    """Bytes of the parameters and buffers, shared ones once."""
    storages = {}
    for value in [*module.parameters(), *module.buffers()]:
        storage = value.untyped_storage()
        storages[(value.device, storage.data_ptr())] = storage.nbytes()
    return sum(storages.values())


def bytes_on_disk(path: str | Path) -> int:
    """Bytes of a file, or of all files in a folder. Raises ArgumentError when there is nothing."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        raise ArgumentError(f"There is no file or folder {str(path)!r} to weigh.")
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def macs(module: nn.Module, inputs: Inputs, run: Run = call) -> tuple[int | None, str | None]:
    """Multiply-accumulates of one forward pass over `inputs`, and None; or None and the reason why they are unknown.

    Counts matrix products, convolutions and attention while the model runs; elementwise work is not counted. Pass one
    sample for the usual number. Recurrent layers and quantized kernels are opaque to the counter: no number then.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    opaque = {type(child).__name__ for child in module.modules() if _is_opaque(child)}
    if opaque:
        return None, f"Multiply-accumulates are unknown: {', '.join(sorted(opaque))} cannot be counted."
    # Fused attention and the fused encoder layer count as nothing on a CPU; their plain forms are the same products.
    fused = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with evaluating(module), sdpa_kernel(SDPBackend.MATH), counter:
            run(module, move(inputs, device_of(module)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    total = counter.get_total_flops() // 2
    if total == 0 and any(True for _ in module.parameters()):
        return None, "Multiply-accumulates are unknown: no operation of this model is known to the counter."
    return total, None


def _is_opaque(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase | nn.Bilinear) or ".quantized" in type(module).__module__


def latency(fn: Callable[[Any], Any], inputs_of_batch: Callable[[int], Any], batches: Sequence[int] = (1, 32),
            seconds: float = 0.3, warmup: int = 3, backend: str = "torch") -> list[dict[str, Any]]:  # fmt: skip
    """Time `fn(inputs_of_batch(b))` for each batch size b; `fn` must return only when the work is done.

    Calls until `seconds` have passed and there are 20 calls, but stops at ten times `seconds` with at least 3. Gives
    {"backend", "batch", "p50_ms", "p95_ms", "throughput", "calls", "threads"} each: percentiles of single calls in
    milliseconds, throughput in samples per second over all calls, torch's thread count. Inputs are prepared untimed.
    """
    rows = []
    for batch in batches:
        if batch < 1:
            raise ArgumentError(f"batches={list(batches)}: expected sizes of 1 or more.")
        inputs = inputs_of_batch(batch)
        for _ in range(warmup):
            fn(inputs)
        times: list[float] = []
        spent = 0.0
        while (spent < seconds or len(times) < 20) and (spent < 10 * seconds or len(times) < 3):
            start = time.perf_counter()
            fn(inputs)
            times.append(time.perf_counter() - start)
            spent += times[-1]
        times.sort()
        rows.append({
            "backend": backend, "batch": batch,
            "p50_ms": 1000 * _percentile(times, 0.50), "p95_ms": 1000 * _percentile(times, 0.95),
            "throughput": batch * len(times) / spent, "calls": len(times), "threads": torch.get_num_threads(),
        })  # fmt: skip
    return rows


def _percentile(times: list[float], share: float) -> float:
    """The smallest of the sorted times that at least `share` of them do not exceed."""
    return times[max(0, math.ceil(share * len(times)) - 1)]


def repeated(inputs: Inputs, batch: int) -> Inputs:
    """Inputs of `batch` samples, made by repeating those of an example (a tensor or a dict of tensors)."""
    if isinstance(inputs, dict):
        return {key: repeated(value, batch) for key, value in inputs.items()}
    if not isinstance(inputs, Tensor):
        raise ArgumentError(f"Cannot repeat inputs of type {type(inputs).__name__}; expected tensors.")
    return inputs[torch.arange(batch, device=inputs.device) % len(inputs)]


def measure(module: nn.Module, example: Inputs, path: str | Path | None = None, batches: Sequence[int] = (1, 32),
            seconds: float = 0.3, run: Run = call) -> dict[str, Any]:  # fmt: skip
    """All costs of a module in the shape of report.json, for one sample where that matters.

    `example` is what the module takes for one or more samples (`task.example`), `run` how it is called
    (`task.forward`). Gives {"parameters", "bytes", "macs", "peak_memory_bytes", "latency", "warnings"}: `bytes` are those
    of `path` on disk, or of the weights in memory without one; `peak_memory_bytes` is weights and buffers plus the
    most that one forward pass of one sample holds (see `peak_memory`).
    """
    device = device_of(module)
    one = move(repeated(example, 1), device)
    count, warning = macs(module, one, run)

    def forward(inputs: Inputs) -> None:
        run(module, inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with evaluating(module):
        times = latency(forward, lambda batch: move(repeated(example, batch), device), batches, seconds)
        peak = peak_memory(lambda: run(module, one))
    return {
        "parameters": parameters(module),
        "bytes": bytes_in_memory(module) if path is None else bytes_on_disk(path),
        "macs": count,
        "peak_memory_bytes": bytes_in_memory(module) + peak,
        "latency": times,
        "warnings": [warning] if warning else [],
    }
