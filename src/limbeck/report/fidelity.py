"""Is the student like its teacher, or only as good? The part of the report about fidelity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report import tables
from limbeck.report.compare import first_of, score
from limbeck.report.markup import Html, tag
from limbeck.report.words import items_of, main_measure, measure

Record = Mapping[str, Any]
SAME = ("label_agreement", "top1_agreement")
WHERE = ("", "_teacher_right", "_teacher_wrong")
GROUPS = {
    "Who is right": ["accuracy", "token_accuracy", "accuracy_teacher_wrong"],
    "Do they say the same?": [*(f"{name}{where}" for name in SAME for where in WHERE), "second_choice_agreement"],
    "How far their probabilities lie apart": ["kl_to_teacher", "js_to_teacher", "tv_to_teacher"],
    "Probability loyalty": [f"probability_loyalty{where}" for where in WHERE],
}


def fidelity(record: Record) -> list[Html | None]:
    """In a sentence and in a table: agreement, also where the teacher errs, and whether it grew with quality."""
    student = first_of(record, "student")
    key = next((name for name in SAME if score(student, name)), None)
    if key is None:
        return []
    note = (
        "Two good models agree because both are right: agreement where the teacher is wrong says how much of its errors was "
        "copied, and the second choice whether the student is right for the teacher's reasons."
    )
    lines = [_agreement(record, key), _gained(record, key)]
    return [
        *(tag("p", line) for line in lines if line),
        tables.scores(record, "Fidelity", GROUPS),
        tag("p", note, class_="note"),
    ]


def _agreement(record: Record, key: str) -> str:
    student, what, items = first_of(record, "student"), measure(key), items_of(record)
    said = (
        "finds the same token the likeliest as its teacher" if key == "top1_agreement" else "says what its teacher says"
    )
    found = score(student, key)
    assert found is not None
    text = f"The student {said} for {what.text(found.mean)} of the {items}"
    split = {where: score(student, f"{key}_teacher_{where}") for where in ("right", "wrong")}
    parts = [f"{what.text(each.mean)} where the teacher is {where}" for where, each in split.items() if each]
    return text + (f": {' and '.join(parts)}." if parts else ".")


def _gained(record: Record, key: str) -> str:
    """What distillation added: quality, likeness, both or neither; '' without a baseline."""
    gaps, main = tables.gaps_of(record), main_measure(record)
    if main is None or key not in gaps or main.key not in gaps:
        return ""
    better, nearer = (gaps[name][3].word(measure(name)) == "better" for name in (main.key, key))
    known = all(gaps[name][3].clear is not None for name in (main.key, key))
    alone = f"the same student trained alone, which agrees for {measure(key).text(gaps[key][2].mean)}"
    end = "." if known else "; one seed, so all this may be chance."
    if better and nearer:
        return f"It is both better and more like its teacher than {alone}{end}"
    if better:
        gained = ": what it gained is not its teacher's way of deciding"
        return f"It is better than {alone}, but not more like its teacher{gained}{end}"
    return f"It is {'more like its teacher' if nearer else 'neither better nor more like its teacher'} than {alone}" + (
        f", and not better for it{end}" if nearer else end
    )
