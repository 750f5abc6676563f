"""A run that is killed at any moment and resumed has the bits of the one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck.data.base import Batch, TensorPart
from limbeck.errors import Interrupted, RunError
from limbeck.objectives.weights import learned
from limbeck.teachers.live import Average
from limbeck.training.checkpoint import Checkpoints, write_folder
from limbeck.training.execute import Runner
from limbeck.training.sources import DrawnSource, StreamSource
from toys import hard, kl, near, net, toy_data, toy_job, train, weights

HERE = Path(__file__).parent


class Noise:
    """An augmentation that draws."""

    count = None

    def draw(self, number, generator):
        return torch.randint(2**31, (number,), generator=generator)

    def apply(self, inputs, view):
        noise = torch.stack(
            [torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(int(v))) for v in view]
        )
        return inputs + 0.1 * noise


def plan(steps=30, workers=0, precision="no", slow=0.0):
    """Dropout, batch norm, AdamW, a projector, a learned weight, an average, an EMA, augmentation, unlabelled samples."""
    student = nn.Sequential(*net(2), nn.BatchNorm1d(3))
    student[2].p = 0.3
    data = toy_data(37, unlabelled=9)
    part = data.train
    data.parts["train"] = TensorPart("train", part.inputs, part.labels, augmentation=Noise())
    job = toy_job(student=student, data=data, steps=steps, ema=0.9, workers=workers, precision=precision, best="accuracy",
                  evaluate_every=7, checkpoint_every=4)  # fmt: skip
    job.evaluation = lambda module: {"accuracy": float(weights(module).sum().sin())}
    if slow:
        evaluate = job.evaluation
        job.evaluation = lambda module: (time.sleep(slow), evaluate(module))[1]
    objective = (
        hard() + learned() * kl() + near().on("1", "teacher:1").projected() + kl().against("average").named("self")
    )

    def stages():
        yield job.stage(objective, roles={"average": Average("student", 0.8)})
        yield job.stage(hard() + kl(), name="second")

    return job, stages()


class KillAt:
    """SIGKILL to this very process after a step, as a power cut would."""

    def __init__(self, stage, step):
        self.at = (stage, step)

    def step(self, loop):
        if (loop.index, loop.number) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def child(folder, stage, step, workers, precision):
    torch.set_num_threads(1)
    _, stages = plan(workers=workers, precision=precision)
    runner = Runner(Path(folder), cpu=True, resume=True, watchers=(KillAt(stage, step),))
    runner.run(stages)


def final(folder):
    return {
        f"{i}.{k}": v for i in (0, 1) for k, v in load_file(folder / f"stages/{i}/done/weights.safetensors").items()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    found = {}
    for precision in ("no", "bf16"):
        folder = tmp_path_factory.mktemp("whole")
        _, stages = plan(precision=precision)
        Runner(folder, cpu=True).run(stages)
        found[precision] = (final(folder), (folder / "metrics.jsonl").read_text())
    return found


@pytest.mark.processes
@pytest.mark.parametrize(("workers", "precision", "kills"),
                         [(0, "no", [(0, 6), (0, 19), (1, 3)]), (2, "bf16", [(0, 13), (1, 29)])])  # fmt: skip
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, uninterrupted, workers, precision, kills):
    for stage, step in kills:
        code = f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}; import test_resume as t; " + (
            f"t.child({str(tmp_path)!r}, {stage}, {step}, {workers}, {precision!r})"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
        assert found.returncode == -signal.SIGKILL, found.stderr[-2000:]
    _, stages = plan(workers=workers, precision=precision)
    Runner(tmp_path, cpu=True, resume=True).run(stages)
    expected, lines = uninterrupted[precision]
    got = final(tmp_path)
    assert got.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(got[key], expected[key])] == []
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_a_half_written_checkpoint_is_never_seen(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"a": torch.ones(2)}, {}, {"x": 1})
    (tmp_path / "step-00000009.tmp").mkdir()
    (tmp_path / "step-00000009.tmp" / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.load()[0] == 3


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"a": torch.ones(2)}, {}, {"x": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("limbeck.training.checkpoint.save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        checkpoints.save(4, {"a": torch.ones(2)}, {}, {"x": 1})
    assert checkpoints.steps() == [3]
    assert not list(tmp_path.glob("*.tmp"))


def test_only_the_newest_checkpoints_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"a": torch.ones(2)}, {}, {})
    assert checkpoints.steps() == [2, 3]


def test_tied_weights_are_saved_under_both_names(tmp_path):
    tied = torch.ones(2, 2)
    write_folder(tmp_path / "x", {"weights.safetensors": {"a": tied, "b": tied}})
    assert set(load_file(tmp_path / "x/weights.safetensors")) == {"a", "b"}


def test_a_changed_recipe_is_refused_on_resume(tmp_path):
    Runner(tmp_path, cpu=True).run(toy_job(steps=3).stage(hard()))
    with pytest.raises(RunError, match=r"gives now: objectives\.student: saved 'hard\(\)', now 'hard\(\) \+ kl"):
        Runner(tmp_path, cpu=True, resume=True).run(toy_job(steps=3).stage(hard() + kl()))


def test_finished_stages_are_replayed_into_the_objects_of_the_recipe(tmp_path):
    first, second = toy_job(steps=3), toy_job(steps=3)
    Runner(tmp_path, cpu=True).run(first.stage(hard()))
    runner = Runner(tmp_path, cpu=True, resume=True)
    runner.run(second.stage(hard()))
    assert torch.equal(weights(first.student), weights(second.student))
    assert runner.results[0].steps == 3


def _source(kind, job):
    if kind == "stream":
        return StreamSource(lambda: (job.data.train.batch(range(start, start + 5)) for start in range(0, 35, 5)))

    def draw(models, generator):
        inputs = torch.randn(8, 4, generator=generator)
        return Batch(inputs, torch.arange(8), models["student"](inputs).argmax(1))

    return DrawnSource(draw, every=3, replay=2, seed=5)


@pytest.mark.parametrize("kind", ["stream", "drawn", "peers"])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_other_sources_and_several_learners_go_on_to_the_same_bits(tmp_path, kind, stop):
    class Stops:
        def step(self, loop):
            loop.stop.asked = loop.number == stop

    def stage():
        job = toy_job(steps=11)
        if kind == "peers":
            peer = job.learner("peer", hard() + kl().against("student"), net(5), every=2)
            return job.stage(hard() + kl().against("peer"), learners=[peer])
        return job.stage(hard() + kl(), source=_source(kind, job))

    whole, first, second = stage(), stage(), stage()
    train(whole)
    with pytest.raises(Interrupted):
        Runner(tmp_path, cpu=True, watchers=(Stops(),)).run(first)
    Runner(tmp_path, cpu=True, resume=True).run(second)
    for name, learner in whole.learners.items():
        assert torch.equal(weights(learner), weights(second.learners[name]))


def test_resuming_nothing_begins_at_the_beginning(tmp_path):
    one, two = toy_job(steps=3), toy_job(steps=3)
    train(one.stage(hard()))
    Runner(tmp_path / "new", cpu=True, resume=True).run(two.stage(hard()))
    assert torch.equal(weights(one.student), weights(two.student))
