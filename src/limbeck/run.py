"""One execution of a recipe: its student, its table, its report, its exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.data.base import Data
from limbeck.disk import read
from limbeck.errors import ArgumentError, RunError, nearest
from limbeck.tasks.base import Task
from limbeck.training.folder import RunFolder

Record = dict[str, Any]
EXPORTS = {
    "onnx": "student.onnx", "onnx-int8": "student.int8.onnx", "safetensors": "student",
    "sentence-transformers": "student.st", "static-int8": "student.int8",
}  # fmt: skip


class Run:
    """What `distill` gives back. `student` is the trained module in eval mode; `record` all that was measured."""

    def __init__(self, student: nn.Module, record: Record, *, task: Task, data: Data, folder: RunFolder | None = None):
        self.student, self.record, self.task, self.data, self.folder = student, record, task, data, folder

    @property
    def path(self) -> Path | None:
        """The run's folder, None for a run in memory."""
        return self.folder.path if self.folder else None

    @property
    def table(self) -> list[dict[str, Any]]:
        """The models side by side, a row each."""
        from limbeck.report.text import table_rows

        return table_rows(self.record)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return self.record["verdict"]

    @property
    def report(self) -> Path:
        """The path of report.html."""
        if self.folder is None:
            raise RunError("This run has no folder, so that it has no report. Give out=, or call save_report(path).")
        return self.save_report(self.folder.path / "report.html")

    def save_report(self, path: str | Path) -> Path:
        """Write the report to a file of your choice."""
        from limbeck.report.build import render

        return render(self.record, Path(path))

    def show(self) -> None:
        """Print the table, the verdict, and what to beware of."""
        from limbeck.report.text import show

        show(self.record)

    def export(self, path: str | Path | None = None, format: str | None = None, **options: Any) -> Record:
        """Export the student ("onnx", "onnx-int8", "safetensors", ...; by default what the path's ending says).

        Outputs are compared with torch on real inputs; a difference above the tolerance is an ExportError. The record
        (file, bytes, largest difference, scores, latency) is added to the report.
        """
        from limbeck.export import export_model

        if path is None:
            if self.folder is None:
                raise RunError("This run has no folder: say where to, as in run.export('student.onnx').")
            format = format or "onnx"
            path = self.folder.path / EXPORTS.get(format, "student.onnx")
        elif self.folder is not None and Path(path).parent == Path():
            path = self.folder.path / path
        found = export_model(self.student, Path(path), self.task, self.data, format=format, **options)
        self.record["exports"] = [
            e for e in self.record.get("exports", []) if (e["format"], e["file"]) != (found["format"], found["file"])
        ] + [found]
        self.save()
        return found

    def save(self) -> None:
        """Write report.json, table.json and report.html into the folder."""
        if self.folder is not None:
            self.folder.write("report.json", self.record)
            self.folder.write("table.json", self.table)
            self.save_report(self.folder.path / "report.html")


def check_exports(formats: Sequence[str], out: str | Path | None) -> list[str]:
    """The formats, once it is sure that a run could be exported so: before it is trained, not after."""
    for format in formats:
        if format not in EXPORTS:
            raise ArgumentError(f"export={format!r} is no format.{nearest(format, EXPORTS)}")
    if formats and out is None:
        raise ArgumentError(
            f"export={list(formats)} needs out=, the folder for the files; or call run.export('student.onnx')."
        )
    return list(formats)


def load_record(path: str | Path) -> Record:
    """The record of a run from its folder."""
    file = Path(path) / "report.json"
    if not file.exists():
        state = Path(path) / "run.json"
        how = f" Its run is {read(state)['status']}." if state.exists() else ""
        raise RunError(f"{str(path)!r} holds no finished run (no report.json).{how}")
    return read(file, "Remove it and run the same command with resume=true: all is measured again.")
