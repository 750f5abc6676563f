"""Run a plan: one stage, several, or a recipe that makes the next stage from the last one's result."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from limbeck.disk import read, reading
from limbeck.errors import RunError
from limbeck.training.checkpoint import write_folder
from limbeck.training.loop import Loop, Watcher
from limbeck.training.metrics import Metrics
from limbeck.training.stage import Result, Stage
from limbeck.training.state import onto, put, weights_of


def differences(saved: dict[str, Any], now: dict[str, Any], under: str = "") -> str:
    """In what two descriptions of a stage differ, as text."""
    found = []
    now = json.loads(json.dumps(now, default=str))
    for key in dict.fromkeys([*saved, *now]):
        before, after = saved.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found.append(differences(before, after, f"{under}{key}."))
        elif before != after:
            found.append(f"{under}{key}: saved {before!r}, now {after!r}")
    return "; ".join(filter(None, found))


Plan = Stage | Iterable[Stage] | Generator[Stage, Result, Any]


class Runner:
    """Runs stages in order. Finished ones are saved; on resume they are replayed from their saved weights."""

    def __init__(self, folder: Path | None = None, *, resume: bool = False, watchers: tuple[Watcher, ...] = (),
                 accelerator: Any = None, checkpoint_seconds: float = 30.0, cpu: bool = False):  # fmt: skip
        if accelerator is None:
            from accelerate import Accelerator

            accelerator = Accelerator(cpu=cpu)
        self.accelerator, self.folder, self.resume, self.watchers = accelerator, folder, resume, watchers
        self.checkpoint_seconds = checkpoint_seconds
        self.metrics = Metrics(folder / "metrics.jsonl" if folder else None, accelerator.is_main_process)
        if resume:
            self.metrics.load()
        self.index = 0
        self.results: list[Result] = []
        self.stages: list[Stage] = []

    def run(self, plan: Plan) -> Result:
        """Run all stages of a plan; returns the last one's result."""
        if isinstance(plan, Stage):
            self.stage(plan)
        elif isinstance(plan, Generator):
            result: Any = None
            while True:
                try:
                    stage = plan.send(result)
                except StopIteration:
                    break
                result = self.stage(stage)
        else:
            for stage in plan:
                self.stage(stage)
        if not self.results:
            raise RunError("The recipe gave no stage: there is nothing to train.")
        self.metrics.close()
        return self.results[-1]

    def stage(self, stage: Stage) -> Result:
        """Run, resume or replay one stage."""
        folder = self.folder / "stages" / f"{self.index}" if self.folder else None
        loop = Loop(
            stage, self.accelerator, index=self.index, metrics=self.metrics,
            folder=folder / "checkpoints" if folder else None, watchers=self.watchers,
            checkpoint_seconds=self.checkpoint_seconds,
        )  # fmt: skip
        done = folder / "done" if folder else None
        if self.resume and done and done.is_dir():
            result = self._replay(loop, done)
        else:
            result = loop.run(resume=self.resume)
            weights = weights_of(loop) if done and (self.accelerator.is_main_process or loop.placement.sharded) else {}
            if done and self.accelerator.is_main_process:
                write_folder(done, {"weights.safetensors": weights, "result.json": {
                    "print": stage.fingerprint(), "describe": stage.describe(), "scores": result.scores,
                    "steps": result.steps, "seconds": result.seconds, "best_step": loop.best.step,
                    "frozen": loop.frozen, "generated": result.generated,
                }})  # fmt: skip
                assert loop.checkpoints is not None
                loop.checkpoints.clear()
            self.accelerator.wait_for_everyone()
        self.index += 1
        self.results.append(result)
        self.stages.append(stage)
        return result

    def _replay(self, loop: Loop, done: Path) -> Result:
        record = read(done / "result.json", f"Remove {done} to train this stage again, by the same command.")
        if record["print"] != loop.stage.fingerprint():
            raise RunError(
                f"Stage {self.index} of the saved run is not the one that this recipe gives now: "
                f"{differences(record['describe'], loop.stage.describe())}. Resume with the arguments it was started with, or "
                "start anew with overwrite=true."
            )
        with reading(done, f"Remove {done} to train this stage again, by the same command."):
            weights = load_file(done / "weights.safetensors", device=onto(loop))
        put(loop, weights, record.get("frozen", {}))
        loop.give_back()
        for learner in loop.learners.values():
            learner.eval()
        return Result(loop.modules[loop.stage.keep], loop.modules, record["scores"], record["steps"], record["seconds"],
                      record.get("generated", {}))  # fmt: skip
