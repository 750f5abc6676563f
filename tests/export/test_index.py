"""An index: what is found in it, that it is whole, and that it is refused to the student of another teacher."""

import json
import subprocess
import sys

import numpy as np
import pytest

import limbeck as lb
from limbeck.errors import ArgumentError, DataError, IndexMismatchError
from limbeck.export.index import best, open_index, write_index
from limbeck.recipes.toy_embedding import WORDS, ToyEncoder, ToyTokens
from limbeck.students.build import mlp
from limbeck.students.encoders import StaticEncoder
from limbeck.students.save import load_module, save_model
from limbeck.teachers.base import module_hash

DRAW = np.random.default_rng(0)
VECTORS = DRAW.normal(size=(50, 8)).astype(np.float32) * DRAW.uniform(0.1, 30, size=(50, 1))
IDS = [f"d{place}" for place in range(50)]
TEXTS = [f"text <{place}> ü\u2028\nnext line" for place in range(50)]


def cosines(queries, rows):
    """One pair at a time, in double precision."""
    return np.array(
        [[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in rows.astype(float)] for a in queries.astype(float)]
    )


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 0.02)])
def test_search_gives_the_nearest_documents_by_cosine(tmp_path, dtype, error):
    write_index(tmp_path / "i", IDS, TEXTS, VECTORS, teacher="t" * 64, dtype=dtype, titles=IDS, more={"note": 1})
    index = open_index(tmp_path / "i")
    assert np.load(tmp_path / "i" / "vectors.npy").dtype == dtype
    assert index.documents[3] == {"id": "d3", "text": TEXTS[3], "title": "d3"}
    assert (index.teacher, index.manifest["note"]) == ("t" * 64, 1)
    queries = DRAW.normal(size=(7, 8))
    wanted = cosines(queries, VECTORS)
    np.testing.assert_allclose(index.scores(queries), wanted, atol=error)
    _, scores = index.search(queries, k=5)
    np.testing.assert_allclose(scores, -np.sort(-wanted, axis=1)[:, :5], atol=error)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert index.search(queries, k=500)[0].shape == (7, 50)


def test_equal_scores_come_in_the_order_of_the_documents():
    places, scores = best(np.array([[0.5, 1, 0.5, 1, 0]]), 3)
    assert (places.tolist(), scores.tolist()) == ([[1, 3, 0]], [[1, 1, 0.5]])


def test_a_document_without_direction_is_never_first(tmp_path):
    rows = VECTORS[:3].copy()
    rows[0] = 0
    index = write_index(tmp_path, IDS[:3], TEXTS[:3], rows, teacher="t", dtype="int8")
    assert index.search(rows[1:2], k=1)[0].tolist() == [[1]]
    assert np.isfinite(index.vectors).all()


def test_an_index_is_refused_to_the_student_of_another_teacher(tmp_path):
    data = [f"{a} {b} and {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[:3]]
    teacher, other = ToyEncoder().eval(), ToyEncoder().eval()
    small = StaticEncoder(ToyTokens.size, 12, 12)
    small.tokenizer = ToyTokens()
    run = lb.distill("leaf", teacher=teacher, student=small, data=data, test=8, steps=2, progress=False, measure=False,
                     out=tmp_path / "run")  # fmt: skip
    folder = tmp_path / "run" / "student"
    rows = DRAW.normal(size=(len(data), 12))
    names = [str(place) for place in range(len(data))]
    write_index(tmp_path / "own", names, data, rows, teacher=module_hash(teacher))
    write_index(tmp_path / "other", names, data, rows, teacher=module_hash(other))
    for student in (folder, str(folder), run.student):
        assert open_index(tmp_path / "own", student=student).teacher == module_hash(teacher)
        with pytest.raises(
            IndexMismatchError, match=f"of the teacher {module_hash(other)[:12]}.*distilled from the teacher"
        ):
            open_index(tmp_path / "other", student=student)
    with pytest.raises(IndexMismatchError, match="does not know its teacher"):
        open_index(tmp_path / "own", student=ToyEncoder())
    with pytest.raises(IndexMismatchError, match="vectors of 3 numbers, the documents of 12"):
        open_index(tmp_path / "own").scores(np.ones(3))
    with pytest.raises(DataError, match="no saved student"):
        open_index(tmp_path / "own", student=tmp_path)


def test_a_student_keeps_its_teachers_hash_through_saving(tmp_path):
    module = mlp(3, 2)
    module.limbeck_teacher = "abc"
    save_model(module, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["teacher"] == "abc"
    again = load_module(tmp_path / "a")
    assert again.limbeck_teacher == "abc"
    save_model(again, tmp_path / "b")
    assert load_module(tmp_path / "b").limbeck_teacher == "abc"


@pytest.mark.parametrize(("given", "error", "match"), [
    ({"ids": IDS[:2]}, ArgumentError, "given 2 ids, 50 texts, 50 vectors"),
    ({"ids": ["x"] * 50}, ArgumentError, "49 ids of documents are there twice"),
    ({"dtype": "int4"}, ArgumentError, "int8"),
    ({"vectors": np.where(np.arange(50)[:, None] == 3, np.nan, VECTORS)}, DataError, "1 vectors hold numbers"),
    ({"vectors": np.zeros((0, 8)), "ids": [], "texts": []}, ArgumentError, "1 or more"),
])  # fmt: skip
def test_what_makes_no_index_is_named(tmp_path, given, error, match):
    whole = {"ids": IDS, "texts": TEXTS, "vectors": VECTORS, "teacher": "t", **given}
    with pytest.raises(error, match=match):
        write_index(tmp_path / "i", **whole)
    assert not (tmp_path / "i").exists()


def test_an_index_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(DataError, match="no index in"):
        open_index(tmp_path / "nowhere")
    write_index(tmp_path, IDS, TEXTS, VECTORS, teacher="t")
    lines = (tmp_path / "documents.jsonl").read_text().split("\n")
    (tmp_path / "documents.jsonl").write_text("\n".join(lines[:10]))
    with pytest.raises(DataError, match="not whole: 10 documents"):
        open_index(tmp_path)
    (tmp_path / "documents.jsonl").write_text("{broken")
    with pytest.raises(DataError, match="cannot be read"):
        open_index(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "limbeck-store"}')
    with pytest.raises(DataError, match="is no index"):
        open_index(tmp_path)


def test_searching_needs_numpy_alone(tmp_path):
    write_index(tmp_path, IDS, TEXTS, VECTORS, teacher="t")
    code = ("import sys, numpy\nfrom limbeck.export.index import open_index\n"
            f"assert open_index({str(tmp_path)!r}).search(numpy.ones(8), k=3)[0].shape == (1, 3)\n"
            "assert not {'torch', 'safetensors', 'scipy', 'tokenizers', 'yaml'} & set(sys.modules)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_leaves_the_house_keeps_its_teachers_hash(tmp_path):
    from embedding_toys import TEXTS as texts
    from embedding_toys import encoder
    from limbeck.export.sentence_folder import export_sentence_folder
    from limbeck.export.static import load_static
    from limbeck.export.static_bytes import export_bytes
    from limbeck.students.encoders import static

    teacher = encoder()
    student = static(teacher.width, teacher.tokenizer)
    student.limbeck_teacher = module_hash(teacher)
    save_model(student, tmp_path / "student")
    export_bytes(student, tmp_path / "bytes", texts)
    export_sentence_folder(student, tmp_path / "sentences", texts)
    names = [str(place) for place in range(len(texts))]
    index = write_index(tmp_path / "index", names, texts, teacher.encode(texts), teacher=module_hash(teacher))
    for name in ("student", "bytes", "sentences"):
        index.check(tmp_path / name)
    for name in ("student", "bytes"):
        index.check(load_static(tmp_path / name))
    assert index.search(load_static(tmp_path / "bytes").encode(texts[:3]), k=4)[0].shape == (3, 4)
    student.limbeck_teacher = None
    save_model(student, tmp_path / "student")
    with pytest.raises(IndexMismatchError, match="does not know its teacher"):
        index.check(tmp_path / "student")
