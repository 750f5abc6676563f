"""A run's folder: taken when training begins, by one process, and let go at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import limbeck as lb
from limbeck.errors import ArgumentError, LimbeckError, RunError
from limbeck.training.folder import RunFolder
from toys import net, weights

RUN = {"recipe": "alone", "data": "wine", "student": "mlp:4", "steps": 6, "progress": False, "measure": False}
CONFIG, DATA = {"recipe": "kd", "steps": 3}, {"fingerprint": "abc"}


def begun(path, **options):
    folder = RunFolder(path)
    folder.open(CONFIG, DATA, **options)
    folder.begin()
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


WRONG = [  # found by the arguments, the data, the models, the probe of the first stage, and its optimizer
    {"recipe": "kdd"}, {"data": "wyne"}, {"student": "mpl:4"}, {"recipe": "kd"}, {"steps": -1}, {"track": "tensorbord"},
    {"recipe": "fitnets", "teacher": net()}, {"recipe": "kd", "teacher": torch.nn.Linear(13, 4)}, {"accumulate": 1000},
    {"recipe": "dist", "teacher": torch.nn.Linear(13, 3), "accumulate": 2},
    {"recipe": "kd", "teacher": torch.nn.Linear(13, 3), "temperature": 0},
    {"student": torch.nn.Linear(13, 3).requires_grad_(False)},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: "-".join(f"{k}" for k in wrong))
def test_bad_input_leaves_no_folder_and_an_overwritten_run_as_it_was(wrong, tmp_path, finished):
    with pytest.raises(LimbeckError):
        lb.distill(**RUN | wrong, out=tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    before = contents(finished)
    with pytest.raises(LimbeckError):
        lb.distill(**RUN | wrong, out=finished, overwrite=True)
    assert contents(finished) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    lb.distill(**RUN, out=folder)
    return folder


def test_an_overwritten_run_is_gone_when_its_successor_begins(finished):
    folder = RunFolder(finished)
    before = contents(finished)
    folder.open(CONFIG, DATA, overwrite=True)
    assert contents(finished) == before
    folder.begin()
    assert set(contents(finished)) == {"config.yaml", "data.json", "run.json"}
    assert yaml.safe_load((finished / "config.yaml").read_text()) == CONFIG
    folder.status("failed")
    lb.distill(**RUN, out=finished, overwrite=True)
    assert set(contents(finished)) == set(before)


def test_one_folder_at_a_time(tmp_path):
    first, second = begun(tmp_path / "run"), RunFolder(tmp_path / "run")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(RunError, match="Another process is training in"):
            begun(tmp_path / "run", **options)
    with pytest.raises(RunError, match=r"already holds a run \(running\)"):
        second.open(CONFIG, DATA)
    first.status("finished")
    for options in ({"resume": True}, {"overwrite": True}):
        begun(tmp_path / "run", **options).status("finished")


def test_two_that_ask_for_a_new_folder_do_not_both_get_it(tmp_path):
    first, second, third = (RunFolder(tmp_path / "run") for _ in range(3))
    for folder in (first, second, third):
        folder.open(CONFIG, DATA)
    first.begin()
    with pytest.raises(RunError, match="Another process"):
        second.begin()
    first.status("finished")
    with pytest.raises(RunError, match=r"already holds a run \(finished\)"):
        third.begin()
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"status": "finished"}


@pytest.mark.parametrize("how", ["interrupted", "diverged", "failed", "finished"])
def test_however_a_run_ends_it_lets_the_folder_go(tmp_path, how):
    folder = begun(tmp_path / "run")
    folder.status(how, error="why")
    folder.status("running")  # what comes later has no say
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"status": how, "error": "why"}
    begun(tmp_path / "run", resume=True).leave()


@pytest.mark.parametrize(
    "left", [["config.yaml"], ["config.yaml", "data.json"], ["config.yaml", "data.json", "run.json.tmp"]]
)
def test_a_run_that_was_killed_while_it_took_its_folder_can_begin_again(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("recipe: another" if name == "config.yaml" else '{"fingerprint": "old"}')
    begun(tmp_path, resume=True).status("finished")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG
    assert json.loads((tmp_path / "data.json").read_text()) == DATA


def test_a_folder_of_other_things_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RunError, match="nothing of yours is overwritten"):
            lb.distill(**RUN, out=tmp_path, **options)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_what_else_lies_in_an_overwritten_run_stays(finished):
    (finished / "notes.txt").write_text("mine")
    lb.distill(**RUN, out=finished, overwrite=True)
    assert (finished / "notes.txt").read_text() == "mine"
    (finished / "notes.txt").unlink()


def test_resume_needs_a_folder():
    with pytest.raises(ArgumentError, match="needs out="):
        lb.distill(**RUN, resume=True)


def slow(out):
    """A run that waits in its third step until it is killed. Told apart by the file `there`."""
    from limbeck.training.loop import Loop

    torch.set_num_threads(1)
    step = Loop.step

    def waiting(self, batches):
        step(self, batches)
        if self.number == 3:
            self.save()
            Path(out, "there").touch()
            time.sleep(120)

    Loop.step = waiting
    lb.distill(**RUN, out=out)


@pytest.mark.processes
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    out = tmp_path / "run"
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = f"import sys; sys.path[:0] = {path!r}; import test_folder as t; t.slow({str(out)!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        try:
            while not (out / "there").exists():
                assert process.poll() is None
                time.sleep(0.05)
            for options in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(RunError, match="Another process is training in"):
                    lb.distill(**RUN, out=out, **options)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    (out / "there").unlink()
    run = lb.distill(**RUN, out=out, resume=True)
    assert torch.equal(weights(run.student), weights(lb.distill(**RUN).student))
