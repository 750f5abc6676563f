"""What a run logs: one JSON line per record in metrics.jsonl, and the same numbers to a tracker."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from limbeck.disk import write_text, writing
from limbeck.errors import ArgumentError, nearest

Record = dict[str, Any]


class Metrics:
    """Records of a run. With a path they are appended to a file; on resume, lines beyond the checkpoint are dropped."""

    def __init__(self, path: Path | None = None, write: bool = True):
        self.path, self.write = path, write
        self.records: list[Record] = []
        self._file: Any = None

    def load(self) -> None:
        """Read what was logged before; a line cut short by a kill, and what follows it, is left out."""
        self.records = []
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                self.records.append(json.loads(line))
            except json.JSONDecodeError:
                break

    def resume(self, stage: int, step: int) -> None:
        """Keep what was logged of earlier stages and of this one before `step`; drop the rest."""
        self.close()
        self.load()
        place = (stage, step)
        places = [(record["stage"], record["step"]) for record in self.records]
        self.records = [
            record for record, at in zip(self.records, places)
            if at < place or (at == place and not {"terms", "mixture"} & set(record))
        ]  # fmt: skip
        if self.write and self.path is not None and self.path.exists():
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

    def add(self, *records: Record) -> None:
        self.records += records
        if not self.write or self.path is None or not records:
            return
        with writing(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a")
            self._file.write("".join(json.dumps(record) + "\n" for record in records))
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """learner -> {"step": [...], term: [...]} over all stages, steps counted on."""
        found: dict[str, dict[str, list[float]]] = {}
        offsets = self._offsets()
        for record in self.records:
            if "terms" in record:
                curve = found.setdefault(record["learner"], {"step": []})
                for name in record["terms"]:
                    curve.setdefault(name, [float("nan")] * len(curve["step"]))
                curve["step"].append(record["step"] + offsets[record["stage"]])
                for name in curve:
                    if name != "step":
                        curve[name].append(record["terms"].get(name, float("nan")))
        return found

    def scores(self) -> dict[str, dict[str, list[float]]]:
        """score -> {"step": [...], "value": [...]} on the validation part."""
        found: dict[str, dict[str, list[float]]] = {}
        offsets = self._offsets()
        for record in self.records:
            for name, value in record.get("scores", {}).items():
                curve = found.setdefault(name, {"step": [], "value": []})
                curve["step"].append(record["step"] + offsets[record["stage"]])
                curve["value"].append(value)
        return found

    def mixture(self) -> dict[str, Any]:
        """What a mixture of domains decided: "step" [n], and by domain [n] its "share", "student" and "teacher" perplexity.

        Empty where nothing was mixed.
        """
        offsets, found = self._offsets(), [record for record in self.records if "mixture" in record]
        if not found:
            return {}
        said = [record["mixture"] for record in found]
        by_domain = {
            name: {domain: [values(one)[place] for one in said] for place, domain in enumerate(said[0]["domains"])}
            for name, values in (
                ("share", lambda one: one["weights"]),
                ("student", lambda one: [math.exp(loss) for loss in one["student"]]),
                ("teacher", lambda one: [math.exp(loss) for loss in one["teacher"]]),
            )
        }
        return {"step": [record["step"] + offsets[record["stage"]] for record in found], **by_domain}

    def before(self, stage: int) -> int:
        """How many steps the stages before this one had."""
        ends: dict[int, int] = {}
        for record in self.records:
            if record["stage"] < stage:
                ends[record["stage"]] = max(ends.get(record["stage"], 0), record["step"] + 1)
        return sum(ends.values())

    def _offsets(self) -> dict[int, int]:
        ends: dict[int, int] = {}
        for record in self.records:
            ends[record["stage"]] = max(ends.get(record["stage"], 0), record["step"] + 1)
        offsets, total = {}, 0
        for stage in sorted(ends):
            offsets[stage], total = total, total + ends[stage]
        return offsets


TRACKERS = ("tensorboard", "mlflow", "wandb")


def check_tracker(name: str) -> None:
    """Accelerate only warns when a tracker is missing; a run that was to be tracked must not start without it."""
    from accelerate.utils import is_mlflow_available, is_tensorboard_available, is_wandb_available

    there = {"tensorboard": is_tensorboard_available, "mlflow": is_mlflow_available, "wandb": is_wandb_available}
    if name not in TRACKERS:
        raise ArgumentError(f"There is no tracker {name!r}.{nearest(name, TRACKERS)}")
    if not there[name]():
        extra = "'limbeck[tracking]'" if name == "tensorboard" else name
        raise ArgumentError(f"track={name!r}, but {name} is not installed. Install it with: pip install {extra}")
