"""Recipes on equal terms: through Python and the command, kept, resumed, tuned, and shown."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck import cli
from limbeck import objectives as o
from limbeck.errors import ArgumentError, LimbeckError, RunError
from limbeck.recipes import find
from limbeck.report import comparison, standings
from limbeck.students.build import cnn
from limbeck.students.declare import seeded
from limbeck.tuning import candidates, read_recipes

QUICK = {"student": "cnn(width=2, depth=2)", "steps": 6, "batch_size": 32, "progress": False}


def teacher():
    with seeded(0):
        return cnn(1, 10, width=4, depth=2, size=8).eval()


def scored(**values):
    """A record of one data set, with these scores of each recipe over seeds."""
    rows = {name: {"recipe": name, "scores": [{} if v is None else {"accuracy": v} for v in found], "steps": 10, "seconds": 1.0,
                   "bytes": 1000, "chosen": {}, "tried": [], "errors": ["nan"] * sum(v is None for v in found)}
            for name, found in values.items()}  # fmt: skip
    return {"config": {"seeds": 4}, "title": "t", "sets": {"digits": {
        "measure": "accuracy", "direction": "max", "teacher": {"accuracy": 0.99}, "rows": rows, "part": "test",
        "reads": {"passes": 10, "asked": 40, "seconds": 0.1}}}}  # fmt: skip


def test_a_comparison_is_made_of_ordinary_runs(tmp_path):
    found = lb.compare(recipes="kd,dkd", data="digits", teacher=teacher(), seeds=2, out=tmp_path / "c", **QUICK)
    rows = found.record["sets"]["digits"]["rows"]
    assert set(rows) == {"kd", "dkd", "alone"}
    for number in range(2):
        for label in rows:
            run = lb.distill(label, teacher=None if label == "alone" else teacher(), data=lb.load_data("digits"), seed=number,
                             measure=False, **QUICK)  # fmt: skip
            expected = run.record["models"][-1]["scores"]["accuracy"]["mean"]
            assert rows[label]["scores"][number]["accuracy"] == expected
    reads = found.record["sets"]["digits"]["reads"]
    assert reads["passes"] <= 2 * (6 + 2)  # each batch once, and a look before
    assert reads["asked"] >= 2 * 2 * 6
    for row in rows.values():
        assert row["steps"] == 6
        assert row["bytes"] > 0
        assert row["seconds"] > 0
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"comparison.json", "comparison.html", "table.csv", "runs"}
    lines = list(csv.DictReader(io.StringIO((tmp_path / "c" / "table.csv").read_text())))
    assert {line["recipe"] for line in lines} == set(rows)
    assert (tmp_path / "c" / "runs" / "digits" / "kd" / "seed1" / "student").is_dir()


def test_the_teacher_is_run_as_often_as_one_recipe_would():
    model, seen = teacher(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    given = lb.load_data("digits")
    lb.compare(recipes="kd,dkd,dist,nkd", data=given, teacher=model, seeds=1, **{**QUICK, "steps": 20})
    test = len(given.parts["test"])
    assert (
        sum(seen) <= 20 * 32 + test + 4 * 5 * 32 + 2 * 32
    )  # the batches, the test part once, a dry run of each before


def test_it_goes_on_where_it_stopped(tmp_path):
    options = {"recipes": ["kd", "dkd"], "data": "digits", "teacher": teacher(), "out": tmp_path / "c", **QUICK}
    with pytest.raises(Stopped):
        stopped_compare(options)
    before = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert before["sets"] == {}
    with pytest.raises(RunError, match="resume=true"):
        lb.compare(**options, seeds=2)
    again = lb.compare(**options, seeds=2, resume=True)
    fresh = lb.compare(**{**options, "out": None}, seeds=2)
    for label, row in fresh.record["sets"]["digits"]["rows"].items():
        assert again.record["sets"]["digits"]["rows"][label]["scores"] == row["scores"]
    trained = (tmp_path / "c" / "runs" / "digits" / "kd" / "seed0" / "report.json").stat().st_mtime_ns
    lb.compare(**options, seeds=2, resume=True)
    assert (tmp_path / "c" / "runs" / "digits" / "kd" / "seed0" / "report.json").stat().st_mtime_ns == trained
    with pytest.raises(RunError, match="seeds: 2, now 3"):
        lb.compare(**options, seeds=3, resume=True)
    lb.compare(**options, seeds=1, overwrite=True)


class Stopped(Exception):
    pass


def stopped_compare(options):
    """A comparison whose second round never begins."""
    from limbeck import comparing

    real, calls = comparing._round, []

    def once(*args):
        calls.append(1)
        if len(calls) > 1:
            raise Stopped
        return real(*args)

    comparing._round = once
    try:
        return lb.compare(**options, seeds=2)
    finally:
        comparing._round = real


def test_all_are_tuned_alike(tmp_path):
    found = lb.compare(recipes="kd(soft=[0.5,0.9]),dkd", data="digits", teacher=teacher(), seeds=2, tune=3, **QUICK)
    for label, row in found.record["sets"]["digits"]["rows"].items():
        assert len(row["tried"]) == 3, label
        assert row["chosen"] == row["tried"][int(np.argmax([each["valid"] for each in row["tried"]]))]["with"]
    soft = {each["with"]["soft"] for each in found.record["sets"]["digits"]["rows"]["kd(soft=[0.5,0.9])"]["tried"]}
    assert soft <= {0.5, 0.9}
    assert "dkd" in comparison.page(found.record)


def test_candidates_stay_what_they_are():
    found = candidates(find("kd"), {}, 40, 1e-3, 0)
    assert found[0] == {}
    assert all(0 < each["soft"] < 1 and 1 <= each["temperature"] <= 16 for each in found[1:])
    assert all(5e-4 <= each["learning_rate"] <= 2e-3 for each in found[1:])
    assert found == candidates(find("kd"), {}, 40, 1e-3, 0)
    assert found[:5] == candidates(find("kd"), {}, 5, 1e-3, 0)
    assert found != candidates(find("kd"), {}, 40, 1e-3, 1)
    assert all(each["temperature"] == 2.0 for each in candidates(find("kd"), {"temperature": 2.0}, 5, None, 0))


def test_recipes_are_read_as_people_write_them():
    known = read_recipes("kd, dkd(beta=[1, 2], alpha=0.5),dist")
    assert list(known) == ["kd", "dkd(beta=[1, 2], alpha=0.5)", "dist"]
    assert known["dkd(beta=[1, 2], alpha=0.5)"][1] == {"beta": [1, 2], "alpha": 0.5}
    assert list(read_recipes([find("kd"), find("kd")(temperature=2.0)])) == ["kd", "kd(temperature=2.0)"]
    assert list(read_recipes({"hot": "kd(temperature=8)"})) == ["hot"]
    for wrong, match in (
        ("kd,kd", "twice"),
        ("kdd", "no recipe 'kdd'"),
        ("kd(4)", "need names"),
        ([], "expected names"),
        ([3], "not a recipe"),
    ):
        with pytest.raises(ArgumentError, match=match):
            read_recipes(wrong)
    with pytest.raises(ArgumentError, match="no argument 'gama'"):
        candidates(find("dist"), {"gama": 1.0}, 1, None, 0)


def test_differences_by_hand():
    record = scored(kd=[0.90, 0.92, 0.91, 0.95], dkd=[0.90, 0.90, 0.91, 0.90], alone=[0.88, 0.90, 0.90, 0.93])
    gap = standings.gaps(record, "digits")["kd"]
    gaps = np.array([0.02, 0.02, 0.01, 0.02])
    assert gap["mean"] == pytest.approx(gaps.mean())
    assert gap["half"] == pytest.approx(3.182446 * gaps.std(ddof=1) / 2, rel=1e-5)  # t of 3 degrees of freedom
    t = torch.distributions.StudentT(3.0)
    statistic = gaps.mean() / (gaps.std(ddof=1) / 2)
    grid = torch.linspace(0, float(statistic), 200_001, dtype=torch.float64)
    inside = float(torch.trapezoid(t.log_prob(grid).exp(), grid))
    assert gap["p"] == pytest.approx(1 - 2 * inside, abs=1e-6)
    assert gap["holm"] == pytest.approx(2 * gap["p"])
    assert gap["clear"]
    assert standings.ranks(record) == {"kd": [1.5, 1, 1.5, 1], "dkd": [1.5, 2.5, 1.5, 3], "alone": [3, 2.5, 3, 2]}
    assert standings.holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03}) == {"a": 0.03, "b": 0.06, "c": None, "d": 0.06}
    assert "clearly better than the student alone: kd" in standings.verdict(record)


def test_what_diverged_comes_last_and_is_said():
    record = scored(kd=[0.9, None, 0.9, 0.9], alone=[0.8, 0.8, 0.8, 0.8])
    assert standings.ranks(record)["kd"] == [1, 2, 1, 1]
    assert standings.gaps(record, "digits")["kd"]["pairs"] == 3
    assert "(1 diverged)" in comparison.page(record)
    assert math.isnan(float(next(csv.DictReader(io.StringIO(comparison.table(record))))["values"].split()[1]))
    one = scored(kd=[0.9], alone=[0.8])
    assert "one seed, so that nothing is clear" in standings.verdict(one)
    comparison.page(one)


@lb.recipe(paper="none", year=2026, field="classifiers", needs=("labels",))
def bursting(job):
    """Its weight leaves what a float holds half way through."""
    return job.stage(o.ramp(0.0, 3e38, begin=0.5, until=0.6) * o.cross_entropy() + o.cross_entropy())


def test_one_that_diverges_leaves_the_others_standing():
    found = lb.compare(recipes=["kd", bursting], data="digits", teacher=teacher(), seeds=1, **QUICK)
    rows = found.record["sets"]["digits"]["rows"]
    assert rows["bursting"]["scores"] == [{}]
    assert "became inf" in rows["bursting"]["errors"][0]
    assert rows["kd"]["scores"][0]["accuracy"] > 0
    with pytest.raises(LimbeckError, match=r"on digits: The loss of 'student' became nan"):
        lb.compare(recipes="kd(temperature=1e-42)", data="digits", teacher=teacher(), seeds=1, **QUICK)


def test_several_sets_with_a_teacher_each():
    with seeded(0):
        tables = {"wine": lb.students.build.mlp(13, 3).eval(), "breast_cancer": lb.students.build.mlp(30, 2).eval()}
    found = lb.compare(recipes=["kd"], data=["wine", "breast_cancer"], teacher=list(tables.values()), seeds=2,
                       **{**QUICK, "student": "mlp:8"})  # fmt: skip
    assert list(found.record["sets"]) == ["wine", "breast_cancer"]
    assert len(found.rows[0]["ranks"]) == 4
    assert "On wine" in comparison.page(found.record)
    with pytest.raises(ArgumentError, match="2 data sets and 1 teachers"):
        lb.compare(recipes=["kd"], data=["wine", "breast_cancer"], teacher=[tables["wine"]], **QUICK)


def test_what_does_not_fit_is_said_before_training(tmp_path):
    options = {"data": "digits", "teacher": teacher(), "out": tmp_path / "c", **QUICK}
    with pytest.raises(ArgumentError, match="is for a single run"):
        lb.compare(recipes="kd", baseline="alone", **options)
    with pytest.raises(ArgumentError, match="seeds=0"):
        lb.compare(recipes="kd", seeds=0, **options)
    with pytest.raises(ArgumentError, match="no task in common"):
        lb.compare(recipes="kd,leaf", **options)
    with pytest.raises(LimbeckError, match=r"on digits: The tap 'nosuch'"):
        lb.compare(recipes="kd,fitnets(student_layer='nosuch')", **options)
    with pytest.raises(ArgumentError, match=r"give valid=0\.1"):
        lb.compare(recipes="kd", tune=2, **{**options, "valid": 0})
    assert not (tmp_path / "c").exists()


def test_the_command(tmp_path, monkeypatch, capsys):
    lb.save_model(teacher(), tmp_path / "teacher")
    words = ["limbeck", "compare", "recipes=kd,dkd(beta=2)", "data=digits", f"teacher={tmp_path}/teacher", "seeds=2", "steps=4",
             "batch_size=32", "student=cnn(width=2,depth=2)", f"out={tmp_path}/c", "progress=false"]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    assert cli.run() == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "mean rank" in text
    assert "comparison.html" in text
    monkeypatch.setattr("sys.argv", [*words, "resume=true", "--json"])
    assert cli.run() == 0
    assert set(json.loads(capsys.readouterr().out)["sets"]["digits"]["rows"]) == {"kd", "dkd(beta=2)", "alone"}
    monkeypatch.setattr("sys.argv", ["limbeck", "compare", "recipes=kd"])
    assert cli.run() == 2
