"""A tokenizer without a vocabulary, and the student that has it."""

import zlib

import numpy as np
import pytest

from embedding_toys import encoder
from limbeck.errors import ArgumentError
from limbeck.export.sentence_folder import export_sentence_folder
from limbeck.export.static import load_static
from limbeck.students.build import build_student
from limbeck.students.encoder_grams import HashedGrams
from limbeck.students.save import load_module, save_model
from limbeck.tasks import resolve

TEXTS = ["Größe über alles", "größer", "a,b", "Привет мир", "", "  "]


def test_the_runs_of_a_word():
    tokens = HashedGrams(1000, 3, 4)
    expected = ["<haus>", "<ha", "hau", "aus", "us>", "<hau", "haus", "aus>"]
    assert tokens.numbers("Haus") == [zlib.crc32(run.encode()) % 1000 for run in expected]
    assert tokens.numbers("a") == [zlib.crc32(b"<a>") % 1000]  # a word that is one of its runs counts once
    assert tokens.numbers("Haus a", 1) == tokens.numbers("haus")
    assert tokens(["Haus a", "?"], truncation=True, max_length=1)["input_ids"] == [
        tokens.numbers("haus"),
        tokens.numbers("?"),
    ]
    assert tokens([" "])["input_ids"] == [[1001]]


def test_the_student_reads_any_language_and_comes_back(tmp_path):
    task, teacher = resolve("embedding"), encoder(width=16)
    data = task.load(TEXTS, [teacher], test=0)
    student = build_student("grams:512,8", data, task, teacher)
    assert (student.vocabulary, student.width, student.projection.in_features) == (512, 16, 8)
    found = student.encode(TEXTS)
    np.testing.assert_array_equal(found[4], found[5])
    assert found[0] @ found[1] > found[0] @ found[3]  # shared runs before any training
    save_model(student, tmp_path / "student", task=task)
    np.testing.assert_allclose(load_module(tmp_path / "student").encode(TEXTS), found, atol=1e-6)
    np.testing.assert_allclose(load_static(tmp_path / "student").encode(TEXTS), found, atol=1e-5)
    with pytest.raises(ArgumentError, match="hashed words"):
        export_sentence_folder(student, tmp_path / "folder", TEXTS)
    with pytest.raises(ArgumentError, match="longest=2 is less than shortest=3"):
        build_student("grams(longest=2)", data, task, teacher)
