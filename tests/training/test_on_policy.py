"""Batches that the models write: who writes them, what comes with them, and that nothing depends on how a run is cut up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck.data.generate import Sampling
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_tokens import Document
from limbeck.errors import ArgumentError, DataError, DivergedError
from limbeck.functional.pace import GenerationThreshold
from limbeck.functional.preference import label_log_probabilities
from limbeck.objectives import cross_entropy, forward_kl, ramp, reverse_kl
from limbeck.recipes.toy_language import END, SYMBOLS, TinyLM, counting, language_toy
from limbeck.tasks.causal_lm import CausalLM
from limbeck.teachers.base import ModuleTeacher
from limbeck.training.execute import Runner
from limbeck.training.job import Job
from limbeck.training.on_policy import OnPolicy
from limbeck.training.rollouts import Rollout, documents
from limbeck.training.settings import Settings
from toys import losses, weights

HERE = Path(__file__).parent
SHORT = Sampling(max_new_tokens=6)


class Says(nn.Module):
    """Always the same token, whatever was said before."""

    def __init__(self, token):
        super().__init__()
        self.logits = nn.Parameter(torch.full((SYMBOLS,), -30.0).index_fill(0, torch.tensor([token]), 30.0))

    def forward(self, input_ids, attention_mask=None):
        return self.logits.expand(*input_ids.shape, SYMBOLS)


def job(dtype=torch.float32, **settings):
    data, teacher, student = language_toy()
    given = {"steps": 6, "batch_size": 8, "best": "last", "warmup": 0.0, "log_every": 1, **settings}
    return Job(CausalLM(), data, student.to(dtype), ModuleTeacher(teacher.to(dtype)), Settings(**given))


def source(job, **options):
    settings = job.settings
    options = {"sampling": SHORT, "teacher": job.teacher, "seed": settings.seed, **options}
    return OnPolicy(job.data.train, job.task, settings.batch_size, accumulate=settings.accumulate, **options)


def models(job):
    return {"student": job.student}


def run(job, objective, **options):
    runner = Runner(cpu=True)
    runner.run(job.stage(objective, source=source(job, **options)))
    return runner


# who writes
def test_a_batch_of_the_students_is_its_answers_to_the_prompts_of_the_data():
    given = job()
    made = source(given)
    (batch,) = made.micro_batches(0, models(given))
    places = made.positions(0)
    for row, place in enumerate(places.tolist()):
        prompt = given.data.train.document(place)[:2]
        assert torch.equal(batch.inputs["input_ids"][row, :2], prompt)
        kept = (batch.labels[row] != -100).nonzero()[:, 0]
        assert kept[0] == 1  # the last token of the prompt predicts the first one of the answer
        assert 1 <= len(kept) <= SHORT.max_new_tokens
    assert torch.equal(batch.labels != -100, batch.extra["mask"].bool())
    assert made.summary()["student_samples"] == 8
    assert made.summary()["student_tokens"] == int(batch.extra["mask"].sum())
    assert (batch.ids < 0).all()  # no id of the part, under which a store would have other text


def test_who_answers_is_drawn_with_the_given_probabilities():
    given = job()
    made = source(given, student=0.3, teacher_share=0.5)
    for number in range(200):
        made.micro_batches(number, models(given))
    shares = {who: made.counts[f"steps_{who}"] / 200 for who in ("student", "teacher", "data")}
    assert shares == pytest.approx({"student": 0.3, "teacher": 0.5, "data": 0.2}, abs=0.09)
    assert made.counts["teacher_samples"] == len(given.data.train)  # each prompt once, whatever the epochs


def test_shares_may_follow_a_schedule_of_progress():
    given = job(steps=40)
    runner = run(given, forward_kl(), student=ramp(0, 1))
    counts = runner.results[0].generated
    assert counts["steps_student"] + counts["steps_data"] == 40
    made = source(given, student=ramp(0, 1))
    kinds = []
    for number in range(40):
        made.progress = 0.0 if number < 20 else 1.0
        kinds.append(made._kind(number))
    assert set(kinds[:20]) == {"data"}
    assert set(kinds[20:]) == {"student"}


def test_the_threshold_follows_the_validation_and_fills_a_buffer():
    given = job(steps=60, evaluate_every=5)
    worse = iter(range(100))
    given.evaluation = lambda module: {"nll": float(next(worse)), "perplexity": 1.0}
    threshold = GenerationThreshold(trend="constant", capacity=20)
    runner = run(given, reverse_kl(), threshold=threshold)
    found = runner.results[0].generated
    assert found["threshold"] == 1.0  # the loss from before the training is remembered, and twelve are higher
    assert found["buffered"] == 20
    assert found["steps_replay"] > 0
    assert found["student_samples"] == 8 * found["steps_student"]
    assert sum(found[f"steps_{kind}"] for kind in ("data", "student", "replay")) == 60
    logged = [record["generated"]["threshold"] for record in runner.metrics.records if "generated" in record]
    assert logged[:4] == [0.0, pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3)]


def test_old_answers_come_back_as_they_were():
    given = job()
    made = source(given, threshold=GenerationThreshold(capacity=8, threshold=1.0))
    (first,) = made.micro_batches(0, models(given))
    made.progress = 1.0
    (again,) = made.micro_batches(1, models(given))
    assert made.counts == {**made.counts, "steps_student": 1, "steps_replay": 1, "student_samples": 8}
    rows = [sorted(batch.inputs["input_ids"].tolist()) for batch in (first, again)]
    assert rows[0] == rows[1]


# rewards and scores
def last_is_right(prompt, answer, reference):
    return float(answer.split()[:1] == reference.split()[:1])


def test_groups_come_with_rewards_and_the_log_probabilities_that_wrote_them():
    given = job()
    made = source(given, answers=4, checker=last_is_right, score=("old", "teacher"))
    (batch,) = made.micro_batches(0, models(given))
    assert batch.extra["group"].tolist() == [0] * 4 + [1] * 4
    assert made.steps_per_epoch == 20
    prompts = batch.inputs["input_ids"][:, :2]
    assert (prompts[:4] == prompts[0]).all()
    assert len(batch.inputs["input_ids"][:4].unique(dim=0)) > 1
    for row, place in enumerate(made.positions(0).repeat_interleave(4).tolist()):
        right = given.data.train.document(place)[2] == batch.inputs["input_ids"][row, 2]
        assert batch.extra["reward"][row] == float(right and batch.labels[row, 1] != END)
    for name, model in (("old", given.student), ("teacher", given.teacher.module)):
        with torch.no_grad():
            expected = label_log_probabilities(model(**batch.inputs).logits, batch.labels)
        assert torch.allclose(batch.extra[name], expected, atol=1e-6)
    assert 0 <= made.summary()["reward"] <= 1


def test_a_judge_sees_the_whole_step_and_its_values_stand_at_their_tokens():
    given = job(accumulate=3)

    def judge(rollout):
        flat = torch.cat(rollout.tokens["old"])
        return {"advantage": [row - flat.mean() for row in rollout.tokens["old"]]}

    made = source(given, score=("old",), judge=judge)
    batches = made.micro_batches(0, models(given))
    assert len(batches) == 3
    old = torch.cat([batch.extra["old"][batch.extra["mask"].bool()] for batch in batches])
    advantage = torch.cat([batch.extra["advantage"][batch.extra["mask"].bool()] for batch in batches])
    assert torch.allclose(advantage, old - old.mean(), atol=1e-6)


def test_a_rollout_is_used_again():
    given = job()
    made = source(given, reuse=3, score=("old",))
    batches = [made.micro_batches(number, models(given))[0] for number in range(4)]
    assert torch.equal(batches[0].inputs["input_ids"], batches[2].inputs["input_ids"])
    assert torch.equal(batches[0].extra["old"], batches[2].extra["old"])
    assert made.counts["student_samples"] == 16
    assert made.steps_per_epoch == 15


def test_given_rows_stand_beside_the_students():
    given = job()
    made = source(given, beside=given.data.train, score=("old",))
    (batch,) = made.micro_batches(0, models(given))
    assert batch.extra["own"].tolist() == [True] * 8 + [False] * 8
    assert torch.equal(batch.extra["given"], ~batch.extra["own"])
    assert (batch.extra["old"][8:] == 0).all()
    known = {tuple(given.data.train.document(number).tolist()) for number in range(40)}
    for row in range(8, 16):
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
        assert tuple(ids.tolist()) in known
        assert batch.labels[row][:6].tolist() == [-100, *ids[2:].tolist()]


# nothing that is written
def test_a_student_that_stops_at_once_learns_from_its_stops():
    given = job()
    given.student, given.task = Says(END), CausalLM(lazy=False)
    runner = run(given, forward_kl())
    assert all(0 < loss < 1e3 for loss in losses(runner))
    assert runner.results[0].generated["student_empty"] == 8 * 6
    assert runner.results[0].generated["student_tokens"] == 8 * 6


@pytest.mark.parametrize(("token", "kind"), [(END, "empty"), (5, "unfinished")])
def test_a_teacher_that_says_nothing_or_never_ends_leaves_the_data(token, kind):
    given = job()
    given.teacher = ModuleTeacher(Says(token))
    runner = run(given, cross_entropy(), student=0.0, teacher_share=1.0)
    found = runner.results[0].generated
    assert found[f"teacher_{kind}"] == found["teacher_left_out"] == 40
    assert found["steps_without_answers"] == 6
    assert all(0 < loss < 10 for loss in losses(runner))


def test_a_student_whose_weights_are_nan_has_diverged():
    given = job()
    made = source(given)
    with torch.no_grad():
        given.student.lm_head.weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match="could not write answers at step 0"):
        made.micro_batches(0, models(given))


# before anything is trained
def test_what_does_not_fit_is_refused():
    given = job()
    with pytest.raises(ArgumentError, match="no multiple of answers=3"):
        source(given, answers=3)
    with pytest.raises(ArgumentError, match="give teacher="):
        source(given, teacher=None, teacher_share=0.5)
    with pytest.raises(ArgumentError, match="new answers"):
        source(given, answers=2, threshold=GenerationThreshold())
    with pytest.raises(ArgumentError, match="whole numbers"):
        source(given, reuse=0)
    texts = TokenRows("texts", [Document.of([3, 4, 5, 6], 1)], [0], ids=torch.zeros(1), padding=0)
    with pytest.raises(DataError, match="No document of 'texts' has a prompt"):
        OnPolicy(texts, given.task, 1, sampling=SHORT)
    continued = OnPolicy(texts, given.task, 1, sampling=SHORT, start=2)
    (batch,) = continued.micro_batches(0, models(given))
    assert batch.inputs["input_ids"][0, :2].tolist() == [3, 4]


def test_documents_of_packed_rows_stand_alone():
    plain = counting("train", 6, 0)
    made = [Document.of(plain.document(number).tolist(), 2, prompt=2) for number in range(6)]
    packed = TokenRows(
        "train", made, range(6), ids=torch.arange(2), padding=0, rows=[[0, 3, 1], [2, 4, 5]], packed=True
    )
    found = documents(packed)
    assert len(found) == 6
    order = [0, 3, 1, 2, 4, 5]
    batch = found.batch(torch.arange(6))
    assert "position_ids" not in batch.inputs
    for row, number in enumerate(order):
        assert batch.inputs["input_ids"][row].tolist() == plain.document(number).tolist()
        assert batch.labels[row, 1:6].tolist() == plain.document(number)[2:].tolist()
    mixed = TokenRows("mixed", [made[0], Document.of([3, 4], 1)], [0, 1], ids=torch.arange(2), padding=0)
    assert len(documents(mixed)) == 1
    assert len(documents(mixed, whole=True)) == 2


# the teacher's answers
def test_the_teachers_answers_are_stored_and_can_be_trained_on(tmp_path):
    given = job(steps=12)
    path = tmp_path / "samples.jsonl"
    runner = run(given, cross_entropy(), student=0.0, teacher_share=1.0, store=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = runner.results[0].generated
    assert len(lines) == found["teacher_samples"] - found["teacher_left_out"]
    assert lines[0]["sampling"]["temperature"] == 1.0
    first = given.data.train.document(lines[0]["document"])
    assert lines[0]["prompt"].split() == [str(token) for token in first[:2].tolist()]
    assert str(END) not in lines[0]["response"].split()


# however a run is cut up
def test_micro_batches_change_nothing():
    found = []
    for accumulate in (1, 3):
        given = job(torch.float64, accumulate=accumulate)
        runner = run(given, forward_kl(), student=0.5, teacher_share=0.2)
        found.append((weights(given.student), losses(runner)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-12)


def plan(kind, steps=24):
    given = job(torch.float64, steps=steps, batch_size=7 if kind == "odd" else 8, evaluate_every=4, checkpoint_every=3)
    given.evaluation = lambda module: {"nll": 9 * float((99 * weights(module).sum()).sin()), "perplexity": 1.0}
    if kind == "pace":
        options = {"threshold": GenerationThreshold(trend="constant", capacity=12, threshold=0.5)}
    elif kind == "judged":
        judge = lambda rollout: {"gain": [row - row.mean() for row in rollout.tokens["old"]]}  # noqa: E731
        options = {"answers": 2, "checker": last_is_right, "score": ("old",), "judge": judge, "reuse": 2}
    else:
        options = {"student": ramp(0.2, 0.8), "teacher_share": 0.2}
    return given, given.stage(forward_kl() + cross_entropy(), source=source(given, **options))


class KillAt:
    def __init__(self, step):
        self.at = step

    def step(self, loop):
        if loop.number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, kind, step):
    torch.set_num_threads(1)
    Runner(Path(folder), cpu=True, resume=True, watchers=(KillAt(step),)).run(plan(kind)[1])


def spread(kind, out):
    torch.set_num_threads(1)
    given, stage = plan(kind, steps=8)
    runner = Runner(cpu=True)
    assert runner.accelerator.num_processes == 2
    runner.run(stage)
    made = {"losses": losses(runner), "weights": weights(given.student), "made": runner.results[0].generated}
    torch.save(made, f"{out}/{runner.accelerator.process_index}.pt")
    runner.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


IMPORT = f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}\nimport test_on_policy as t\n"


def started(*command, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["pace", "judged"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, kind):
    torch.set_num_threads(1)
    whole = Runner(tmp_path / "whole", cpu=True)
    whole.run(plan(kind)[1])
    found = started("-c", f"{IMPORT}t.killed({str(tmp_path / 'cut')!r}, {kind!r}, 14)")
    assert found.returncode == -signal.SIGKILL, found.stderr[-2000:]
    resumed = Runner(tmp_path / "cut", cpu=True, resume=True)
    resumed.run(plan(kind)[1])
    expected, got = (load_file(tmp_path / name / "stages/0/done/weights.safetensors") for name in ("whole", "cut"))
    assert [key for key in expected if not torch.equal(got[key], expected[key])] == []
    assert resumed.results[0].generated == whole.results[0].generated
    assert (tmp_path / "cut/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    if kind == "pace":
        assert whole.results[0].generated["threshold"] > 0.5


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["odd", "pace", "judged"])
def test_two_processes_equal_one(tmp_path, kind):
    script = tmp_path / "child.py"
    script.write_text(f"{IMPORT}t.spread({kind!r}, {str(tmp_path)!r})")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    found = started(*command, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    assert found.returncode == 0, found.stderr[-3000:]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    given, stage = plan(kind, steps=8)
    runner = Runner(cpu=True)
    runner.run(stage)
    assert torch.equal(both[0]["weights"], both[1]["weights"])
    assert torch.allclose(both[0]["weights"], weights(given.student), atol=1e-10, rtol=0)
    assert both[0]["losses"] == pytest.approx(losses(runner), abs=1e-10)
    assert both[0]["made"] == both[1]["made"] == pytest.approx(runner.results[0].generated)


def test_a_rollout_is_what_its_state_was():
    given = job()
    made = source(given, answers=2, checker=last_is_right, score=("old",), reuse=2)
    made.micro_batches(0, models(given))
    rollout = made.current[1]
    again = Rollout.of(rollout.state_dict())
    assert torch.equal(again.places, rollout.places)
    assert torch.equal(again.rewards, rollout.rewards)
    assert all(torch.equal(a, b) for a, b in zip(again.answers.tokens, rollout.answers.tokens, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again.tokens["old"], rollout.tokens["old"], strict=True))
    assert isinstance(made.rows, TokenRows)
    assert isinstance(given.student, TinyLM)
