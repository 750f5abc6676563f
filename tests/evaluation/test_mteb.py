"""MTEB on an encoder, by tasks of one's own that need no network; skipped by name where it is missing."""

import json

import numpy as np
import pytest

from embedding_toys import TEXTS, encoder
from limbeck import cli
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation import embeddings as e
from limbeck.evaluation import harness
from limbeck.students.build import mlp
from limbeck.students.save import save_model
from limbeck.tasks import resolve

mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install 'limbeck[mteb]')")
datasets = pytest.importorskip("datasets")
SCORES = [float(i % 5) for i in range(12)]


def about(name, kind, main):
    return mteb.TaskMetadata(
        name=name, description="ours", dataset={"path": "none/none", "revision": "1"}, type=kind, eval_langs=["eng-Latn"],
        main_score=main, eval_splits=["test"],
    )  # fmt: skip


def pairs():
    from mteb.abstasks.sts import AbsTaskSTS

    class Pairs(AbsTaskSTS):
        metadata = about("OurPairs", "STS", "cosine_spearman")

        def load_data(self, **_):
            rows = {"sentence1": TEXTS[:12], "sentence2": TEXTS[12:24], "score": SCORES}
            self.dataset, self.data_loaded = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows)), True

    return Pairs()


def search():
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    class Search(AbsTaskRetrieval):
        metadata = about("OurSearch", "Retrieval", "ndcg_at_10")

        def load_data(self, **_):
            corpus = [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(TEXTS[:12])]
            queries = [{"id": f"q{i}", "text": f"{text} one"} for i, text in enumerate(TEXTS[:6])]
            found = {"corpus": datasets.Dataset.from_list(corpus), "queries": datasets.Dataset.from_list(queries),
                     "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(6)}, "top_ranked": None}  # fmt: skip
            self.dataset, self.data_loaded = {"default": {"test": found}}, True

    return Search()


def by_hand(model, documents):
    """nDCG@10 with one relevant document a query: 1 / log2(1 + its rank)."""
    likeness = model.encode([f"{text} one" for text in TEXTS[:6]]) @ documents.encode(TEXTS[:12]).T
    ranks = [1 + int((row > row[i]).sum()) for i, row in enumerate(likeness)]
    return np.mean([1 / np.log2(1 + rank) if rank <= 10 else 0 for rank in ranks])


def test_pairs_and_search_as_we_score_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    student, teacher = encoder(seed=1), encoder(seed=2)
    found = harness.run_tasks(model=student, tasks=[pairs(), search()])
    cosines = e.pair_cosines(student.encode(TEXTS[:12]), student.encode(TEXTS[12:24]))
    expected = e.spearman(cosines, np.array(SCORES))
    assert found["tasks"]["OurPairs"]["main_score"] == pytest.approx(expected, abs=1e-5)
    assert found["tasks"]["OurSearch"]["ndcg_at_10"] == pytest.approx(by_hand(student, student), abs=1e-4)
    assert found["harness"].startswith("mteb ")
    both = harness.run_tasks(model=student, tasks=[search()], teacher=teacher)
    assert both["tasks"]["OurSearch"]["ndcg_at_10"] == pytest.approx(by_hand(student, teacher), abs=1e-4)
    assert by_hand(student, teacher) != pytest.approx(by_hand(student, student), abs=1e-3)

    save_model(student, tmp_path / "saved", task=resolve("embedding"))
    monkeypatch.setattr(mteb, "get_task", lambda name: {"OurPairs": pairs()}[name])
    monkeypatch.setattr("sys.argv", ["limbeck", "evaluate", str(tmp_path / "saved"), "tasks=OurPairs", "--json"])
    assert cli.run() == 0
    written = capsys.readouterr().out
    assert json.loads(written[written.index("{") :])["tasks"]["OurPairs"]["main_score"] == pytest.approx(
        expected, abs=1e-5
    )


def test_what_is_asked_wrongly():
    student = encoder()
    with pytest.raises(ArgumentError, match=r"no task 'STSBenchmrk'.*STSBenchmark"):
        harness.run_tasks(model=student, tasks="STSBenchmrk")
    for options in ({"limit": 3}, {"shots": 1}):
        with pytest.raises(ArgumentError, match="is for language models"):
            harness.run_tasks(model=student, tasks="STSBenchmark", **options)
    with pytest.raises(ArgumentError, match="have 24 numbers, the student's 16"):
        harness.run_tasks(model=student, tasks="STSBenchmark", teacher=encoder(width=24))
    with pytest.raises(ModelError, match="and encoders of texts"):
        harness.run_tasks(model=mlp(4, 2), tasks="STSBenchmark")
