"""The monitor: when it measures, what it measures for each task, what it refuses, and that a run keeps it."""

import itertools
import json

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.data.base import Data, TensorPart
from limbeck.errors import ArgumentError
from limbeck.evaluation.monitor import Monitor, due, make_monitor
from limbeck.functional import forward_kl
from limbeck.recipes.toy_language import language_toy
from limbeck.tasks import resolve
from limbeck.teachers.base import as_teacher
from limbeck.training.job import Job
from limbeck.training.metrics import Metrics
from limbeck.training.settings import Settings

QUICK = {"progress": False, "measure": False, "learning_rate": 0.02, "steps": 40, "batch_size": 32, "warmup": 0.0}


def test_steps_suit_a_logarithmic_axis():
    steps = [number for number in range(1, 2001) if due(number, 2000)]
    assert steps[:6] == [20, 25, 32, 40, 49, 62]
    assert steps[-17:] == list(range(400, 2001, 100))
    assert 25 <= len(steps) <= 35
    assert [number for number in range(1, 11) if due(number, 10)] == list(range(1, 11))
    unknown = [number for number in range(1, 5000) if due(number, None)]
    assert unknown[:5] == [8, 10, 13, 16, 20]
    assert all(1.15 < later / earlier < 1.35 for earlier, later in itertools.pairwise(unknown))


def classes(seed=0, n=30):
    draw = torch.Generator().manual_seed(seed)
    part = TensorPart("valid", torch.randn(n, 5, generator=draw), torch.arange(n) % 3)
    return part, [nn.Linear(5, 3) for _ in range(3)]


@torch.no_grad()
def test_distances_of_classifiers():
    part, (student, teacher, oracle) = classes()
    task = resolve("classification")
    proxy, golden = task.distances(student, part, teacher)
    s, t, o = (model(part.inputs) for model in (student, teacher, oracle))
    assert proxy == ("kl_to_teacher", pytest.approx(float(forward_kl(s, t)), rel=1e-5))
    assert golden == ("nll", pytest.approx(float(nn.functional.cross_entropy(s, part.labels)), rel=1e-5))
    _, golden = task.distances(student, part, teacher, oracle)
    assert golden == ("kl_to_teacher", pytest.approx(float(forward_kl(s, o)), rel=1e-5))
    few, _ = task.distances(student, part, teacher, most=3)
    rows = torch.tensor([0, 10, 20])
    assert few[1] == pytest.approx(float(forward_kl(s[rows], t[rows])), rel=1e-5)


@torch.no_grad()
def test_distances_of_values():
    part, _ = classes()
    part.labels = torch.randn(30)
    student, teacher, oracle = (nn.Linear(5, 1) for _ in range(3))
    task = resolve("regression")
    proxy, golden = task.distances(student, part, teacher)
    s, t, o = (model(part.inputs)[:, 0] for model in (student, teacher, oracle))
    assert proxy == ("mse", pytest.approx(float((s - t).square().mean()), rel=1e-5))
    assert golden == ("mse", pytest.approx(float((s - part.labels).square().mean()), rel=1e-5))
    assert task.distances(student, part, teacher, oracle)[1][1] == pytest.approx(
        float((s - o).square().mean()), rel=1e-5
    )


@torch.no_grad()
def test_distances_of_language_models():
    data, teacher, student = language_toy()
    part, task = data.parts["valid"], resolve("causal_lm")
    proxy, golden = task.distances(student, part, teacher)
    batch = part.batch(range(8))
    kept = batch.labels != -100
    s, t = (model(**batch.inputs).logits[kept] for model in (student, teacher))
    assert proxy == ("kl_to_teacher", pytest.approx(float(forward_kl(s, t)), rel=1e-4))
    assert golden == ("nll", pytest.approx(float(nn.functional.cross_entropy(s, batch.labels[kept])), rel=1e-4))
    assert task.distances(student, part, teacher, teacher)[1] == proxy
    assert task.distances(student, part, teacher, most=2)[0][1] != proxy[1]


def job(**changes):
    part, (student, teacher, _) = classes()
    data = Data("toy", "table", {"train": part, "valid": part}, classes=["a", "b", "c"])
    return Job(resolve("classification"), data, student, as_teacher(teacher), Settings(steps=5), **changes)


def test_who_is_watched():
    assert make_monitor(job()) is None  # classifiers when it is asked for
    assert make_monitor(job(), asked=True).truth == "the held-out labels"
    assert make_monitor(job(), oracle=nn.Linear(5, 3)).truth == "the oracle"
    data, teacher, student = language_toy()
    data.parts["valid"] = data.train
    talker = Job(resolve("causal_lm"), data, student, as_teacher(teacher), Settings(steps=5))
    assert make_monitor(talker).truth == "the held-out text"
    assert make_monitor(talker, asked=False) is None
    data.parts["valid"] = language_toy()[0].parts["valid"]
    assert make_monitor(talker) is None  # eight samples
    assert len(make_monitor(talker, asked=True).part) == 8
    talker.teacher = None
    assert make_monitor(talker) is None
    some = job()
    some.data.parts["valid"] = some.data.parts["valid"].with_labels(torch.tensor([-100] * 20 + [0] * 10))
    assert len(make_monitor(some, asked=True).part) == 10


def test_what_cannot_be_watched_is_refused_before_training():
    with pytest.raises(ArgumentError, match="give teacher="):
        lb.distill("alone", data="wine", student="mlp:4", monitor=True, **QUICK)
    alone = job()
    del alone.data.parts["valid"]
    with pytest.raises(ArgumentError, match=r"give valid=0\.1"):
        make_monitor(alone, asked=True)
    with pytest.raises(ArgumentError, match="contradict"):
        make_monitor(job(), asked=False, oracle=nn.Linear(5, 3))
    with pytest.raises(lb.LimbeckError, match="The oracle gives"):
        make_monitor(job(), oracle=nn.Linear(5, 4))


def curve(turn):
    """A run's metrics whose golden distance turns at its 12th measurement, or never; an earlier stage before."""
    metrics = Metrics()
    metrics.add({"stage": 0, "step": 5, "monitor": {"proxy": 9.0, "golden": 9.0, "names": ["kl_to_teacher", "nll"]}})
    for step in range(1, 25):
        golden = 1 / step + (0.05 * (step - 12) if turn and step > 12 else 0)
        found = {"proxy": 2 / step, "golden": golden, "names": ["kl_to_teacher", "nll"]}
        metrics.add({"stage": 1, "step": step, "monitor": found})
    return metrics


def test_the_record_is_of_the_last_stage_and_warns():
    part, (_, teacher, _) = classes()
    monitor = Monitor(resolve("classification"), part, teacher)
    record = monitor.record(curve(True))
    assert record["step"] == list(range(1, 25))
    assert (record["finding"]["verdict"], record["finding"]["turned"], record["alarm"]) == ("hacking", 12, True)
    assert "away from the held-out labels" in record["sentence"]
    assert not monitor.record(curve(False))["alarm"]
    assert monitor.record(Metrics()) is None
    json.dumps(record, allow_nan=False)


@pytest.fixture(scope="module")
def guide():
    """A teacher of few samples, and a student that can learn it by heart."""
    return lb.distill("alone", data="wine", student="mlp:16", **QUICK).student


def test_a_run_is_watched_warned_of_and_resumed_to_the_same_curve(guide, tmp_path, monkeypatch):
    from limbeck.training.loop import Loop

    options = {"recipe": "kd", "teacher": guide, "student": "mlp:32", "data": "wine", "labelled": 10, "monitor": True,
               "valid": 0.3, "checkpoint_every": 7, **QUICK, "steps": 60, "learning_rate": 0.05}  # fmt: skip
    whole = lb.distill(**options)
    watched = whole.record["monitor"]
    assert watched["step"] == [number for number in range(1, 61) if due(number, 60)]
    assert watched["names"] == ["kl_to_teacher", "nll"]
    assert whole.record["config"]["monitor"] is True
    left, step = iter(range(31)), Loop.step

    def until(self, batches):
        if next(left, None) is None:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(Loop, "step", until)
    with pytest.raises(KeyboardInterrupt):
        lb.distill(**options, out=tmp_path / "run")
    monkeypatch.undo()
    again = lb.distill(**options, out=tmp_path / "run", resume=True)
    assert again.record["monitor"] == watched
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "monitor" in row] == watched["step"]
    replayed = lb.distill(**options, out=tmp_path / "run", resume=True)
    assert replayed.record["monitor"] == watched


def test_watching_changes_nothing_in_the_training(guide):
    options = {"recipe": "kd", "teacher": guide, "student": "mlp(hidden=8, dropout=0.2)", "data": "wine", **QUICK}
    plain, watched = lb.distill(**options), lb.distill(**options, monitor=True)
    for one, other in zip(plain.student.parameters(), watched.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "monitor" not in plain.record


def test_an_alarm_is_a_warning_of_the_run_and_stands_in_its_report(guide, tmp_path):
    """Random labels for the student: it learns them by heart, away from the held-out ones."""
    from limbeck.data import load_data

    data = load_data("wine", valid=0.3, seed=0)
    draw = torch.Generator().manual_seed(0)
    data.parts["train"] = data.train.with_labels(torch.randint(3, (len(data.train),), generator=draw))
    run = lb.distill("alone", teacher=guide, data=data, student="mlp:64", monitor=True, out=tmp_path / "run",
                     **{**QUICK, "steps": 200})  # fmt: skip
    watched = run.record["monitor"]
    assert watched["alarm"]
    assert watched["finding"]["turned"] < 100
    assert any(watched["sentence"] in warning for warning in run.record["warnings"])
    page = run.report.read_text()
    assert watched["sentence"] in page
    assert 'id="plot-monitor-steps"' in page
