"""Students of vectors out of a sentence encoder: cut from it, and small ones from scratch with its tokenizer."""

import copy

import pytest
import torch

import limbeck as lb
from embedding_toys import TEXTS, encoder, same
from limbeck.data.texts import load_texts
from limbeck.errors import ArgumentError, ModelError
from limbeck.students.build import build_student
from limbeck.students.save import load_module, save_model
from limbeck.tasks import resolve

TASK = resolve("embedding")


def built(spec, teacher):
    data = TASK.load(TEXTS, [teacher], test=4)
    return build_student(spec, data, TASK, teacher)


@pytest.mark.parametrize("outputs", [None, 24])
def test_a_cut_encoder_keeps_pooling_map_and_norm(tmp_path, outputs):
    teacher = encoder(pooling="cls", normalize=False, outputs=outputs, max_length=20)
    student = built("shrink(depth=1, heads=1)", teacher)
    assert len(student.body.encoder.layer) == 1
    assert student.limbeck_shrink["layers"] == [0]
    assert (student.pooling, student.normalize, student.width, student.max_length) == ("cls", False, teacher.width, 20)
    # a teacher whose other layer and heads do nothing gives the same vectors
    blank = copy.deepcopy(teacher)
    blank.body.encoder.layer = blank.body.encoder.layer[:1]
    cut = lb.shrink(teacher, depth=1)
    same(cut.encode(TEXTS[:3]), blank.encode(TEXTS[:3]))
    student.tokenizer.save_pretrained(tmp_path / "words")
    save_model(student, tmp_path / "cut")
    same(load_module(tmp_path / "cut").encode(TEXTS[:3]), student.encode(TEXTS[:3]))
    with pytest.raises(ModelError, match="hidden=8"):
        lb.shrink(teacher, hidden=8)


def test_a_small_encoder_from_scratch_has_the_teachers_words_and_width(tmp_path):
    teacher = encoder(width=16)
    student = built("encoder:1,8", teacher)
    assert student.tokenizer is teacher.tokenizer
    assert student.config.num_hidden_layers == 1
    assert (student.projection.in_features, student.projection.out_features) == (8, 16)
    assert not torch.equal(student.body.embeddings.word_embeddings.weight, torch.zeros(1))
    save_model(student, tmp_path / "small")
    same(load_module(tmp_path / "small").encode(TEXTS[:3]), student.encode(TEXTS[:3]))
    with pytest.raises(ArgumentError, match="width=9 is not a multiple of heads=2"):
        built("encoder:1,9", teacher)
    # elsewhere the same word is a classifier
    films = load_texts(TEXTS[:8], test=0)
    films.target, films.classes = "classes", ["bad", "good"]
    other = build_student("encoder:1,8", films, resolve("classification"), teacher)
    assert other.config.num_labels == 2


@pytest.mark.parametrize("spec", ["shrink(depth=1)", "encoder:1,16", None])
def test_both_learn_by_leaf(tmp_path, spec):
    teacher = encoder(width=16)
    run = lb.distill("leaf", teacher=teacher, student=spec, data=TEXTS, task="embedding", test=12, epochs=12, progress=False,
                     learning_rate=3e-3, out=tmp_path / "run")  # fmt: skip
    agreement = run.record["models"][1]["agreement"]["cosine"]["mean"]
    fresh = built(spec or "shrink(depth=0.5)", teacher)
    start = TASK.measure(fresh, run.data.parts["test"], teacher)["agreement"]["cosine"]
    assert agreement > max(0.8, start + 0.02)
