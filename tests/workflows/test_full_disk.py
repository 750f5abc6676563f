"""A disk that takes no more, for real (a limit on the size of files): a named error, and what was whole stays whole."""

from __future__ import annotations

import contextlib
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from limbeck.errors import ExportError, LimbeckError, RunError
from limbeck.training.checkpoint import Checkpoints
from toys import weights

RUN = {"recipe": "alone", "data": "wine", "student": "mlp:32", "steps": 30, "checkpoint_every": 10, "log_every": 5,
       "progress": False, "measure": False}  # fmt: skip


@contextlib.contextmanager
def at_most(count):
    """No file may grow beyond `count` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 600, 2500, 4000, 9000, 12_000])
def test_wherever_a_run_meets_the_end_of_the_disk_it_says_so_and_goes_on(tmp_path, limit):
    """The limits meet config, data, metrics, weights, state.pt and report in turn."""
    with at_most(limit), pytest.raises(RunError, match=r"Could not write|cannot be written"):
        lb.distill(**RUN, out=tmp_path / "run")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".part"))]
    run = lb.distill(**RUN, out=tmp_path / "run", resume=True)
    assert torch.equal(weights(run.student), weights(lb.distill(**RUN).student))


def test_the_last_good_checkpoint_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    small = {"a": torch.ones(10)}
    checkpoints.save(3, small, {}, {"x": 1})
    for big_weights, big_state in (({"a": torch.ones(9000)}, {}), (small, {"x": torch.ones(9000)})):
        with at_most(8000), pytest.raises(RunError, match=r"step-00000004.*resume=true"):
            checkpoints.save(4, big_weights, {}, big_state)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert load_file(tmp_path / "step-00000003" / "weights.safetensors")["a"].sum() == 10


def test_saved_models_exports_and_reports_stay_as_they_were(tmp_path):
    run = lb.distill(**RUN, out=tmp_path / "run")
    run.export("student.onnx")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    for write, kind in (
        (lambda: lb.save_model(run.student, tmp_path / "run" / "student"), RunError),
        (lambda: run.export("student.onnx"), ExportError),
        (lambda: run.save_report(tmp_path / "run" / "report.html"), RunError),
        (lambda: lb.store_signals(run.student, run.data, tmp_path / "store", task=run.task), LimbeckError),
    ):
        with at_most(500), pytest.raises(kind, match="Could not write"):
            write()
    assert {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()} == before
