"""What models wrote for a recipe between its stages, in the run's folder: a resumed run does not pay for it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.errors import RunError

if TYPE_CHECKING:
    from limbeck.training.folder import RunFolder

Line = dict[str, Any]


class Shelf:
    """JSON Lines files in `generated/` of a run's folder. Lines are kept the moment they are added.

    The folder is taken when the first line is written: by then models and data have been tried.
    """

    def __init__(self, folder: RunFolder, place: str = "."):
        self.folder, self.path = folder, folder.path / place / "generated"

    def read(self, name: str) -> list[Line]:
        """The lines of a file; a last one cut short by a kill is dropped. Nothing where the run begins anew."""
        file = self.path / f"{name}.jsonl"
        if not self.folder.taken or not file.exists():
            return []
        whole = file.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with file.open("r+b") as opened:
                opened.truncate(end)
        return [json.loads(line) for line in whole[:end].splitlines()]

    def add(self, name: str, lines: Sequence[Line]) -> None:
        """Append lines. Raises RunError where the folder cannot be written."""
        if not self.folder.writes or not lines:
            return
        self.folder.begin()
        file = self.path / f"{name}.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        except OSError as error:
            raise RunError(f"What was generated could not be written to {file}: {error.strerror}.") from error
