"""Recipes on equal terms: the same student, budget, data order and tuning effort, trained side by side, on one page."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import name_of, plain
from limbeck.disk import write_text
from limbeck.errors import ArgumentError, DivergedError
from limbeck.evaluation.run import remembering
from limbeck.recipes.registry import Bound, Recipe
from limbeck.run import load_record
from limbeck.terms import ALONE, Entry, Setting, read_entries, read_settings, refuse_single, take_folder, train_once
from limbeck.training.lockstep import Lockstep, Reads, shared
from limbeck.tuning import Candidate, read_recipes

Record = dict[str, Any]


@dataclass
class Comparison:
    """What `compare` found. `record` is all of it in plain values; `rows` a line for each recipe, the best first."""

    record: Record
    path: Path | None = None

    @property
    def rows(self) -> list[Record]:
        from limbeck.report.comparison import ranking

        return ranking(self.record)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        from limbeck.report.comparison import verdict

        return verdict(self.record)

    def show(self) -> None:
        """Print the table and the sentence."""
        from limbeck.report.comparison import show

        show(self.record)

    def save_report(self, path: str | Path) -> Path:
        """Write the page."""
        from limbeck.report.comparison import page

        write_text(Path(path), page(self.record))
        return Path(path)


def compare(*, recipes: Any, data: Any, teacher: Any = None, student: Any = None, seeds: int = 5, tune: int = 1,
            out: str | Path | None = None, resume: bool = False, overwrite: bool = False, task: Any = None, seed: int = 0,
            progress: bool | None = None, **options: Any) -> Comparison:  # fmt: skip
    """Train several recipes on equal terms and rank them.

    `recipes`: names in a list or with commas ("kd,dkd(beta=[1,8]),dist"), bound recipes, or a mapping from labels to them; the
    student without a teacher ("alone") is always among them where the task has labels. `data`: one data set, a list, or a
    mapping from names; with several, `teacher` is as many, in the same order or under the same names. `student`: as in
    `distill`, the same for all. `seeds`: how often each is trained; of one seed all recipes have the same first weights and
    batches.
    `tune`: how many ways each recipe is tried (its arguments and the learning rate, see `limbeck.tuning`), on the first seed,
    by the score on the validation part; the best way is then trained with all seeds.
    `out`: a folder for the page, the record, a table, and every run; `resume` goes on with a comparison there.
    All recipes take their steps in turn, so that the teacher reads each batch once for all of them.
    Other options: those of `distill` for data and training (epochs=, batch_size=, learning_rate=, ...).

    A training that diverges is reported as such. Raises LimbeckError, before anything is trained, for whatever does not fit.
    """
    for name, value in (("seeds", seeds), ("tune", tune)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name}={value!r}: expected a whole number of 1 or more.")
    refuse_single(options, "comparison")
    known = read_recipes(recipes)
    settings = read_settings(data, teacher, student, task, seed, [recipe for recipe, _ in known.values()], options)
    if all(setting.task.learns_alone for setting in settings) and not any(r.name == ALONE for r, _ in known.values()):
        known[ALONE] = read_recipes(ALONE)[ALONE]
    reads = {setting.name: Reads() if setting.teacher is None else shared(setting.teacher) for setting in settings}
    entries, memory = read_entries(known, settings, tune, seed)
    config = {
        "recipes": {e.label: plain(e.ways) for e in entries}, "data": [s.name for s in settings],
        "teacher": plain(teacher), "student": name_of(student), "seeds": seeds, "tune": tune, "seed": seed,
        "options": plain(options),
    }  # fmt: skip
    folder = None
    if out is not None:
        made = ("comparison.html", "table.csv", "comparison.json")  # the last one says that it is a comparison
        folder = take_folder(Path(out), "comparison", made, config, resume, overwrite)
        _write({"config": config, "title": "", "sets": {}}, folder) if not (folder / made[-1]).exists() else None
    record: Record = {
        "config": config,
        "title": f"{len(entries)} recipes on {', '.join(s.name for s in settings)}",
        "sets": {},
    }
    for setting in settings:
        with remembering(*([] if setting.teacher is None else setting.teacher.modules())):
            record["sets"][setting.name] = _on(
                setting, entries, memory[setting.name], reads[setting.name], seeds, tune, seed, folder, progress
            )
        if folder is not None:
            _write(record, folder)
    return Comparison(record, folder)


def finals(setting: Setting, ways: Mapping[str, tuple[Recipe, Candidate]], seeds: int, seed: int, folder: Path | None,
           progress: bool | None) -> Record:  # fmt: skip
    """The record of a comparison of given ways on one data set, trained side by side with several seeds, without tuning."""
    entries = [Entry(label, recipe, [way]) for label, (recipe, way) in ways.items()]
    reads, memory = shared(setting.teacher) if setting.teacher is not None else Reads(), {}
    for entry in entries:
        arguments = {name: value for name, value in entry.ways[0].items() if name in entry.recipe.parameters}
        seen = train_once(setting, Bound(entry.recipe, arguments), {}, seed, dry_run=True)["estimated_bytes"]
        memory[entry.label] = sum(seen.values()) - seen["teachers"]
    with remembering(*(setting.teacher.modules() if setting.teacher is not None else [])):
        found = _on(setting, entries, memory, reads, seeds, 1, seed, folder, progress)
    config = {"seeds": seeds, "tune": 1, "seed": seed, "data": [setting.name], "student": name_of(setting.student)}
    return {"config": config, "title": f"{len(entries)} pipelines on {setting.name}", "sets": {setting.name: found}}


# training -----------------------------------------------------------------------------------------------------------------


def _on(setting: Setting, entries: Sequence[Entry], memory: Mapping[str, float], reads: Reads, seeds: int, tune: int,
        seed: int, folder: Path | None, progress: bool | None) -> Record:  # fmt: skip
    """Tune, then train all seeds, on one data set."""
    direction = setting.task.best[1]
    rows: Record = {
        entry.label: {"recipe": entry.recipe.name, "scores": [], "steps": 0, "seconds": 0.0, "bytes": memory[entry.label],
                      "chosen": entry.ways[0], "tried": [], "errors": []} for entry in entries
    }  # fmt: skip
    done: dict[tuple[str, int], Record] = {}  # by label and way: the run of the first seed
    for way in range(tune if tune > 1 else 0):
        title = f"{setting.name}: tuning, {way + 1} of {tune}"
        found = _round(
            setting, {e.label: (e, e.ways[way]) for e in entries}, seed, f"tune{way}", reads, folder, title, progress
        )
        for entry in entries:
            result = done[entry.label, way] = found[entry.label]
            rows[entry.label]["tried"].append(
                {"with": entry.ways[way], "valid": result["valid"], "error": result["error"]}
            )
    for entry in entries if tune > 1 else ():
        tried = rows[entry.label]["tried"]
        best = _best([each["valid"] for each in tried], direction)
        rows[entry.label]["chosen"], rows[entry.label]["way"] = entry.ways[best], best
    for number in range(seeds):
        title = f"{setting.name}: seed {number + 1} of {seeds}"
        todo = {
            entry.label: (entry, rows[entry.label]["chosen"]) for entry in entries
            if number or (entry.label, rows[entry.label].get("way", -1)) not in done
        }  # fmt: skip
        found = _round(setting, todo, seed + number, f"seed{number}", reads, folder, title, progress) if todo else {}
        for entry in entries:
            row = rows[entry.label]
            result = found.get(entry.label) or done[entry.label, row["way"]]
            row["scores"].append(result["scores"])
            row["steps"], row["seconds"] = result["steps"], row["seconds"] + result["seconds"]
            row["errors"] += [result["error"]] if result["error"] else []
            row["teacher"] = row.get("teacher") or result["teacher"]
    teacher = next((row.pop("teacher") for row in rows.values() if row.get("teacher")), None)
    for row in rows.values():
        row.pop("teacher", None), row.pop("way", None)
    return {"measure": setting.task.best[0], "direction": direction, "teacher": teacher, "rows": rows,
            "reads": {"passes": reads.passes, "asked": reads.asked, "seconds": round(reads.seconds, 3)},
            "part": "test" if "test" in setting.data.parts else "valid"}  # fmt: skip


def _best(values: Sequence[float | None], direction: str) -> int:
    """The place of the best value; what has none, or is no number, comes last."""
    sign = 1 if direction == "max" else -1
    keys = [-math.inf if value is None or not math.isfinite(value) else sign * value for value in values]
    return keys.index(max(keys))


def _round(setting: Setting, todo: Mapping[str, tuple[Entry, Candidate]], seed: int, name: str, reads: Any,
           folder: Path | None, title: str, progress: bool | None) -> dict[str, Record]:  # fmt: skip
    """Train every recipe once, all in lockstep; what a finished run left in the folder is taken from there."""
    from limbeck.training.progress import counting

    found: dict[str, Record] = {}
    jobs: dict[str, Callable[[Any], Any]] = {}
    for label, (entry, way) in todo.items():
        place = None if folder is None else folder / "runs" / _safe(setting.name) / _safe(label) / name
        if place is not None and (place / "report.json").exists():
            found[label] = _result(setting, load_record(place))
            continue
        jobs[label] = _job(setting, entry, way, seed, place)
    if not jobs:
        return found
    with counting(title) if progress is not False else contextlib.nullcontext() as bar:
        tell = None if bar is None else lambda label, step: bar(step, None)
        turns = Lockstep(jobs, tell, reads).run()
    for label, turn in turns.items():
        if turn.error is not None and not isinstance(turn.error, DivergedError):
            raise turn.error
        if turn.error is not None:
            found[label] = {"scores": {}, "valid": None, "steps": turn.steps, "seconds": turn.seconds, "teacher": None,
                            "error": str(turn.error)}  # fmt: skip
        else:
            found[label] = _result(setting, turn.result) | {"steps": turn.steps, "seconds": turn.seconds}
    return found


def _job(setting: Setting, entry: Entry, way: Candidate, seed: int, place: Path | None) -> Callable[[Any], Record]:
    arguments = {name: value for name, value in way.items() if name in entry.recipe.parameters}
    changes = {name: value for name, value in way.items() if name not in arguments}

    def train(turn: Any) -> Record:
        resume = place is not None and (place / "run.json").exists()
        run = train_once(
            setting, Bound(entry.recipe, arguments), changes, seed, out=place, resume=resume, watchers=[turn]
        )
        run.record |= {"own_seconds": turn.seconds - turn.teaching, "own_steps": turn.steps}
        if run.folder is not None:
            run.folder.write("report.json", run.record)
            (
                run.folder.path / "report.html"
            ).unlink()  # a page for each of many runs is 5 MB each; `limbeck report` writes it
        return run.record

    return train


def _result(setting: Setting, record: Record) -> Record:
    """What a comparison keeps of a run."""
    models = {model["role"]: model["scores"] for model in record["models"]}
    key, direction = setting.task.best
    over = (record.get("scores_over_time") or {}).get(key, {}).get("value") or []
    return {
        "scores": {name: found["mean"] for name, found in models["student"].items()},
        "teacher": {name: found["mean"] for name, found in models.get("teacher", {}).items()} or None,
        "valid": (max if direction == "max" else min)(over) if over else None,
        "steps": record.get("own_steps", 0), "seconds": record.get("own_seconds", 0.0), "error": None,
    }  # fmt: skip


# the folder ---------------------------------------------------------------------------------------------------------------


def _safe(name: str) -> str:
    """A label as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_.=," else "_" for letter in name)


def _write(record: Record, folder: Path) -> None:
    import json

    from limbeck.report.comparison import page, table

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.json", json.dumps(record, indent=1, default=str) + "\n")
    if record["sets"]:
        write_text(folder / "comparison.html", page(record))
        write_text(folder / "table.csv", table(record))
