"""Which teacher for this student? Short runs against each of several, and advice with its uncertainty."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from limbeck.config import name_of
from limbeck.errors import ArgumentError
from limbeck.evaluation.capacity import Law, Peak, capacity_law, peak
from limbeck.evaluation.cost import parameters
from limbeck.report.compare import Difference, difference
from limbeck.report.numbers import count, stat
from limbeck.report.words import Measure, measure
from limbeck.run import Run

Record = dict[str, Any]
_REPORT = ("measure", "generate", "checker")  # what distill takes beside what a job is made of


@dataclass
class Advice:
    """What `advise` found. `rows`: a student with a teacher (or alone) each: sizes, and the score over seeds.

    `peaks`: by student, where its score is best over the teachers' sizes. `law`: of several students' best teachers.
    `sentence`: the recommendation.
    """

    measure: str
    rows: list[Record]
    peaks: dict[str, Peak]
    law: Law | None
    sentence: str

    @property
    def plain(self) -> Record:
        """All of it in plain values, for --json."""
        peaks = {name: asdict(found) for name, found in self.peaks.items()}
        return {"measure": self.measure, "rows": self.rows, "peaks": peaks,
                "law": None if self.law is None else asdict(self.law), "sentence": self.sentence}  # fmt: skip

    def show(self) -> None:
        """Print the table and the sentence."""
        from rich.console import Console
        from rich.table import Table

        what, several = measure(self.measure), len(self.peaks) > 1
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in (*(["student"] if several else []), "teacher", "its size", "its own score", "student's", "best in"):
            table.add_column(name, justify="left" if name in ("student", "teacher") else "right", overflow="fold")
        for row in self.rows:
            own, ours = (stat(row[key]) for key in ("teacher_score", "score"))
            table.add_row(
                *([row["student"]] if several else []), row["teacher"] or "none (alone)", count(row["teacher_parameters"]),
                what.text(own.mean) if own else "\u2013", what.spread(ours) if ours else "\u2013",
                "\u2013" if row["best_in"] is None else f"{100 * row['best_in']:.0f} %",
            )  # fmt: skip
        console = Console()
        console.print(table)
        console.print(self.sentence)


def advise(recipe: Any = None, *, teachers: Sequence[Any] | Mapping[str, Any] | str, student: Any, data: Any, steps: int = 300,
           seeds: int = 5, task: Any = None, progress: bool | None = None, **options: Any) -> Advice:  # fmt: skip
    """Train a student briefly with each of several teachers, and alone, and say which teacher suits it.

    `teachers`: two or more, as `distill` takes them, or by name; `student` one, or a list of them, which also fits the law of
    capacity gap to their best teachers. All runs have equal `steps` and the same `seeds`. Other options are those of
    `distill`. A short run says what a long one would only roughly: teachers near the best are worth a longer look.

    Raises ArgumentError for fewer than two teachers, or for teachers whose size is not known or the same.
    """
    named = _named(teachers, "teachers")
    if len(named) < 2:
        raise ArgumentError(f"teachers={list(named)}: give two or more to choose from. For one: limbeck distill.")
    if seeds < 1 or steps < 1:
        raise ArgumentError(f"seeds={seeds}, steps={steps}: expected whole numbers of 1 or more.")
    refused = {"out", "resume", "overwrite", "baseline", "export", "track", "dry_run"} & set(options)
    if refused:
        raise ArgumentError(
            f"{', '.join(sorted(refused))}: advice is of many short runs, which are not kept. Leave that out."
        )
    students = _named(student if isinstance(student, list | tuple) else [student], "student")
    pairs = _prepared(
        recipe, named, students, {"data": data, "task": task, **options}
    )  # all is checked before a training
    rows: list[Record] = []
    for number, pair in enumerate(pairs, start=1):
        if progress is not False:
            print(f"{number} of {len(pairs)}: {pair.student} with {pair.teacher}", file=sys.stderr, flush=True)
        first = pair.student not in {row["student"] for row in rows}
        rows += _rows(recipe, pair, alone=first, steps=steps, seeds=seeds, **options)
    return _advice(rows)


@dataclass
class Pair:
    """A student and a teacher that fit each other and the data."""

    student: str
    teacher: str
    spec: Any  # of the student
    module: nn.Module  # the teacher's
    size: int
    data: Any
    task: Any


def _prepared(
    recipe: Any, teachers: Mapping[str, Any], students: Mapping[str, Any], given: Mapping[str, Any]
) -> list[Pair]:
    from limbeck.api import prepare
    from limbeck.teachers.base import ModuleTeacher

    own = {key: value for key, value in given.items() if key not in _REPORT}
    pairs, loaded = [], dict(teachers)
    for pupil, spec in students.items():
        for name in teachers:
            job = prepare(recipe, teacher=loaded[name], student=spec, monitor=False, **own).job
            if not isinstance(job.teacher, ModuleTeacher):
                kind = type(job.teacher).__name__
                raise ArgumentError(
                    f"teachers={name!r}: a {kind} has no number of parameters. Give modules to choose from."
                )
            loaded[name] = job.teacher.module
            size = parameters(job.teacher.module)
            pairs.append(Pair(pupil, name, spec, job.teacher.module, size, job.data, job.task))
    sizes = {pair.teacher: pair.size for pair in pairs}
    if len(set(sizes.values())) < len(sizes):
        raise ArgumentError(
            f"Two teachers have the same size: {sizes}. The advice is about size: leave one of them out."
        )
    return sorted(pairs, key=lambda pair: (list(students).index(pair.student), pair.size))


def _rows(recipe: Any, pair: Pair, alone: bool, **options: Any) -> list[Record]:
    """The row of a pair; before the first of a student, that of the student alone."""
    from limbeck.api import DATA_OPTIONS, distill

    student = (
        copy.deepcopy(pair.spec) if isinstance(pair.spec, nn.Module) else pair.spec
    )  # a module is trained in place
    options = {"measure": False, "progress": False} | {k: v for k, v in options.items() if k not in DATA_OPTIONS}
    run = distill(recipe, teacher=pair.module, student=student, data=pair.data, task=pair.task, monitor=False,
                  baseline="alone" if alone else None, **options)  # fmt: skip
    assert isinstance(run, Run)
    models = {model["role"]: model for model in run.record["models"]}
    key = pair.task.best[0]

    def row(role: str, teacher: str | None, size: int | None, own: float | None) -> Record:
        found = models[role]["scores"][key]
        return {"student": pair.student, "student_parameters": parameters(run.student), "teacher": teacher,
                "teacher_parameters": size, "teacher_score": own, "measure": key, "score": found, "best_in": None}  # fmt: skip

    own = models["teacher"]["scores"][key]["mean"]
    made = row("student", pair.teacher, pair.size, own)
    return [row("baseline", None, None, None), made] if alone else [made]


def _named(given: Any, what: str) -> dict[str, Any]:
    """By name: a mapping as it is; a list by what its items are called, numbered where two share a name."""
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    if isinstance(given, str):
        given = [each.strip() for each in given.split(",") if each.strip()]
    if not isinstance(given, list | tuple):
        raise ArgumentError(f"{what}={name_of(given)!r}: expected a list, or a mapping of names.")
    names = [str(name_of(each)) for each in given]
    return {
        name if names.count(name) == 1 else f"{name} {place + 1}": each
        for place, (name, each) in enumerate(zip(names, given))
    }


def _advice(rows: list[Record]) -> Advice:
    what = measure(rows[0]["measure"])
    peaks, sentences = {}, []
    for pupil in dict.fromkeys(row["student"] for row in rows):
        mine = [row for row in rows if row["student"] == pupil]
        taught = [row for row in mine if row["teacher"] is not None]
        scores = [row["score"]["values"] for row in taught]
        found = peaks[pupil] = peak([row["teacher_parameters"] for row in taught], scores, what.better or "more")
        for row, share in zip(taught, found.shares, strict=True):
            row["best_in"] = share
        said = _recommendation(taught, found, mine[0], what)
        sentences.append(said if len({row["student"] for row in rows}) == 1 else f"{pupil}: {said}")
    law = None
    if len(peaks) > 1:
        sizes = [next(row["student_parameters"] for row in rows if row["student"] == pupil) for pupil in peaks]
        law = capacity_law(sizes, [found.size for found in peaks.values()])
        sentences.append(_law(law, all(found.seen for found in peaks.values())))
    return Advice(what.key, rows, peaks, law, "\n".join(sentences))


def _recommendation(taught: list[Record], found: Peak, alone: Record, what: Measure) -> str:
    best = taught[found.best]
    seeds = len(best["score"]["values"])
    gap = _gap(best, alone, what)
    if gap.word(what) in ("worse", "the same") or gap.clear is False:
        word = "no clear difference" if gap.clear is False else "worse" if gap.word(what) == "worse" else "the same"
        return (
            f"No teacher is shown to help: the best, {best['teacher']}, is {word} beside the student alone "
            f"({what.step(gap.mean, gap.error)}, {_seeds(seeds)})."
        )
    near = [row for row in taught[: found.best] if _gap(best, row, what).clear is False]
    size = count(best["teacher_parameters"])
    said = f"Take {best['teacher']} ({size} parameters): with it the student has the best {what.name}"
    said += f", {what.spread(stat(best['score']))}" if stat(best["score"]) else ""  # type: ignore[arg-type]
    said += f" ({what.step(gap.mean, gap.error)} against alone, {_seeds(seeds)})"
    if near:
        said += f"; {near[0]['teacher']} is smaller and not clearly worse"
    return f"{said}. {_peak(taught, found, seeds)}"


def _peak(taught: list[Record], found: Peak, seeds: int) -> str:
    interval = f"95 % bootstrap interval of the best size {count(found.low)} to {count(found.high)}"
    if seeds == 1:
        return "By one seed, so that it is not known whether this is a peak."
    if found.seen:
        return f"The peak lies between smaller and larger teachers that were tried ({interval})."
    if found.best == len(taught) - 1:
        return f"No peak seen: the largest teacher is the best so far ({interval})."
    if found.best == 0:
        return f"No peak seen: the smallest teacher is the best so far ({interval})."
    return f"No peak seen: which size is best is not sure ({interval})."


def _law(law: Law, seen: bool) -> str:
    said = f"The best teacher is {law.ratio:.1f} times the student ({law.low:.1f} to {law.high:.1f})"
    if law.constant is not None:
        said += ", a constant multiple as far as can be told" if law.constant else ", but not by a constant multiple"
    return said + ("." if seen else "; as not every student has a peak, this is no law yet.")


def _gap(one: Record, other: Record, what: Measure) -> Difference:
    first, second = stat(one["score"]), stat(other["score"])
    assert first is not None and second is not None
    return difference(first, second, what)


def _seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"
