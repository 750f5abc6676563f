"""Which teacher for a student: short runs through the command and in Python, their table and what they say."""

import copy
import json

import pytest
import torch

import limbeck as lb
from limbeck import cli
from limbeck.advice import _advice
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.build import mlp

QUICK = {"learning_rate": 0.02, "batch_size": 32, "progress": False}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for width in (4, 16, 64):
        lb.distill(
            "alone", data="wine", student=f"mlp:{width}", steps=30, out=folder / str(width), measure=False, **QUICK
        )
    return folder


def row(teacher, size, values, student="s", small=100):
    return {
        "student": student, "student_parameters": small, "teacher": teacher, "teacher_parameters": size, "best_in": None,
        "measure": "accuracy", "teacher_score": None if teacher is None else 0.9, "score": {"values": values},
    }  # fmt: skip


def test_advice_of_real_runs(teachers):
    found = lb.advise("kd", teachers=[str(teachers / name) for name in ("64", "4", "16")], student="mlp:4", data="wine",
                      steps=10, seeds=2, **QUICK)  # fmt: skip
    assert [each["teacher"] and each["teacher"].rsplit("/", 1)[1] for each in found.rows] == [None, "4", "16", "64"]
    assert [each["teacher_parameters"] for each in found.rows] == [None, 71, 275, 1091]
    assert all(len(each["score"]["values"]) == 2 for each in found.rows)
    assert sum(each["best_in"] for each in found.rows[1:]) == pytest.approx(1)
    assert found.law is None
    direct = lb.distill("kd", teacher=teachers / "16", student="mlp:4", data="wine", steps=10, seeds=2, measure=False,
                        baseline="alone", **QUICK)  # fmt: skip
    student, alone = direct.record["models"][1:]
    assert found.rows[2]["score"]["values"] == student["scores"]["accuracy"]["values"]
    assert found.rows[0]["score"]["values"] == alone["scores"]["accuracy"]["values"]
    json.dumps(found.plain, allow_nan=False)


def test_the_command_prints_a_table_or_json(teachers, capsys, monkeypatch):
    words = ["limbeck", "advise", "kd", f"teachers=[{teachers}/4,{teachers}/16]", "student=mlp:4", "data=wine", "steps=3",
             "seeds=1", "progress=false"]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    assert cli.run() == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "none (alone)" in text
    monkeypatch.setattr("sys.argv", [*words, "--json"])
    assert cli.run() == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["teacher_parameters"] for each in found["rows"]] == [None, 71, 275]
    assert found["sentence"]
    monkeypatch.setattr("sys.argv", [*words, "stepps=3"])
    assert cli.run() == 2
    assert "Did you mean 'steps'" in capsys.readouterr().err


def test_several_students_fit_the_law():
    with torch.random.fork_rng():
        modules = {"small": mlp(13, 3, 6), "large": mlp(13, 3, 24)}
    found = lb.advise("kd", teachers=modules, student=["mlp:2", "mlp:4"], data="wine", steps=2, seeds=1, **QUICK)
    assert list(found.peaks) == ["mlp:2", "mlp:4"]
    assert found.law is not None
    assert "times the student" in found.sentence
    assert [each["teacher"] for each in found.rows] == [None, "small", "large"] * 2


def test_a_module_begins_anew_with_every_teacher_and_stays_as_it_was():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules, student = {"small": mlp(13, 3, 6), "large": mlp(13, 3, 24)}, mlp(13, 3, 4)
    before = copy.deepcopy(student)
    given = {"data": "wine", "steps": 8, "seeds": 1, **QUICK}
    found = lb.advise("kd", teachers=modules, student=student, **given)
    for one, other in zip(student.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)
    for each in found.rows[1:]:
        alone = lb.distill(
            "kd", teacher=modules[each["teacher"]], student=copy.deepcopy(before), measure=False, **given
        )
        assert alone.record["models"][1]["scores"]["accuracy"]["values"] == each["score"]["values"]


def test_what_it_says():
    clear = [row(None, None, [0.5, 0.51, 0.49]), row("a", 200, [0.8, 0.81, 0.79]), row("b", 400, [0.9, 0.91, 0.89]),
             row("c", 800, [0.7, 0.71, 0.69])]  # fmt: skip
    said = _advice([dict(each) for each in clear]).sentence
    assert said.startswith("Take b (400 parameters): with it the student has the best accuracy, 90.0 ± 1.0 %")
    assert "The peak lies between smaller and larger teachers" in said
    rising = [dict(each) for each in clear[:3]]
    assert "No peak seen: the largest teacher is the best so far" in _advice(rising).sentence
    falling = [dict(clear[0]), dict(clear[2]) | {"teacher_parameters": 300}, dict(clear[3])]
    assert "No peak seen: the smallest" in _advice(falling).sentence
    useless = [row(None, None, [0.8, 0.9, 0.7]), row("a", 200, [0.82, 0.88, 0.71]), row("b", 400, [0.6, 0.6, 0.6])]
    assert _advice(useless).sentence.startswith("No teacher is shown to help: the best, a, is no clear difference")
    close = [row(None, None, [0.5, 0.51, 0.49]), row("a", 200, [0.895, 0.92, 0.88]), row("b", 400, [0.9, 0.91, 0.89])]
    assert "a is smaller and not clearly worse" in _advice(close).sentence
    single = [row(None, None, [0.5]), row("a", 200, [0.8]), row("b", 400, [0.9])]
    assert "By one seed, so that it is not known whether this is a peak." in _advice(single).sentence


def test_what_is_refused_before_training(teachers):
    given = {"student": "mlp:4", "data": "wine"}
    with pytest.raises(ArgumentError, match="two or more"):
        lb.advise("kd", teachers=[teachers / "4"], **given)
    with pytest.raises(ArgumentError, match="the same size"):
        lb.advise("kd", teachers=[teachers / "4", teachers / "4"], **given)
    with pytest.raises(ArgumentError, match="baseline, out: advice is of many short runs"):
        lb.advise("kd", teachers=[teachers / "4", teachers / "16"], out="x", baseline="alone", **given)
    with pytest.raises(ArgumentError, match="has no number of parameters"):
        lb.advise("kd", teachers={"a": teachers / "4", "b": [teachers / "4", teachers / "16"]}, **given)
    with pytest.raises(ModelError, match="gives"):
        lb.advise("kd", teachers=[teachers / "4", mlp(13, 5)], **given)
