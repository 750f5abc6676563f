"""Stages of the recipes that learn from preferences: which there are, which are skipped, whom they train."""

import pytest
import torch

from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import TinyLM, language_toy
from limbeck.students.declare import seeded
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from toys import losses, weights


def run(name, job=None, folder=None, **arguments):
    recipe = find(name)
    job = job or toy_job(recipe)
    runner = Runner(folder, cpu=True)
    runner.run(recipe(job, **arguments))
    return job, runner


def other(width=16):
    with seeded(9):
        return TinyLM(width=width)


@pytest.mark.parametrize(("name", "arguments", "expected"), [
    ("dckd", {}, ["aligned teacher", "distil"]), ("dckd", {"aligned": other()}, ["distil"]),
    ("aligndistil", {}, ["aligned teacher", "reverse teacher", "distil"]),
    ("aligndistil", {"aligned": other()}, ["reverse teacher", "distil"]),
    ("aligndistil", {"aligned": other(), "reverse": other(8)}, ["distil"]),
    ("aligndistil", {"contrast": False}, ["aligned teacher", "distil"]),
    ("adpa", {}, ["aligned teacher", "sft", "advantage"]),
    ("adpa", {"start": "dckd", "aligned": other()}, ["distil", "advantage"]),
    ("adpa", {"start": "none", "aligned": other(), "reference": other(8)}, ["advantage"]),
    ("redi", {}, ["sft", "pairs"]), ("redi", {"sft_steps": 0}, ["pairs"]),
])  # fmt: skip
def test_stages_are_those_that_are_needed(name, arguments, expected):
    job = toy_job(find(name))
    before = [weights(job.teacher.module), weights(job.student)]
    _, runner = run(name, job, **arguments)
    assert [stage.name for stage in runner.stages] == expected
    assert torch.equal(before[0], weights(job.teacher.module))  # the reference stays as it was
    assert runner.results[-1].student is job.student
    assert not torch.equal(before[1], weights(job.student))
    for stage, result in zip(runner.stages, runner.results, strict=True):
        if "teacher" in stage.name:
            assert result.student is not job.student
            assert not torch.equal(weights(result.student), before[0])


def test_lengths_and_rates_of_single_stages():
    _, runner = run("adpa", align_steps=2, align_rate=1e-5, start_steps=3)
    assert [result.steps for result in runner.results] == [2, 3, 4]
    assert [stage.settings.learning_rate for stage in runner.stages] == [1e-5, 1e-3, 1e-3]
    assert [stage.settings.best for stage in runner.stages] == ["last", None, "last"]
    job = toy_job(find("redi"), best="nll")
    _, runner = run("redi", job, pair_steps=1, pair_rate=1e-6)
    assert [(stage.settings.best, result.steps) for stage, result in zip(runner.stages, runner.results, strict=True)] == [
        ("nll", 4), ("nll", 1)]  # fmt: skip


def test_adpa_learns_from_the_student_s_own_answers():
    job, runner = run("adpa", aligned=other(), start="none", max_new_tokens=6)
    part, before = runner.stages[-1].source.part, job.pairs()
    assert part is not before
    for number in range(0, len(part.rows), 2):
        assert torch.equal(part.rows.document(number), before.rows.document(number))
    assert any(part.rows.document(n).tolist() != before.rows.document(n).tolist() for n in range(1, len(part.rows), 2))
    assert int(part.rows.sizes.max()) <= 8
    _, again = run("adpa", aligned=other(), start="none", max_new_tokens=6)
    assert losses(again) == losses(runner)


def test_a_resumed_run_has_the_same_answers(tmp_path):
    """Finished stages are replayed and the answers written again: the advantage stage is the same one."""
    _, whole = run("adpa", folder=tmp_path / "whole", max_new_tokens=6)
    run("adpa", folder=tmp_path / "cut", max_new_tokens=6)
    (tmp_path / "cut/stages/2/done").rename(
        tmp_path / "cut/stages/2/lost"
    )  # as if it had been stopped in the last stage
    job = toy_job(find("adpa"))
    runner = Runner(tmp_path / "cut", cpu=True, resume=True)
    runner.run(find("adpa")(job, max_new_tokens=6))
    assert torch.equal(weights(job.student), weights(whole.results[-1].student))
    parts = [each.stages[-1].source.part.rows.tokens for each in (whole, runner)]
    assert torch.equal(*parts)


def test_what_is_refused_before_training():
    job = toy_job(find("dckd"))
    job.teacher = as_teacher(lambda inputs: None)  # a server
    with pytest.raises(ArgumentError, match="the teacher here is no module"):
        run("dckd", job)
    with pytest.raises(ModelError, match=r"no reverse '\./nowhere'"):
        next(iter(find("aligndistil")(toy_job(find("aligndistil")), reverse="./nowhere")))
    job = toy_job(find("aligndistil"))
    job.data, _, _ = language_toy()
    with pytest.raises(DataError, match="no pairs of answers"):
        run("aligndistil", job, aligned=other(), reverse=other())
    with pytest.raises(DataError, match="have the token 15"):
        run("dckd", aligned=TinyLM(symbols=9))


def test_aligndistil_on_the_student_s_own_answers():
    _, runner = run("aligndistil", aligned=other(), reverse=other(8), on_policy=True, max_new_tokens=6)
    (stage,) = runner.stages
    assert stage.roles["target"].beta2 == 15
    batch = stage.source.micro_batches(0, {"student": runner.results[0].student})[0]
    assert "chosen" not in batch.extra
    assert int(batch.ids.max()) < 0  # written, not given
    assert run("aligndistil", aligned=other(), reverse=other(8))[1].stages[0].roles["target"].beta2 == 10
    assert run("aligndistil", aligned=other(), reverse=other(8), beta2=3)[1].stages[0].roles["target"].beta2 == 3


def test_contrasts_are_other_losses():
    found = {}
    for contrast in (True, False):
        for adaptive in (True, False):
            _, runner = run("aligndistil", aligned=other(), reverse=other(8), contrast=contrast, adaptive=adaptive)
            found[contrast, adaptive] = losses(runner)[0]
    assert len({round(value, 6) for value in found.values()}) == 4
    assert all(value > 0 for value in found.values())
