"""The embedding task: vectors of texts, from loading to what students are worth."""

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.data.texts import Pairs, load_texts, read_pairs, read_retrieval, text_id
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.evaluation import embeddings as e
from limbeck.recipes.toy_embedding import WORDS, ToyEncoder, ToyTokens, embedding_toy
from limbeck.report.words import measure
from limbeck.students.encoders import StaticEncoder, pooled
from limbeck.students.token_rows import begin_at_tokens, rarity, token_vectors
from limbeck.tasks import resolve

pandas = pytest.importorskip("pandas")
TEXTS = [f"{a} {b} and {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[:3]]


def student(width=12, **options):
    made = StaticEncoder(ToyTokens.size, 12, width, **options)
    made.tokenizer = ToyTokens()
    made.limbeck_fresh = True
    if made.pair_table is not None:  # it begins at zero
        torch.nn.init.normal_(made.pair_table.weight[:-1])
    return made


def corpus():
    documents = pandas.DataFrame(
        {"doc_id": ["a", "b", "c"], "title": ["one", "", "five"], "text": ["two", "three four", "six"]}
    )
    queries = pandas.DataFrame({"query_id": [1, 2, 3], "text": ["one two", "three", "nine"]})
    judgements = pandas.DataFrame({"query_id": [1, 1, 2, 9], "doc_id": ["a", "b", "b", "z"], "grade": [3, 0, 1, 1]})
    return {"documents": documents, "queries": queries, "judgements": judgements}


def test_texts_are_there_once_and_what_is_left_out_is_counted():
    data = load_texts([*TEXTS, TEXTS[0], "", "  "], test=5)
    assert len(data.train) == len(TEXTS) - 5
    assert len(data.parts["test"]) == 5
    of = f"of {len(TEXTS) + 3} texts of 'train' are"
    assert data.about["warnings"] == [f"2 {of} empty; they are left out.", f"1 {of} there before; they are left out."]
    texts = data.train.gather(torch.arange(len(data.train)))
    assert data.train.ids.tolist() == [text_id(text) for text in texts]


def test_a_held_out_text_is_not_learnt():
    data = load_texts({"train": TEXTS, "test": TEXTS[:3]})
    assert not set(data.train.ids.tolist()) & set(data.parts["test"].ids.tolist())
    assert len(data.train) == len(TEXTS) - 3


def test_prompts_are_put_before_each_text():
    data = load_texts(TEXTS[:10], test=0, prompts={"query": "q: "})
    assert data.train.texts[:1] + data.train.texts[10:11] == ["q: " + TEXTS[0], TEXTS[0]]


@pytest.mark.parametrize(("given", "error", "match"), [
    ({"spec": [""]}, DataError, "No text of 'train' is left"),
    ({"spec": TEXTS, "label": "y"}, ArgumentError, "label='y' means nothing"),
    ({"spec": TEXTS, "prompts": "query: "}, ArgumentError, "expected a mapping"),
    ({"spec": TEXTS, "prompts": {"querry": "q"}}, ArgumentError, "Did you mean 'query'"),
    ({"spec": [{"words": "one"}]}, DataError, "has the columns words"),
    ({"spec": TEXTS, "sts": "no/such.csv"}, DataError, "there is no such file"),
    ({"spec": TEXTS, "retrieval": "no/such"}, DataError, "no such folder"),
])  # fmt: skip
def test_wrong_input_is_named(given, error, match):
    spec = given.pop("spec")
    with pytest.raises(error, match=match):
        load_texts(spec, test=0, **given)


def test_pairs_want_scores_that_differ():
    with pytest.raises(DataError, match="expected one called score"):
        read_pairs(pandas.DataFrame({"sentence1": ["a"], "sentence2": ["b"]}))
    with pytest.raises(DataError, match="numbers and differ"):
        read_pairs(pandas.DataFrame({"sentence1": ["a"] * 3, "sentence2": ["b"] * 3, "score": [1.0] * 3}))


def test_judgements_of_what_is_not_there_are_counted():
    found = read_retrieval(corpus())
    assert found.documents == {"a": "one two", "b": "three four", "c": "five six"}
    assert found.judgements == {"1": {"a": 3, "b": 0}, "2": {"b": 1}}
    assert list(found.queries) == ["1", "2"]
    assert found.warnings == ["1 of 4 judgements name a document or query that is not there; left out.",
                              "1 of 3 queries have no relevant document; they are left out."]  # fmt: skip
    none = corpus() | {"judgements": pandas.DataFrame({"query_id": [9], "doc_id": ["z"]})}
    with pytest.raises(DataError, match="No judgement"):
        read_retrieval(none)


def test_a_folder_as_beir_has_it(tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "t", "text": "one"}\n{"_id": "d2", "title": "", "text": "x"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n')
    with pytest.raises(DataError, match="no table of judgements"):
        read_retrieval(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    assert read_retrieval(tmp_path).judgements == {"q1": {"d1": 1}}


def test_scores_of_rankings_by_hand():
    bench = read_retrieval(corpus())
    likeness = np.array([[0.1, 0.9, 0.0], [0.5, 0.9, 0.1]])  # query 1: a is second; query 2: b is first
    found = e.ranking_scores(bench, likeness)
    # one relevant document each: nDCG is 1 / log2(1 + rank)
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert found["mrr"] == pytest.approx(0.75)
    assert found["recall@100"] == 1
    assert e.standardized(likeness).mean(1) == pytest.approx([0, 0])


def test_neighbours_and_cosines():
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0].astype(np.float32)
    assert e.shared_neighbours(rows, rows @ turn) == 1  # a rotation keeps neighbours and moves vectors
    assert e.cosine(rows, 3 * rows) == pytest.approx(1)
    assert e.cosine(rows, rows @ turn) < 0.9
    assert e.shared_neighbours(rows, np.random.default_rng(2).normal(size=(40, 8))) < 0.6


def test_pooling_looks_at_tokens_alone():
    hidden = torch.arange(24.0).view(2, 3, 4)
    right, left = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    torch.testing.assert_close(pooled(hidden, right, "mean")[0], hidden[0, :2].mean(0))
    torch.testing.assert_close(pooled(hidden, right, "last"), torch.stack([hidden[0, 1], hidden[1, 2]]))
    torch.testing.assert_close(pooled(hidden, left, "cls"), torch.stack([hidden[0, 1], hidden[1, 0]]))
    torch.testing.assert_close(pooled(hidden, left, "last")[0], hidden[0, 2])


@pytest.mark.parametrize("pairs", [0, 50])
def test_a_static_text_is_the_mean_of_its_rows(pairs):
    module = student(pairs=pairs, normalize=False)
    ids, mask = torch.tensor([[3, 4, 5], [6, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = module(ids, mask)
    rows = [module.table.weight[i] for i in (3, 4, 5)]
    if pairs:
        rows += [module.pair_table.weight[(a * 1_000_003 + b * 7_919) % pairs] for a, b in ((3, 4), (4, 5))]
    torch.testing.assert_close(found[0], torch.stack(rows).mean(0))
    torch.testing.assert_close(found[1], module.table.weight[6])
    found.sum().backward()
    touched = module.table.weight.grad.coalesce().indices().flatten().tolist()
    assert touched == [3, 4, 5, 6]  # neither padding nor what is masked


def test_with_pairs_a_text_begins_where_the_table_alone_has_it():
    alone, both = (StaticEncoder(ToyTokens.size, 12, 12, pairs=pairs) for pairs in (0, 50))
    both.table.load_state_dict(alone.table.state_dict())
    ids = torch.tensor([[3, 4, 5], [6, 7, 3]])
    torch.testing.assert_close(both(ids), alone(ids))
    both(ids)[:, 0].sum().backward()
    assert both.pair_table.weight.grad.coalesce().values().abs().sum() > 0


def test_a_text_without_tokens_has_a_row_of_its_own():
    found = student().encode(["one", "???", ""])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found[1], found[2])


def test_rows_begin_at_the_teachers_tokens():
    teacher = ToyEncoder().eval()
    vectors = token_vectors(teacher, ToyTokens.size)
    alone = teacher(torch.tensor([[0, 5, 1]]), torch.ones(1, 3, dtype=torch.long))[0]
    torch.testing.assert_close(vectors[5], alone, atol=2e-2, rtol=0)
    made = student()
    begin_at_tokens(made, vectors)
    rows = made.table.weight[: ToyTokens.size].detach()
    assert float(rows.norm(dim=1).mean()) == pytest.approx(1, abs=1e-4)
    weights = rarity(ToyTokens.size)
    assert bool((weights.diff() > 0).all())  # later rows are rarer and count more


def test_leaf_brings_a_student_into_its_teachers_space(tmp_path):
    teacher = ToyEncoder().eval()
    options = {"task": "embedding", "teacher": teacher, "data": TEXTS, "test": 12, "progress": False, "epochs": 40,
               "learning_rate": 3e-2}  # fmt: skip
    scores = read_pairs(pandas.DataFrame({"sentence1": TEXTS[:6], "sentence2": TEXTS[1:7], "score": range(6)}))
    run = lb.distill("leaf", student=student(), out=tmp_path / "run", sts={"x": scores}, retrieval=corpus(), **options)
    found = {record["name"]: record for record in run.record["models"]}
    assert found["student"]["agreement"]["cosine"]["mean"] > 0.8
    assert {"x: spearman", "retrieval: ndcg@10", "retrieval: ndcg@10 asymmetric"} <= set(found["student"]["scores"])
    assert "retrieval: ndcg@10 asymmetric" not in found["teacher"]["scores"]
    assert run.verdict.startswith("The student has a Spearman correlation (x) of")
    assert "alone" not in run.verdict
    assert any("judgements name" in warning for warning in run.record["warnings"])
    unmoved = {**options, "epochs": 1, "learning_rate": 1e-9}
    far = lb.distill("leaf", student=student(), rows="random", **unmoved)
    assert far.record["models"][1]["agreement"]["cosine"]["mean"] < 0.5
    again = run.student.encode(TEXTS[:3])
    assert again.shape == (3, 12)


def test_the_teacher_reads_every_text_once(tmp_path):
    """Its vectors are kept: neither epochs nor a second run make it read training texts again."""
    teacher, read = ToyEncoder().eval(), []
    teacher.register_forward_hook(lambda module, args, kwargs, output: read.append(len(output)), with_kwargs=True)
    options = {"task": "embedding", "teacher": teacher, "data": TEXTS, "test": 8, "progress": False, "measure": False}
    lb.distill("leaf", student=student(), store=str(tmp_path / "store"), epochs=3, **options)
    first = sum(read)
    assert first < 2.2 * len(TEXTS)
    read.clear()
    lb.distill("leaf", student=student(), store=str(tmp_path / "store"), epochs=3, **options)
    assert sum(read) < first - (len(TEXTS) - 8) + 8


def test_models_that_do_not_fit_are_refused():
    data, small, teacher = embedding_toy()
    task = resolve("embedding")
    wide = StaticEncoder(ToyTokens.size, 8, 8)
    wide.tokenizer = ToyTokens()
    with pytest.raises(ModelError, match="linear map to 12"):
        task.check(data, {"teacher": teacher.module, "student": wide})
    with pytest.raises(ModelError, match="one vector for each text"):
        task.signals(torch.zeros(2, 3, 4))

    class Loose(ToyEncoder):
        def forward(self, input_ids, attention_mask):
            return 3 * super().forward(input_ids, attention_mask)

    loose = Loose()
    assert small.normalize
    task.check(data, {"teacher": loose, "student": small})
    assert not small.normalize  # a fresh student of ours follows
    fixed = ToyEncoder()
    with pytest.raises(ModelError, match="not of length 1"):
        task.check(data, {"teacher": loose, "student": fixed})
    del fixed.tokenizer
    with pytest.raises(ModelError, match="no tokenizer"):
        task.check(data, {"student": fixed})
    with pytest.raises(ArgumentError, match="list of texts"):
        small.encode("one")


def test_pairs_are_scored_by_their_cosines():
    first = np.array([[1.0, 0], [1, 1], [0, 2]])
    second = np.array([[1.0, 0], [1, 0], [1, 0]])
    np.testing.assert_allclose(e.pair_cosines(first, second), [1, 0.5**0.5, 0])
    assert Pairs("x", [], [], np.zeros(0)).name == "x"


@pytest.mark.parametrize(("width", "pairs"), [(12, 0), (4, 0), (12, 50)])
def test_encode_gives_what_the_padded_way_gives(width, pairs):
    module, texts = student(width, pairs=pairs), ["one two", "", "three", "four five six one", "?"]
    ids = [row["input_ids"][0] for row in (ToyTokens()([text]) for text in texts)]
    padded = torch.tensor([row + [ToyTokens.pad_token_id] * (4 - len(row)) for row in ids])
    with torch.no_grad():
        expected = module(padded)
    np.testing.assert_allclose(module.encode(texts, batch_size=2), expected.numpy(), atol=1e-6)


def test_vectors_made_smaller_are_scored_too():
    pairs = pandas.DataFrame(
        {"sentence1": TEXTS[:12], "sentence2": TEXTS[12:24], "score": [float(i % 5) for i in range(12)]}
    )
    teacher = ToyEncoder(width=40).eval()
    made = StaticEncoder(ToyTokens.size, 40, 40)
    made.tokenizer = ToyTokens()
    run = lb.distill("leaf", teacher=teacher, student=made, data=TEXTS, task="embedding", test=12, steps=3, progress=False,
                     measure=False, sts=pairs, retrieval=corpus(), forms=True)  # fmt: skip
    theirs, own = (record["scores"] for record in run.record["models"])
    forms = {"bytes", "signs", "first 32"}
    for name in ("sts: spearman", "retrieval: ndcg@10", "retrieval: ndcg@10 asymmetric"):
        assert {f"{name}, {form}" for form in forms} <= set(own)
    assert {f"sts: spearman, {form}" for form in forms} <= set(theirs)
    signs = [np.where(run.student.encode(side) >= 0, 1.0, -1.0) for side in (TEXTS[:12], TEXTS[12:24])]
    expected = e.spearman((signs[0] * signs[1]).sum(1), pairs.score.to_numpy())
    assert own["sts: spearman, signs"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert own["sts: spearman, bytes"]["mean"] == pytest.approx(own["sts: spearman"]["mean"], abs=0.1)
    assert measure("sts: ndcg@10 asymmetric, signs").label.endswith("documents of the teacher, one bit a number (sts)")
    plain = lb.distill("leaf", teacher=teacher, student=made, data=TEXTS, task="embedding", test=12, steps=1, progress=False,
                       measure=False, sts=pairs)  # fmt: skip
    assert set(plain.record["models"][0]["scores"]) == {"spearman"}
    with pytest.raises(ArgumentError, match="forms='all'"):
        lb.distill("leaf", teacher=teacher, student=made, data=TEXTS, task="embedding", forms="all", progress=False)


def test_prompts_that_stand_in_some_texts_are_counted():
    some = [f"query: {text}" for text in TEXTS[:5]] + TEXTS[5:]
    found = load_texts(some, test=0).about["warnings"]
    assert found == [
        f"5 of {len(TEXTS)} texts begin with 'query: ' and the others do not: an encoder that knows prompts reads them "
        "otherwise. Take it off all, and give prompts= if the teacher wants it."
    ]  # fmt: skip
    assert load_texts([f"query: {text}" for text in TEXTS], test=0).about["warnings"] == []
    twice = load_texts([f"query: {text}" for text in TEXTS], test=0, prompts={"query": "query: "}).about["warnings"]
    assert len(twice) == 1
    assert f"{len(TEXTS)} of {len(TEXTS)} texts already begin with 'query: '" in twice[0]


def test_texts_without_a_known_token_are_counted():
    run = lb.distill("leaf", teacher=ToyEncoder().eval(), student=student(), data=[*TEXTS, "zzz", "yyy xxx"], task="embedding",
                     test=12, steps=1, seed=3, progress=False, measure=False)  # fmt: skip
    left = sum(text in ("zzz", "yyy xxx") for text in run.data.train.texts)
    said = f"{left} of {len(run.data.train)} texts have no token that the student knows"
    assert any(said in warning for warning in run.record["data"]["warnings"]) == bool(left)
    assert left


def test_without_a_named_student_it_is_the_teachers_half_or_a_table():
    from embedding_toys import encoder
    from limbeck.students.maker import default_student

    data = load_texts(TEXTS)
    assert default_student(data, encoder()) == "shrink(depth=0.5)"
    assert default_student(data, ToyEncoder()) == "static"
    teacher = ToyEncoder().eval()
    teacher.tokenizer = encoder().tokenizer
    run = lb.distill(
        "leaf", teacher=teacher, data=TEXTS, task="embedding", test=12, steps=2, progress=False, measure=False
    )
    assert isinstance(run.student, StaticEncoder)
