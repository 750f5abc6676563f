"""A search for a pipeline: what is recommended, drawn, ended early, kept, and said."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import spearmanr

import limbeck as lb
from limbeck.automatic import seconds_of
from limbeck.errors import ArgumentError, Interrupted, RunError
from limbeck.experience import Experience, read_searches, searched
from limbeck.recipes import find
from limbeck.recommend import Features, recommend
from limbeck.report.automatic import written
from limbeck.search_space import axes_of
from limbeck.teachers.base import ModuleTeacher
from limbeck.teachers.remembered import remember
from limbeck.trials import drawn
from limbeck.tuning import read_recipes

optuna = pytest.importorskip("optuna")
OPTIONS = {"data": "wine", "student": "mlp:8", "steps": 12, "learning_rate": 1e-2, "budget": 120, "seeds": 2, "progress": False,
           "recipes": "kd,distiller,dkd(beta=[1.0,8.0])"}  # fmt: skip


@pytest.fixture(scope="module")
def teacher():
    return lb.distill("alone", data="wine", student="mlp:32", steps=60, progress=False, measure=False).student


def test_a_search_tries_judges_and_compares(teacher, tmp_path):
    found = lb.auto(teacher=teacher, trials=14, batch_size=[16, 32], out=tmp_path / "a", **OPTIONS)
    record = found.record
    assert len(record["trials"]) == 14
    assert {trial["state"] for trial in record["trials"]} <= {"complete", "pruned", "fail"}
    assert all(trial["error"] is None for trial in record["trials"])
    first, second = record["trials"][:2]
    assert first["with"]["recipe"] == record["recommended"]["recipe"] == "distiller"  # three classes
    assert second["with"]["kd.soft"] == 0.9  # plain KD
    for trial in record["trials"]:
        given = trial["with"]
        assert given["batch_size"] in (16, 32)
        if given["recipe"].startswith("dkd"):
            assert given["dkd(beta=[1.0,8.0]).beta"] in (1.0, 8.0)
        if given["recipe"] == "distiller":
            assert ("distiller.alpha" in given) == (given["distiller.intermediate"] == "mi")
            assert ("distiller.temperature" in given) == (given["distiller.prediction"] != "mse")
    done = [trial["valid"] for trial in record["trials"] if trial["state"] == "complete"]
    assert record["best"]["valid"] == max(done)
    rows = record["finals"]["sets"]["wine"]["rows"]
    assert {"best", "kd", "alone"} <= set(rows)
    assert all(len(row["scores"]) == 2 and row["bytes"] > 0 for row in rows.values())
    assert rows["alone"]["chosen"]["learning_rate"] in (3.33e-3, 1e-2, 3e-2)  # it is tuned too
    assert record["teacher_reads"]["read"] < record["teacher_reads"]["asked"] / 4
    assert "against the best KD" in found.verdict
    if len(done) >= 10:
        assert sum(record["mattered"]["all trials"].values()) == pytest.approx(1, abs=1e-6)
    page = (tmp_path / "a" / "auto.html").read_text()
    assert "What mattered" in page
    assert json.loads((tmp_path / "a" / "auto.json").read_text())["best"] == json.loads(json.dumps(record["best"]))
    assert (tmp_path / "a" / "runs" / "wine" / "best" / "seed0" / "student").is_dir()
    found.show()


def test_what_was_tried_is_kept_and_gone_on_with(teacher, tmp_path, monkeypatch):
    import limbeck.trials as trials

    real, calls = trials.train_once, []

    def stopping(setting, bound, changes, seed, **more):
        if not more.get("dry_run"):
            calls.append(bound.recipe.name)
            if len(calls) == 4:
                raise KeyboardInterrupt
        return real(setting, bound, changes, seed, **more)

    monkeypatch.setattr(trials, "train_once", stopping)
    with pytest.raises(Interrupted, match="resume=true goes on"):
        lb.auto(teacher=teacher, trials=6, out=tmp_path / "a", **OPTIONS)
    with pytest.raises(RunError, match="already holds a search"):
        lb.auto(teacher=teacher, trials=6, out=tmp_path / "a", **OPTIONS)
    with pytest.raises(RunError, match="started with other arguments: seeds"):
        lb.auto(teacher=teacher, trials=6, out=tmp_path / "a", resume=True, **{**OPTIONS, "seeds": 3})
    found = lb.auto(teacher=teacher, trials=6, out=tmp_path / "a", resume=True, **OPTIONS)
    states = [trial["state"] for trial in found.record["trials"]]
    assert len(states) == 7
    assert states[3] == "fail"
    assert calls[-3:] == ["alone"] * 3
    assert len(calls) == 7 + 3  # the three before were not trained again, the interrupted one was
    assert found.record["trials"][3]["with"] == found.record["trials"][4]["with"]
    again = lb.auto(teacher=teacher, trials=4, out=tmp_path / "a", overwrite=True, **OPTIONS)
    assert len(again.record["trials"]) == 4


@pytest.mark.parametrize(("change", "message"), [
    ({"budget": "soon"}, "expected a length of time"), ({"budget": -1}, "expected a length of time"),
    ({"trials": 0}, "trials=0"), ({"teacher": None}, "needs a teacher="),
    ({"baseline": "alone"}, "baseline= is for a single run"),
    ({"recipes": "kd,nothing"}, "nothing"), ({"recipes": "regression_kd"}, "searches for classifiers"),
    ({"recipes": "nst"}, "nst on wine.*Tap a layer that gives maps"),
])  # fmt: skip
def test_wrong_inputs_before_anything_is_trained(change, message, teacher, tmp_path):
    with pytest.raises(lb.LimbeckError, match=message):
        lb.auto(**{"teacher": teacher, "out": tmp_path / "a", **OPTIONS, **change})
    assert not (tmp_path / "a").exists()


def test_lengths_of_time():
    assert [seconds_of(text) for text in (30, "90s", "20m", "1.5h", "7")] == [30, 90, 1200, 5400, 7]


def test_a_recipe_that_does_not_fit_is_left_out_of_the_default_space(teacher, monkeypatch):
    monkeypatch.setattr("limbeck.automatic.SPACE", "kd,nst")
    found = lb.auto(teacher=teacher, trials=3, **{key: value for key, value in OPTIONS.items() if key != "recipes"})
    assert list(found.record["config"]["recipes"]) == ["kd"]  # nst is for CNNs


def test_what_of_a_recipe_is_searched():
    axes = axes_of(find("distiller"), {})
    assert axes["intermediate"] == ["mi", "mse", "cosine", "cka", "none"]
    assert axes["temperature"] == (1.0, 16.0)
    assert 0 < axes["soft"][0] < 0.9 < axes["soft"][1] < 1
    assert axes["layers"] == [1, 2, 3]
    ((recipe, given),) = read_recipes("kd(soft=[0.5,0.9])").values()
    assert axes_of(recipe, given) == {"soft": [0.5, 0.9]}


def test_the_rules_of_the_recommendation():
    known = {
        "kind": "image",
        "samples": 1000,
        "labelled": 1000,
        "classes": 10,
        "capacity": 4.0,
        "teacher": 0.97,
        "layers": True,
    }
    assert (recommend(Features(**known)).recipe, recommend(Features(**known)).arguments) == ("kd", {"soft": 0.9})
    assert recommend(Features(**{**known, "labelled": 100})).arguments == {"soft": 1.0}
    assert recommend(Features(**{**known, "teacher": 0.6})).arguments == {"soft": 0.5}
    two = recommend(Features(**{**known, "classes": 2}))
    assert two.recipe == "distiller"
    assert two.arguments["intermediate"] == "mi"
    assert recommend(Features(**{**known, "capacity": 50.0})).recipe == "logit_standardization"
    assert all(recommend(Features(**{**known, "labelled": count})).reasons for count in (0, 1000))
    for each in (recommend(Features(**known)), two):
        assert set(each.arguments) <= set(find(each.recipe).parameters)


# what earlier searches teach ---------------------------------------------------------------------------------------------

FEATURES = Features("tabular", 124, 124, 3, 4.0, 0.97, True).plain()


def pretend(folder, score, count=40):
    """The record of a search whose trials got a score by a formula of their pipeline."""
    space = read_recipes("kd,distiller,dkd(beta=[1.0,8.0])")
    made = drawn(space, {"batch_size": [16, 32]}, count, 0)
    trials = [{"pipeline": pipeline, "valid": score(pipeline), "state": "complete"} for _, pipeline in made]
    folder.mkdir(parents=True)
    text = json.dumps({"features": FEATURES, "measure": "accuracy", "trials": trials})
    (folder / "auto.json").write_text(text)
    return folder


def dkd_is_best(pipeline):
    return 0.5 + 0.3 * (pipeline["recipe"] == "dkd") + 0.02 * pipeline["factor"]


def test_trees_learn_which_pipeline_is_good(tmp_path):
    pretend(tmp_path / "all" / "a", dkd_is_best)
    pretend(tmp_path / "all" / "b", lambda pipeline: 0.1 + dkd_is_best(pipeline) / 2, count=30)
    searches = read_searches(str(tmp_path / "all"))
    assert [len(each.ranks) for each in searches] == [40, 30]
    assert all(min(each.ranks) == 0 and max(each.ranks) == 1 for each in searches)
    space = read_recipes("kd,distiller,dkd(beta=[1.0,8.0])")
    new = drawn(space, {"batch_size": [16, 32]}, 60, 1)
    experience = Experience(searches)
    expected = experience.predict(FEATURES, [pipeline for _, pipeline in new])
    found = [dkd_is_best(pipeline) for _, pipeline in new]
    assert spearmanr(expected, found)[0] > 0.9
    (first, names), *others = experience.recommend(FEATURES, new)
    assert first.recipe == "dkd"
    assert first.factor == names["times the learning rate"] > 1.5
    assert "correlate by" in first.reasons[1]
    assert {each.recipe for each, _ in others} == {"kd", "distiller"}  # one of each


def test_ranks_share_their_place_and_what_failed_is_last():
    pipeline = {"recipe": "kd", "arguments": {}, "factor": 1.0, "options": {}}
    trials = [(pipeline, score) for score in (0.9, 0.9, None, 0.5, float("nan"))]
    assert searched("x", FEATURES, trials, more_is_better=True).ranks == [0.875, 0.875, 0.125, 0.5, 0.125]
    assert searched("x", FEATURES, trials, more_is_better=False).ranks == [0.625, 0.625, 0.125, 1.0, 0.125]


def test_a_search_begins_with_what_earlier_ones_taught(teacher, tmp_path):
    earlier = pretend(tmp_path / "before", dkd_is_best)
    found = lb.auto(teacher=teacher, trials=4, batch_size=[16, 32], earlier=[earlier], **OPTIONS)
    first, second, third, fourth = (trial["with"]["recipe"] for trial in found.record["trials"])
    assert first.startswith("dkd")
    assert {second, third} == {"kd", "distiller"}
    assert fourth == "kd"
    wanted = found.record["recommended"]
    assert wanted["recipe"] == "dkd"
    assert "Only one search was learned from" in wanted["reasons"][1]
    assert (
        written({**wanted, "factor": 2.5})
        == f"{written({**wanted, 'factor': 1.0})} at 2.5 times the run's learning rate"
    )
    rows = found.record["finals"]["sets"]["wine"]["rows"]
    told = rows.get("recommended", rows["best"])
    assert told["chosen"]["learning_rate"] == pytest.approx(1e-2 * wanted["factor"], rel=1e-2)


def test_earlier_searches_that_cannot_be_read(teacher, tmp_path):
    few = pretend(tmp_path / "few", dkd_is_best, count=5)
    old = tmp_path / "old"
    old.mkdir()
    (old / "auto.json").write_text(json.dumps({"trials": [{"valid": 0.5, "state": "complete"}]}))
    for earlier, message in ((tmp_path / "none", "no search is there"), (few, "holds 5 trials; at least 10"),
                             (old, "older Limbeck"), (3, "expected folders")):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            lb.auto(teacher=teacher, trials=4, earlier=earlier, out=tmp_path / "a", **OPTIONS)
        assert not (tmp_path / "a").exists()


# the teacher's memory -------------------------------------------------------------------------------------------------


def test_a_teacher_reads_a_sample_once_and_says_the_same():
    data = lb.load_data("wine")
    from limbeck.tasks import resolve

    task, module = resolve("classification"), torch.nn.Sequential(torch.nn.Linear(13, 5), torch.nn.Linear(5, 3)).eval()
    teacher, plain = ModuleTeacher(module), ModuleTeacher(module)
    memory = remember(teacher, data.train)
    batch = data.train.batch(torch.arange(20))
    for _ in range(2):
        found, expected = (each.read(batch, ["logits", "0"], task) for each in (teacher, plain))
        for tap in ("logits", "0"):
            torch.testing.assert_close(found[tap], expected[tap], rtol=0, atol=0)
    assert (memory.asked, memory.read) == (40, 20)
    other = data.train.batch(torch.tensor([19, 3, 40]))  # one of them is new
    torch.testing.assert_close(teacher.read(other, ["logits"], task)["logits"], plain.read(other, ["logits"], task)["logits"],
                               rtol=0, atol=1e-6)  # fmt: skip
    assert memory.read == 23
    held_out = data.parts["test"].batch(torch.arange(4))
    teacher.read(held_out, ["logits"], task)
    teacher.read(held_out, ["logits"], task)
    assert memory.read == 31  # of other parts nothing is kept
    small = remember(ModuleTeacher(module), data.train, most=8)
    assert not small.kept


def test_the_memory_has_an_end():
    data = lb.load_data("wine")
    from limbeck.tasks import resolve

    task, teacher = resolve("classification"), ModuleTeacher(torch.nn.Linear(13, 3).eval())
    memory = remember(teacher, data.train, most=100)
    batch = data.train.batch(torch.arange(20))
    for _ in range(2):
        teacher.read(batch, ["logits"], task)
    assert (memory.read, memory.bytes) == (40, 0)


def test_the_command_says_what_is_missing():
    from typer.testing import CliRunner

    from limbeck.cli import app

    done = CliRunner().invoke(app, ["auto", "data=wine"])
    assert isinstance(done.exception, ArgumentError)
    assert "Missing: teacher=" in str(done.exception)


def test_without_optuna_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(lb.LimbeckError, match=r"limbeck\[auto\]"):
        lb.auto(data="wine", teacher="x")
