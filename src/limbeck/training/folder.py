"""A run's folder: what it holds, who may write into it, and what was asked for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from limbeck.disk import write_text
from limbeck.errors import RunError


def main_process() -> bool:
    """Whether this process is the one that writes: the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class RunFolder:
    """`config.yaml`: what was asked for. `run.json`: how far it came. See `files` for the rest."""

    files = {
        "config.yaml": "what was asked for", "run.json": "how far it came", "data.json": "the data and how they were split",
        "metrics.jsonl": "losses and scores", "student/": "the student", "report.json": "all that was measured",
        "report.html": "the report", "table.json": "the table", "stages/": "checkpoints and finished stages",
    }  # fmt: skip

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.writes = main_process()

    def open(
        self, config: dict[str, Any], data: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Take the folder for a run and write down its config and data.

        Refuses one that holds another run, unless it overwrites it, or resumes it with the same config and data.
        """
        if not self.writes:
            return
        held = self.path / "run.json"
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"out={str(self.path)!r} is a file. Give a folder.")
        if held.exists():
            self._take_held(config, data, resume, overwrite)
        elif self.path.is_dir() and any(self.path.iterdir()) and not (resume or overwrite):
            raise RunError(
                f"out={str(self.path)!r} is not empty and holds no run of Limbeck. Choose another folder, so that nothing of "
                "yours is overwritten."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunError(f"out={str(self.path)!r} cannot be written: {error.strerror or error}.") from error
        if not (self.path / "config.yaml").exists():
            write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self.write("data.json", data)
        self.status("running")

    def _take_held(self, config: dict[str, Any], data: dict[str, Any], resume: bool, overwrite: bool) -> None:
        state = json.loads((self.path / "run.json").read_text())
        if overwrite:
            for name in self.files:
                target = self.path / name
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            for name in ("alone", "seeds", "student.onnx", "student.int8.onnx"):
                target = self.path / name
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            return
        if not resume:
            raise RunError(
                f"out={str(self.path)!r} already holds a run ({state['status']}). Go on with it by resume=true, replace it by "
                "overwrite=true, or choose another folder."
            )
        before = yaml.safe_load((self.path / "config.yaml").read_text())
        differing = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
        if differing:
            raise RunError(
                f"The run in {str(self.path)!r} was started with other arguments: "
                + "; ".join(f"{key}: {before.get(key)!r}, now {config.get(key)!r}" for key in differing)
                + ". Resume with the same ones, or choose another folder."
            )
        known = json.loads((self.path / "data.json").read_text()) if (self.path / "data.json").exists() else data
        if known["fingerprint"] != data["fingerprint"]:
            raise RunError(
                f"The run in {str(self.path)!r} was started with other samples than {data.get('source')!r} holds now. Resume "
                "with the same data, start anew by overwrite=true, or choose another folder."
            )

    def status(self, status: str, **more: Any) -> None:
        """running, interrupted, diverged, failed, finished."""
        if not self.writes:
            return
        write_text(self.path / "run.json", json.dumps({"status": status, **more}, indent=1))

    def write(self, name: str, content: Any) -> None:
        if not self.writes:
            return
        write_text(self.path / name, content if isinstance(content, str) else json.dumps(content, indent=1))
