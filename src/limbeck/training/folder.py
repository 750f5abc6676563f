"""A run's folder: what it holds, who may write into it, and what was asked for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from limbeck.disk import hold, read, release, write_text
from limbeck.errors import RunError


def main_process() -> bool:
    """Whether this process is the one that writes: the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class RunFolder:
    """`config.yaml`: what was asked for. `run.json`: how far it came. See `files` for the rest.

    Nothing in the folder is touched before the first step of a training (`begin`, told by the loop), when models, data
    and objective have been tried: bad input leaves no half run, and an overwritten run stays until its successor stands.
    """

    files = {
        "config.yaml": "what was asked for", "run.json": "how far it came", "data.json": "the data and how they were split",
        "metrics.jsonl": "losses and scores", "student/": "the student", "report.json": "all that was measured",
        "report.html": "the report", "table.json": "the table", "stages/": "checkpoints and finished stages",
        "generated/": "what models wrote for the recipe",
    }  # fmt: skip

    first = {"config.yaml", "data.json", "run.json"}  # written before the first step, in this order

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.writes = main_process()
        self.taken = False
        self._held: int | None = None

    def open(
        self, config: dict[str, Any], data: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Ask for the folder, for a run with this config and these data; `begin` takes it, a resumed run's at once.

        Refuses one that holds another run, unless it overwrites it, or resumes it with the same config and data.
        """
        self._asked = (config, data, resume, overwrite)
        if not self.writes:
            return
        self._check(config, data, resume, overwrite)
        probe = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not os.access(probe, os.W_OK | os.X_OK):
            raise RunError(
                f"out={str(self.path)!r} cannot be written: {probe} allows no writing. Choose another folder."
            )
        if (self.path / "run.json").exists() and not overwrite:
            self.begin()

    @property
    def replaces(self) -> bool:
        """Whether what another run left here may go."""
        return bool(self._asked[3])

    def begin(self, loop: Any = None) -> None:
        """Take the folder, once: lock it against other processes, clear an overwritten run, write down what was asked."""
        if self.taken or not self.writes:
            return
        config, data, resume, overwrite = self._asked
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._held = hold(self.path)
            self._check(config, data, resume, overwrite)  # again: it may have been taken since
            if overwrite and (self.path / "run.json").exists():
                self._clear()
            if not (self.path / "run.json").exists():
                write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            self.taken = True
            self.write("data.json", data)
            self.status("running")
        except BaseException as error:
            self.leave()
            if isinstance(error, OSError):
                raise RunError(f"out={str(self.path)!r} cannot be written: {error.strerror or error}.") from error
            raise

    def leave(self) -> None:
        """Let other processes have the folder."""
        if self._held is not None:
            release(self._held)
        self.taken, self._held = False, None

    def _check(self, config: dict[str, Any], data: dict[str, Any], resume: bool, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"out={str(self.path)!r} is a file. Give a folder.")
        if (self.path / "run.json").exists():
            self._check_held(config, data, resume, overwrite)
        elif self.path.is_dir() and {child.name.removesuffix(".tmp") for child in self.path.iterdir()} - self.first:
            raise RunError(
                f"out={str(self.path)!r} is not empty and holds no run of Limbeck. Choose another folder, so that nothing of "
                "yours is overwritten."
            )

    def _check_held(self, config: dict[str, Any], data: dict[str, Any], resume: bool, overwrite: bool) -> None:
        if overwrite:
            return
        state = read(self.path / "run.json")
        if not resume:
            raise RunError(
                f"out={str(self.path)!r} already holds a run ({state['status']}). Go on with it by resume=true, replace it by "
                "overwrite=true, or choose another folder."
            )
        before = read(self.path / "config.yaml")
        differing = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
        if differing:
            raise RunError(
                f"The run in {str(self.path)!r} was started with other arguments: "
                + "; ".join(f"{key}: {before.get(key)!r}, now {config.get(key)!r}" for key in differing)
                + ". Resume with the same ones, or choose another folder."
            )
        known = (
            read(self.path / "data.json", "Remove it and run the same command again.")
            if (self.path / "data.json").exists()
            else data
        )
        if known["fingerprint"] != data["fingerprint"]:
            raise RunError(
                f"The run in {str(self.path)!r} was started with other samples than {data.get('source')!r} holds now. Resume "
                "with the same data, start anew by overwrite=true, or choose another folder."
            )

    def _clear(self) -> None:
        names = {*self.files, "alone", "seeds", "student.onnx", "student.int8.onnx"} - {"run.json"}
        for name in (*sorted(names), "run.json"):  # that one last: until then it is a run that can be overwritten
            target = self.path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    def status(self, status: str, **more: Any) -> None:
        """running, interrupted, diverged, failed, finished: with all but the first, the folder is let go."""
        if not self.taken:
            return
        try:
            write_text(self.path / "run.json", json.dumps({"status": status, **more}, indent=1))
        finally:
            if status != "running":
                self.leave()

    def write(self, name: str, content: Any) -> None:
        if not self.writes:
            return
        write_text(self.path / name, content if isinstance(content, str) else json.dumps(content, indent=1))
