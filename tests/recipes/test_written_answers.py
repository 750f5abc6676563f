"""What the recipes do in which models write, beyond what every recipe must do."""

import json

import pytest
import torch

import limbeck as lb
from limbeck.data.generate import Sampling
from limbeck.data.generate_served import TextSampler
from limbeck.errors import ArgumentError
from limbeck.functional.response import jensen_shannon
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.teachers.stored import StoredTeacher
from limbeck.training.execute import Runner
from toys import losses


def run(name, steps=12, **arguments):
    recipe = find(name)
    job = toy_job(recipe, steps=steps, batch_size=8, best="last", log_every=1, evaluate_every=4)
    runner = Runner(cpu=True)
    runner.run(recipe(job, **arguments))
    return runner, runner.results[0].generated


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [({"lmbda": 1.0}, {"student"}), ({"lmbda": 0.0}, {"data"}), ({"lmbda": 0.0, "seq_kd": True}, {"teacher"}),
     ({"lmbda": 0.5}, {"student", "data"}), ({"lmbda": 0.5, "seq_kd": True}, {"student", "teacher"})],
)  # fmt: skip
def test_gkds_batches_come_from_where_it_says(arguments, kinds):
    _, found = run("gkd", max_new_tokens=32, **arguments)
    assert {key.removeprefix("steps_") for key in found if key.startswith("steps_")} - {"without_answers"} == kinds


def test_gkds_loss_is_the_divergence_on_the_students_own_answers():
    recipe = find("gkd")
    job = toy_job(recipe, steps=1, batch_size=8, best="last", warmup=0.0)
    stage = recipe(job, lmbda=1.0, beta=0.1, max_new_tokens=8)
    (batch,) = stage.source.micro_batches(0, {"student": job.student})
    with torch.no_grad():
        student, teacher = (model(**batch.inputs).logits for model in (job.student, job.teacher.module))
    expected = jensen_shannon(student, teacher, beta=0.1, mask=batch.labels != -100)
    runner = Runner(cpu=True)
    runner.run(stage)
    assert losses(runner)[0] == pytest.approx(float(expected), rel=1e-5)
    assert stage.source.sampling == Sampling(8, 0.9)


def test_distillm_writes_only_when_validation_asks_for_it():
    recipe = find("distillm")
    job = toy_job(recipe, steps=40, batch_size=8, best="last", evaluate_every=2)
    asked = []

    def better(module):
        asked.append(len(asked))
        return {"nll": 5.0 - 0.01 * len(asked), "perplexity": 1.0}

    job.evaluation = better
    runner = Runner(cpu=True)
    runner.run(recipe(job, max_new_tokens=4))
    assert runner.results[0].generated["steps_data"] == 40
    assert len(asked) == 21  # once before the training
    job.evaluation = lambda module: {"nll": float(better(module) and len(asked)), "perplexity": 1.0}
    runner = Runner(cpu=True)
    runner.run(recipe(job, max_new_tokens=4))
    assert runner.results[0].generated["steps_student"] > 0
    assert runner.results[0].generated["threshold"] == 1.0


def test_distillm_without_validation_is_refused_unless_it_is_told_where_to_stay():
    recipe = find("distillm")
    job = toy_job(recipe)
    job.evaluation = None
    with pytest.raises(ArgumentError, match=r"valid=0\.1"):
        recipe(job)
    runner = Runner(cpu=True)
    runner.run(recipe(job, threshold=1.0, max_new_tokens=4))
    assert runner.results[0].generated["steps_student"] == 4


def test_minillm_trains_on_a_rollout_several_times_beside_given_answers():
    runner, found = run("minillm", steps=8, inner=4, max_new_tokens=6)
    assert found["steps_student"] == 2
    assert found["student_samples"] == 16
    terms = next(record["terms"] for record in runner.metrics.records if "terms" in record)
    assert set(terms) == {"loss", "policy_gradient(own)", "reverse_kl(own) by weight", "cross_entropy(given)"}


def test_a_stored_teacher_cannot_follow_what_is_not_written_yet():
    job = toy_job(find("gkd"))
    job.teacher = StoredTeacher.__new__(StoredTeacher)
    with pytest.raises(ArgumentError, match="Give the model itself"):
        find("gkd")(job)


@pytest.mark.parametrize(("name", "share"), [("gkd", 3.0), ("gkd", -0.5), ("tsd_kd", 1.5)])
def test_a_share_of_batches_is_a_share(name, share):
    with pytest.raises(ArgumentError, match=rf"lmbda={share:g}: expected a share from 0 to 1"):
        find(name)(toy_job(find(name)), lmbda=share)


def sums(count=24):
    return [{"prompt": f"{a}+{a + 1}=", "response": f"{2 * a + 1}"} for a in range(1, count + 1)]


def test_a_black_box_teaches_by_its_texts_alone(tmp_path):
    pytest.importorskip("transformers")
    from limbeck.data.language import load_language_data
    from limbeck.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["0123456789+="], 261)
    data = load_language_data(sums(), tokenizer, valid=4, test=4, template="plain", join="", pack=False)

    def box(prompts):  # one answer is empty, one never ends
        told = [str(sum(map(int, prompt.rstrip("=").split("+")))) for prompt in prompts]
        return ["" if text == "5" else "9" * 99 if text == "7" else text for text in told]

    path = tmp_path / "samples.jsonl"
    run = lb.distill(
        "seq_kd", teacher=TextSampler(box, tokenizer), student="decoder:1,32", data=data, steps=12, batch_size=8,
        store=str(path), max_new_tokens=8, measure=False, progress=False, out=tmp_path / "run",
    )  # fmt: skip
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["prompt"]: line["response"] for line in lines}.items() <= {
        each["prompt"]: each["response"] for each in sums()
    }.items()
    assert lines[0]["sampling"] == {
        "max_new_tokens": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "greedy": False, "finished": True,
    }  # fmt: skip
    (made,) = run.record["generated"]
    assert made["teacher_samples"] == 16
    assert len(lines) == 16 - made.get("teacher_left_out", 0)
    assert json.loads((tmp_path / "run/report.json").read_text())["generated"] == [made]
    assert any("only writes" in warning for warning in run.record["warnings"])
    again = lb.distill("alone", data=str(path), tokenizer=tokenizer, student="decoder:1,32", steps=2, valid=2, test=2,
                       task="causal_lm", template="plain", pack=False, measure=False, progress=False)  # fmt: skip
    assert again.record["models"]
    with pytest.raises(ArgumentError, match="cannot be used here"):
        lb.distill("gkd", teacher=TextSampler(box, tokenizer), student="decoder:1,32", data=data, steps=2)
