"""Recipes of vectors beyond what every recipe must do."""

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.errors import ArgumentError
from limbeck.evaluation import embeddings as e
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import WORDS, ToyEncoder, ToyTokens
from limbeck.students.encoders import static_encoder
from limbeck.students.save import load_module
from limbeck.students.token_rows import begin_at_tokens, token_vectors
from limbeck.tasks.text import tokenize
from limbeck.training.execute import Runner
from toys import losses

TEXTS = [f"{a} {b} and {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[:3]]


def student(width=12):
    made = static_encoder(ToyTokens.size, 12, width)
    made.tokenizer = ToyTokens()
    made.limbeck_fresh = True
    return made


@pytest.mark.parametrize("metric", ["mse", "l2", "cosine"])
def test_the_three_losses_by_hand(metric):
    job = toy_job(find("embedding_mse"), steps=1)
    stage = find("embedding_mse")(job, metric=metric, rows="random")
    batch = job.data.train.batch(stage.source.positions(0))
    views = [job.task.view(batch, module, "") for module in (job.student, job.teacher.module)]
    with torch.no_grad():
        y, t = (module(**view).double().numpy() for module, view in zip((job.student, job.teacher.module), views))
    expected = {
        "mse": ((y - t) ** 2).mean(), "l2": np.sqrt(((y - t) ** 2).sum(1)).mean(),
        "cosine": np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(y, t)]),
    }  # fmt: skip
    runner = Runner(cpu=True)
    runner.run(stage)
    assert losses(runner)[0] == pytest.approx(expected[metric], abs=2e-3)  # the teacher is kept in half precision


def test_model2vec_by_its_definition():
    vectors, made, a = token_vectors(ToyEncoder().eval(), ToyTokens.size), student(width=4), 0.1
    begin_at_tokens(made, vectors, a)
    v = vectors.double().numpy()
    centred = v - v.mean(0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:4]
    zipf = np.array([1 / (rank + 2) for rank in range(len(v))])
    weight = np.array([a / (a + p / zipf.sum()) for p in zipf])
    published = centred @ components.T * weight[:, None]  # the table of the published code
    own = made.table.weight[: len(v)].detach().double().numpy()
    scale = np.linalg.norm(own) / np.linalg.norm(published)
    np.testing.assert_allclose(own @ own.T, scale**2 * published @ published.T, atol=1e-5)
    back = made.projection.weight.detach().double().numpy()
    np.testing.assert_allclose(own @ back.T, scale * published @ components, atol=1e-5)  # in the teacher's space


def test_model2vec_trains_nothing_and_is_measured(tmp_path):
    teacher, made = ToyEncoder().eval(), student(width=4)
    run = lb.distill("model2vec", teacher=teacher, student=made, data=TEXTS, task="embedding", test=12, progress=False,
                     out=tmp_path / "run")  # fmt: skip
    expected = student(width=4)
    begin_at_tokens(expected, token_vectors(teacher, ToyTokens.size))
    torch.testing.assert_close(run.student.table.weight[:-2], expected.table.weight[:-2])
    assert "cosine" in run.record["models"][1]["agreement"]
    assert (tmp_path / "run" / "report.html").exists()
    again = lb.distill("model2vec", teacher=teacher, student=student(width=4), data=TEXTS, task="embedding", test=12,
                       progress=False, out=tmp_path / "run", resume=True)  # fmt: skip
    torch.testing.assert_close(again.student.table.weight, run.student.table.weight)
    with pytest.raises(ArgumentError, match="Only a static student"):
        lb.distill("model2vec", teacher=teacher, student=ToyEncoder(), data=TEXTS, task="embedding", progress=False)


def test_no_steps_leave_any_student_as_it_begins():
    made = student()
    before = made.table.weight.clone()
    options = {"teacher": ToyEncoder().eval(), "data": TEXTS, "task": "embedding", "test": 12, "progress": False}
    lb.distill("leaf", student=made, rows="random", steps=0, **options)
    assert torch.equal(made.table.weight, before)
    with pytest.raises(ArgumentError, match="steps=-1"):
        lb.distill("leaf", student=made, steps=-1, **options)


def test_fewer_dimensions_are_the_teachers_principal_ones(tmp_path):
    teacher, made = ToyEncoder().eval(), student()
    begin_at_tokens(made, token_vectors(teacher, ToyTokens.size))
    before = made.encode(TEXTS)
    run = lb.distill("dimension_reduction", teacher=teacher, student=made, data=TEXTS, task="embedding", test=12,
                     progress=False, dimensions=5, out=tmp_path / "run")  # fmt: skip
    texts = run.data.train.gather(torch.arange(36))
    theirs = teacher(**run.task.view(run.data.train.batch(torch.arange(36)), teacher, "teacher")).detach().numpy()
    assert len(texts) == 36
    components = np.linalg.svd(theirs - theirs.mean(0), full_matrices=False)[2][:5]
    expected = before @ components.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = run.student.encode(TEXTS)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=0.02)  # bfloat16
    assert set(run.record["models"][1]["agreement"]) == {"neighbours"}  # cosines between two spaces say nothing
    assert load_module(tmp_path / "run" / "student").width == 5
    with pytest.raises(ArgumentError, match="has no place for one"):
        lb.distill("dimension_reduction", teacher=teacher, student=ToyEncoder(), data=TEXTS, task="embedding",
                   progress=False)  # fmt: skip


def test_a_translation_gets_the_vector_of_its_text():
    recipe = find("multilingual")
    job = toy_job(recipe, steps=1)
    stage = recipe(job, metric="l2", rows="random")
    batch = job.data.train.batch(stage.source.positions(0))
    read = {"text": batch.inputs, "translation": batch.extra["translation"]}
    with torch.no_grad():
        target = job.teacher.module(**tokenize(job.teacher.module, read["text"]))
        own = {name: job.student(**tokenize(job.student, texts)) for name, texts in read.items()}
    expected = sum(float((rows - target).norm(dim=1).mean()) for rows in own.values())
    runner = Runner(cpu=True)
    runner.run(stage)
    assert losses(runner)[0] == pytest.approx(expected, abs=5e-3)


def test_a_student_comes_to_read_another_language():
    other = dict(zip(WORDS, [word[::-1] + "o" for word in WORDS]))
    rows = [{"source": text, "target": " ".join(other[word] for word in text.split())} for text in TEXTS]
    teacher = ToyEncoder().eval()
    options = {"teacher": teacher, "student": "grams:2048", "data": rows, "task": "embedding", "test": 8, "progress": False,
               "epochs": 40, "learning_rate": 3e-2, "measure": False}  # fmt: skip
    found = {}
    for name in ("leaf", "multilingual"):
        run = lb.distill(name, **options)
        part = run.data.parts["test"]
        with torch.no_grad():
            theirs = teacher(**tokenize(teacher, part.texts)).numpy()
        found[name] = [e.cosine(run.student.encode(side), theirs) for side in (part.texts, part.translations)]
    assert min(*found["multilingual"], found["leaf"][0]) > 0.8
    assert found["leaf"][1] < found["multilingual"][1] - 0.1
    with pytest.raises(ArgumentError, match="texts and their translations"):
        lb.distill("multilingual", **options | {"data": TEXTS})
