"""From a teacher to a student with another tokenizer, by alm and uld, through `distill`."""

import json

import pytest
import torch

import limbeck as lb
from limbeck.data.tokenizer import train_tokenizer
from limbeck.errors import SignalError
from limbeck.students.declare import seeded
from limbeck.students.language import text_decoder
from limbeck.students.save import load_module

TEXTS = [f"one and {word} are {other}, and so on" for word in ("two", "three", "four") for other in "abcdefgh"]
GIVEN = {"data": {"train": TEXTS[4:], "test": TEXTS[:4]}, "valid": 3, "length": 64, "batch_size": 8, "measure": False,
         "progress": False}  # fmt: skip


@pytest.fixture(scope="module")
def teacher():
    """A teacher of 320 tokens that has learnt the texts a little."""
    tokenizer = train_tokenizer(TEXTS, 320)
    with seeded(0):
        module = text_decoder(tokenizer, layers=1, width=32)
    given = {**GIVEN, "learning_rate": 1e-2, "steps": 60}
    return lb.distill("alone", student=module, task="causal_lm", **given).student


def scores(run, role):
    model = next(model for model in run.record["models"] if model["role"] == role)
    return {name: value["mean"] for name, value in {**model["scores"], **model["agreement"]}.items()}


@pytest.mark.parametrize("name", ["alm", "uld"])
def test_a_student_of_bytes_comes_nearer_to_a_teacher_of_bpe(teacher, name, tmp_path):
    given = {**GIVEN, "teacher": teacher, "student": "decoder:1,32", "tokenizer": "bytes", "learning_rate": 1e-2}
    begun = scores(lb.distill(name, steps=1, **given), "student")
    run = lb.distill(name, steps=40, out=tmp_path / "run", **given)
    ended = scores(run, "student")
    assert ended["bits_per_byte"] < 0.7 * begun["bits_per_byte"]
    assert ended["chunk_gap"] < 0.7 * begun["chunk_gap"]
    assert scores(run, "teacher")["bits_per_byte"] < 3
    assert "kl_to_teacher" not in ended
    assert run.record["warnings"] == []
    saved = load_module(tmp_path / "run" / "student")
    assert len(saved.tokenizer) == 261
    assert json.loads((tmp_path / "run" / "data.json").read_text())["tokenizer"].count(" ") == 1
    assert "bits per byte" in run.record["verdict"].lower()


def test_recipes_of_one_tokenizer_are_refused_and_name_those_of_two(teacher, tmp_path):
    given = {**GIVEN, "teacher": teacher, "student": "decoder:1,16", "tokenizer": "bytes", "steps": 2}
    with pytest.raises(SignalError, match="alm, or uld"):
        lb.distill("lm_kd", out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SignalError, match="pack=False"):
        lb.distill("uld", pack=True, **given)


def test_alm_with_one_tokenizer_works_and_says_what_is_better(teacher):
    run = lb.distill("alm", teacher=teacher, student="decoder:1,16", steps=2, **GIVEN)
    assert any("lm_kd compares whole distributions" in warning for warning in run.record["warnings"])
    assert "kl_to_teacher" in scores(run, "student")


def test_packed_rows_and_micro_batches_give_the_same_training(teacher):
    found = []
    for options in ({"pack": True}, {"pack": True, "accumulate": 2}):
        with seeded(1):
            student = text_decoder(train_tokenizer([], 261), layers=1, width=16, heads=2)
        given = {**GIVEN, "batch_size": 4, "schedule": "constant", "best": "last"}
        run = lb.distill("alm", teacher=teacher, student=student, steps=3, **options, **given)
        found.append(torch.cat([p.detach().flatten() for p in run.student.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=2e-4)
