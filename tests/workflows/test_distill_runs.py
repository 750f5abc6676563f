"""What a run leaves behind and gives back, and that every setting of it is honoured."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import limbeck as lb
from limbeck.describe import open_run
from limbeck.errors import ArgumentError, RunError
from limbeck.evaluation.run import predict
from toys import weights

QUICK = {"progress": False, "learning_rate": 0.02, "steps": 12, "batch_size": 32}
KD = {"recipe": "kd", "student": "mlp:4", "data": "wine", "measure": False, **QUICK}


@pytest.fixture(scope="module")
def teacher():
    return lb.distill("alone", student="mlp:16", data="wine", measure=False, **{**QUICK, "steps": 40}).student


@pytest.fixture(scope="module")
def full(teacher, tmp_path_factory):
    """A run with everything: two seeds, a baseline, an export."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    run = lb.distill("kd", teacher=teacher, student="mlp:4", data="wine", out=folder, seeds=2, baseline="alone",
                     labelled=30, temperature=2, export="onnx", checkpoint_every=5, **QUICK)  # fmt: skip
    return run


def lines(run, stage_of="student"):
    found = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [r for r in found if r.get("learner") == stage_of], [r for r in found if "scores" in r]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_table_has_teacher_student_and_student_alone(full):
    assert [(row["model"], row["role"]) for row in full.table] == [
        ("teacher", "teacher"), ("student", "student"), ("student alone", "baseline"),
    ]  # fmt: skip
    teacher, student, alone = full.table
    assert (teacher["accuracy_std"], student["accuracy_std"] is None, alone["nll_std"] > 0) == (None, False, True)
    values = full.record["models"][1]["scores"]["nll"]["values"]
    assert (student["nll"], student["nll_std"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    test = full.data.parts["test"]
    assert values[0] == pytest.approx(full.task.scores(predict(full.student, test, full.task), test.labels)["nll"])
    assert (student["parameters"], alone["parameters"]) == (13 * 4 + 4 + 4 * 3 + 3,) * 2
    assert teacher["label_agreement"] is None
    assert 0 < student["label_agreement"] <= 1
    assert student["p50_ms[torch, 1]"] > 0


def test_what_a_run_gives_back_is_what_the_readme_says(full):
    assert isinstance(full.student, nn.Module)
    assert not any(module.training for module in full.student.modules())
    assert isinstance(full.table, list)
    assert isinstance(full.table[0], dict)
    assert (full.report, isinstance(full.report, Path)) == (full.path / "report.html", True)
    assert full.verdict.startswith("The student")
    assert full.verdict == json.loads((full.path / "report.json").read_text())["verdict"]
    memory = lb.distill(**KD | {"recipe": "alone"})
    assert (memory.path, memory.student.training) == (None, False)
    with pytest.raises(RunError, match="out="):
        _ = memory.report


def test_the_folder_holds_what_was_asked_done_and_measured(full):
    config = yaml.safe_load((full.path / "config.yaml").read_text())
    expected = {"recipe": "kd", "arguments": {"temperature": 2.0}, "teacher": "<Sequential>", "student": "mlp:4", "seeds": 2,
                "data": "wine", "labelled": 30, "baseline": "alone", "steps": 12, "checkpoint_every": 5}  # fmt: skip
    assert config | expected == config
    assert json.loads((full.path / "run.json").read_text()) == {"status": "finished"}
    assert json.loads((full.path / "data.json").read_text())["labelled"] == 30
    assert json.loads((full.path / "table.json").read_text()) == json.loads(json.dumps(full.table))
    steps, scores = lines(full)
    assert [record["step"] for record in steps] == list(range(12))
    assert set(steps[0]["terms"]) == {"loss", "cross_entropy", "forward_kl"}
    assert [record["step"] for record in scores] == [4, 8, 12]  # 124 samples are four steps
    for place, evaluations in (
        (".", 3),
        ("seeds/1", 3),
        ("alone", 12),
        ("alone/seeds/1", 12),
    ):  # 30 labels: a step each
        done = full.path / place / "stages" / "0" / "done"
        assert json.loads((done / "result.json").read_text())["steps"] == 12
        assert len((full.path / place / "metrics.jsonl").read_text().splitlines()) == 12 + evaluations
    first, other = (load_file(full.path / p / "stages/0/done/weights.safetensors") for p in (".", "seeds/1"))
    key = next(key for key in first if key.endswith("fc.weight"))
    assert not torch.equal(first[key], other[key])


def test_the_student_loads_again_to_the_same_bits(full):
    test = full.data.parts["test"]
    expected = predict(full.student, test, full.task)
    for loaded in (lb.load_module(full.path / "student"), lb.load_model(str(full.path)), open_run(full.path).student):
        assert torch.equal(predict(loaded, test, full.task), expected)


def test_the_report_is_one_page_that_loads_nothing(full):
    page = full.report.read_text(encoding="utf-8")
    assert full.verdict.replace("'", "\u2019") in page.replace("\xa0", " ")
    assert "student alone" in page
    ours = re.sub(r"<script\b(?![^>]*json).*?</script>", "", page, flags=re.DOTALL)  # plotly's own text names addresses
    assert len(page) - len(ours) > 3e6  # and it is in the page
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//""", ours)
    assert not re.findall(r"@import|url\(\s*[\"']?(?!data:)", ours)
    assert not re.findall(r"<script[^>]*\ssrc|<iframe|<object|<embed", page)
    assert "default-src 'none'" in html.unescape(page)


def test_exports_are_what_the_student_computes(full, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    plain, whole = full.export("x.onnx"), full.export(tmp_path / "x.int8.onnx")
    assert (plain["format"], Path(plain["file"])) == ("onnx", full.path / "x.onnx")
    inputs = full.data.parts["test"].batch(range(36)).inputs
    expected = full.student(inputs).detach().numpy()
    for file, tolerance in (
        (full.path / "student.onnx", 1e-5),
        (full.path / "x.onnx", 1e-5),
        (tmp_path / "x.int8.onnx", 0.3),
    ):
        session = onnxruntime.InferenceSession(str(file))
        found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=tolerance)
    assert whole["scores"]["accuracy"] == pytest.approx(
        (found.argmax(1) == full.data.parts["test"].labels.numpy()).mean()
    )
    names = {Path(each["file"]).name for each in json.loads((full.path / "report.json").read_text())["exports"]}
    assert names >= {"student.onnx", "x.onnx", "x.int8.onnx"}
    assert "x.int8.onnx" in full.report.read_text(encoding="utf-8")


def test_exports_that_cannot_be_are_refused_before_training(tmp_path):
    for options, said in [
        ({"export": "onnx"}, "needs out="), ({"export": ["onx"], "out": tmp_path / "x"}, r"Did you mean 'onnx'"),
    ]:  # fmt: skip
        with pytest.raises(ArgumentError, match=said):
            lb.distill(**KD | {"recipe": "alone"}, **options)
    assert not (tmp_path / "x").exists()


def test_a_seed_is_a_student(teacher):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (weights(lb.distill(teacher=teacher, **KD, seed=seed).student) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(2)  # the user's own generator has no say
    assert torch.equal(first, weights(lb.distill(teacher=teacher, **KD, seed=5).student))
    assert not torch.equal(state, torch.get_rng_state())


def test_a_finished_run_that_is_resumed_stays_as_it_is(full, teacher):
    full.export("saved")  # as safetensors
    before = contents(full.path)
    again = lb.distill("kd", teacher=teacher, student="mlp:4", data="wine", out=full.path, seeds=2, baseline="alone",
                       labelled=30, temperature=2, export="onnx", checkpoint_every=5, resume=True, **QUICK)  # fmt: skip
    after = contents(full.path)
    assert torch.equal(weights(again.student), weights(full.student))
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {
        "report.json",
        "report.html",
        "table.json",
    }  # times
    keys = [(each["format"], each["file"]) for each in full.record["exports"]]
    assert sorted((each["format"], each["file"]) for each in again.record["exports"]) == sorted(keys)
    for model, other in zip(again.record["models"], full.record["models"], strict=True):
        assert (model["scores"], model["agreement"]) == (other["scores"], other["agreement"])


def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_end(teacher, tmp_path, monkeypatch):
    """In the first or second seed, or in either baseline."""
    from limbeck.training.loop import Loop

    options = KD | {"teacher": teacher, "seeds": 2, "baseline": "alone", "checkpoint_every": 3}
    whole, step = lb.distill(**options), Loop.step
    for stop in (5, 17, 29, 41):
        left = iter(range(stop))

        def until(self, batches, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            step(self, batches)

        monkeypatch.setattr(Loop, "step", until)
        with pytest.raises(KeyboardInterrupt):
            lb.distill(**options, out=tmp_path / str(stop))
        monkeypatch.undo()
        assert json.loads((tmp_path / str(stop) / "run.json").read_text())["status"] == "interrupted"
        run = lb.distill(**options, out=tmp_path / str(stop), resume=True)
        assert torch.equal(weights(run.student), weights(whole.student))
        assert [model["scores"] for model in run.record["models"]] == [
            model["scores"] for model in whole.record["models"]
        ]
        assert run.record["curves"] == whole.record["curves"]


NEWEST = "stages/0/checkpoints/step-00000010"
DAMAGES = {  # file -> what it holds now (None: it is gone), whether the run had finished, and what is said (None: it goes on)
    f"{NEWEST}/weights.safetensors": (b"x", False, None),
    f"{NEWEST}/state.pt": (None, False, None),
    "metrics.jsonl": (b"{\nfoo", False, None),
    "run.json": (b"{", False, r"run\.json cannot be read.*overwrite=true"),
    "config.yaml": (b"a: [1", False, r"config\.yaml cannot be read.*overwrite=true"),
    "data.json": (b"{", False, r"data\.json cannot be read.*Remove it"),
    "report.json": (b"{", True, r"report\.json cannot be read.*Remove it"),
    "stages/0/done/weights.safetensors": (b"x", True, r"done cannot be read.*Remove .*done to train this stage again"),
    "stages/0/done/result.json": (b"{", True, r"result\.json cannot be read.*Remove .*done"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_said_to_be_one_and_an_older_checkpoint_serves(tmp_path, monkeypatch, name):
    from limbeck.training.loop import Loop

    content, finished, said = DAMAGES[name]
    options = KD | {"recipe": "alone", "checkpoint_every": 5, "out": tmp_path / "run"}
    step = Loop.step

    def until(self, batches):
        if self.number == 11:
            raise KeyboardInterrupt
        step(self, batches)

    if finished:
        lb.distill(**options)
    else:
        monkeypatch.setattr(Loop, "step", until)
        with pytest.raises(KeyboardInterrupt):
            lb.distill(**options)
        monkeypatch.undo()
    damaged = tmp_path / "run" / name
    damaged.unlink() if content is None else damaged.write_bytes(content)
    if said is None:
        run = lb.distill(**options, resume=True)
        assert torch.equal(weights(run.student), weights(lb.distill(**options | {"out": None}).student))
        return
    with pytest.raises(RunError, match=said):
        lb.distill(**options, resume=True)
    if "Remove" not in said:
        lb.distill(**options, overwrite=True)
        return
    shutil.rmtree(damaged.parent) if damaged.parent.name == "done" else damaged.unlink()
    run = lb.distill(**options, resume=True)
    assert torch.equal(weights(run.student), weights(lb.distill(**options | {"out": None}).student))


def test_without_a_readable_checkpoint_the_way_out_is_said(tmp_path):
    from limbeck.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(tmp_path / "kept")
    for number in (1, 2):
        checkpoints.save(number, {"a": torch.ones(2)}, {}, {})
        (tmp_path / "kept" / f"step-{number:08d}" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(
        RunError, match=r"step-00000002 cannot be read.*Remove .*kept to train this stage from its beginning"
    ):
        checkpoints.load()


def test_a_folder_is_one_run(tmp_path, teacher):
    table = tmp_path / "t.csv"
    rows = [f"{number % 7},{number % 5},{number % 2}" for number in range(60)]
    table.write_text("\n".join(["a,b,label", *rows]))
    alone = KD | {"recipe": "alone", "data": table, "out": tmp_path / "run"}
    first = lb.distill(**alone)
    with pytest.raises(RunError, match=r"already holds a run \(finished\)"):
        lb.distill(**alone)
    with pytest.raises(RunError, match="steps: 12, now 13"):
        lb.distill(**alone | {"steps": 13}, resume=True)
    table.write_text("\n".join(["a,b,label", *reversed(rows)]))
    written = (tmp_path / "run" / "data.json").read_text()
    with pytest.raises(RunError, match="other samples"):
        lb.distill(**alone, resume=True)
    assert (tmp_path / "run" / "data.json").read_text() == written
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    second = lb.distill(**alone, overwrite=True)
    assert not torch.equal(weights(first.student), weights(second.student))
    ensembles = [{"x": teacher, "y": copy.deepcopy(teacher)}, {"x": teacher, "z": copy.deepcopy(teacher)}]
    lb.distill(**KD, teacher=ensembles[0], out=tmp_path / "two")
    with pytest.raises(RunError, match="teacher:"):
        lb.distill(**KD, teacher=ensembles[1], out=tmp_path / "two", resume=True)
