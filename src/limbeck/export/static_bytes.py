"""A static student with tables of bytes: a quarter of the size, read by `limbeck.export.static`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.evaluation.cost import bytes_on_disk
from limbeck.export.static import CONFIG, WEIGHTS, load_static
from limbeck.students.encoders import StaticEncoder
from limbeck.students.save import replacing, taught

FORMAT = "limbeck-static-int8"


def in_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """A table [rows, width] as int8 [rows, width] and the scale of each row [rows]."""
    scale = table.abs().amax(1).clamp(min=1e-12) / 127
    return (table / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def export_bytes(module: StaticEncoder, folder: Path, texts: list[str]) -> dict[str, Any]:
    """Write the folder and compare its vectors with the module's on some texts.

    Gives {"format", "file", "bytes", "max_difference"}. Raises ArgumentError for a student without tokenizer.
    """
    from safetensors.torch import save_file

    if module.tokenizer is None:
        raise ArgumentError("This static student has no tokenizer; set module.tokenizer first.")
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    for name in [name for name in state if name.endswith("table.weight")]:
        state[name], state[name.removesuffix("weight") + "scale"] = in_rows(state[name])
    spec: Any = module.limbeck_spec
    with replacing(folder) as aside:
        save_file(state, aside / WEIGHTS)
        module.tokenizer.save_pretrained(aside / "tokenizer")
        (aside / CONFIG).write_text(json.dumps({**spec, "format": FORMAT, **taught(module)}, indent=1) + "\n")
    worst = abs(load_static(folder).encode(texts) - module.encode(texts)).max()
    return {"format": "static-int8", "file": str(folder), "bytes": bytes_on_disk(folder), "max_difference": float(worst),
            "scores": {}, "latency": []}  # fmt: skip
