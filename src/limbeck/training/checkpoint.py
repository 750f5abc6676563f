"""Checkpoints: written aside, synced, renamed; read back whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.disk import reading, sync, writing
from limbeck.errors import RunError

State = dict[str, Any]


def write_folder(path: Path, files: dict[str, Any]) -> None:
    """Write a folder so that it is there completely or not at all.

    `files`: name -> a mapping of tensors (.safetensors), any object of tensors and plain values (.pt), or JSON (.json).
    """
    aside = path.with_name(path.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(path):
        try:
            aside.mkdir(parents=True)
            for name, content in files.items():
                file = aside / name
                if name.endswith(".safetensors"):
                    save_file(_plain(content), file)
                elif name.endswith(".pt"):
                    torch.save(content, file)
                else:
                    file.write_text(json.dumps(content, indent=1))
                sync(file)
            sync(aside)
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory (tied weights): each name gets its own copy
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


class Checkpoints:
    """The checkpoints of one stage: `step-N` folders, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def save(self, step: int, weights: dict[str, Tensor], best: dict[str, Tensor], state: State) -> Path:
        """Write a checkpoint of `step` finished optimizer steps, then drop the oldest."""
        path = self.folder / f"step-{step:08d}"
        files: dict[str, Any] = {"weights.safetensors": weights, "state.pt": state}
        if best:
            files["best.safetensors"] = best
        write_folder(path, files)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}", ignore_errors=True)
        return path

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, ascending."""
        if not self.folder.is_dir():
            return []
        names = (re.fullmatch(r"step-(\d+)", child.name) for child in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def load(self, device: str = "cpu") -> tuple[int, dict[str, Tensor], dict[str, Tensor], State] | None:
        """The newest checkpoint that can be read, or None. A half-written one has no final name and is never seen.

        Raises RunError where there are some and all are damaged.
        """
        problems: list[RunError] = []
        for step in reversed(self.steps()):
            try:
                return step, *self._read(self.folder / f"step-{step:08d}", device)
            except RunError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return None

    def _read(self, path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor], State]:
        best = path / "best.safetensors"
        with reading(path, f"Remove {self.folder} to train this stage from its beginning, by the same command."):
            # on the CPU only what is looked at is read
            state = torch.load(path / "state.pt", map_location=device, weights_only=True, mmap=device == "cpu")
            weights = load_file(path / "weights.safetensors", device=device)
            return weights, load_file(best, device="cpu") if best.exists() else {}, state

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
