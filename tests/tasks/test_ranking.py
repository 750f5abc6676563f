"""The ranking task: rows, rankers of four architectures, and what they are worth."""

import numpy as np
import pytest
import torch

import limbeck as lb
from embedding_toys import TEXTS, encoder, make_tokenizer, same, transformers
from limbeck import functional as f
from limbeck.data.rankings import load_rankings
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.recipes.toy_embedding import ranking_toy
from limbeck.students.encoders import static
from limbeck.students.rankers import KINDS, NONE, max_sim, ranker
from limbeck.students.save import load_module, save_model
from limbeck.tasks import resolve
from limbeck.tasks.ranking import order_agreement, scores_of
from limbeck.teachers.base import as_teacher
from limbeck.teachers.scores import GivenScores

pandas = pytest.importorskip("pandas")


def rows(count=24, scores=True):
    found = []
    for i in range(count):
        documents = [TEXTS[(i + step) % len(TEXTS)] for step in (0, 7, 19)]
        found.append({"query": TEXTS[(i + 1) % len(TEXTS)] + " one", "documents": documents})
        if scores:
            found[-1]["scores"] = [3.0 - i % 2, float(i % 5), -1.0]
    return found


def made(kind, **options):
    return ranker(kind, encoder(**options), width=8)


def test_margins_by_hand():
    student, teacher = torch.tensor([[2.0, 1.0, 5.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    by_hand = np.mean([((2 - 1) - (1 - 0.5)) ** 2, ((2 - 5) - (1 - 0)) ** 2])
    assert float(f.margin_mse(student, teacher)) == pytest.approx(by_hand)
    same(f.margin_mse(student + 7, teacher - 3), f.margin_mse(student, teacher), 1e-5)  # scales may be shifted
    assert float(f.margin_mse(teacher, teacher)) == 0
    assert float(f.margin_mse(2 * teacher, teacher)) > 0  # and not stretched


def test_in_batch_by_hand():
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    by_hand = (np.log(np.exp([2, 0, 1]).sum()) - 2 + np.log(3)) / 2
    assert float(f.in_batch_contrastive(scores)) == pytest.approx(by_hand)
    with pytest.raises(ArgumentError, match="not additive"):
        lb.distill("contrastive", task="ranking", student=made("cosine"), data=rows(scores=False), test=4, steps=2,
                   batch_size=8, accumulate=2, progress=False)  # fmt: skip


def test_max_sim_by_loops():
    draw = torch.Generator().manual_seed(0)
    query, document = torch.randn(2, 3, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    masks = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[1, 1, 1, 0, 0], [1] * 5, [0, 0, 1, 1, 0]])
    expected = np.zeros((2, 3))
    for q in range(2):
        for d in range(3):
            for i in range(3):
                if masks[0][q, i]:
                    expected[q, d] += max(float(query[q, i] @ document[d, j]) for j in range(5) if masks[1][d, j])
    same(max_sim(query, masks[0], document, masks[1]).double(), torch.from_numpy(expected), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ranker_scores_each_candidate_by_itself(kind, tmp_path):
    module, task = made(kind).eval(), resolve("ranking")
    part = load_rankings(rows(), test=0).train
    with torch.no_grad():
        found = task.signals(task.forward(module, task.view(part.batch([0, 1, 2]), module, "student")))
        for row in range(3):
            for place, text in enumerate(part.documents[row]):
                alone = module(**module.prepare([part.queries[row]], [text]))["scores"]
                same(found["scores"][row, place], alone[0, 0], 1e-4)
        if module.indexed:
            every = torch.from_numpy(
                module.score_all(part.queries[:3], [text for docs in part.documents[:3] for text in docs])
            )
            for row in range(3):
                same(found["in_batch"][row], every[row].roll(-3 * row), 1e-4)
    save_model(module, tmp_path / "r", task="ranking")
    again = load_module(tmp_path / "r")
    with torch.no_grad():
        same(again(**again.prepare(part.queries[:1], part.documents[0]))["scores"],
             module(**module.prepare(part.queries[:1], part.documents[0]))["scores"], 0)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_learns_given_scores(kind):
    rate = 1e-2 if kind == "mlp" else 3e-3  # its encoder stays as it is
    run = lb.distill("margin_mse", task="ranking", teacher="scores", student=made(kind), data=rows(), test=4, epochs=30,
                     batch_size=8, learning_rate=rate, progress=False, measure=False)  # fmt: skip
    found, first = (run.task.scored(module, run.data.train) for module in (run.student, made(kind).eval()))
    assert f.margin_mse(found, run.data.train.scores) < 0.8 * f.margin_mse(first, run.data.train.scores)


@pytest.mark.parametrize("recipe", ["score_mse", "listwise_kl", "contrastive"])
def test_other_recipes_learn_too(recipe):
    data = load_rankings(rows(), test=4)
    student = ranker("dot", static(16, make_tokenizer()))
    teacher = None if recipe == "contrastive" else GivenScores()
    run = lb.distill(recipe, task="ranking", teacher=teacher, student=student, data=rows(), test=4, epochs=40, batch_size=8,
                     learning_rate=3e-2, progress=False, measure=False)  # fmt: skip
    start = ranker("dot", static(16, make_tokenizer()))
    assert run.record["models"][-1]["scores"]["first_is_first"]["mean"] >= 0
    task = run.task
    found, first = ([task.scored(module, data.train)] for module in (run.student, start))
    if recipe == "contrastive":
        assert (found[0].argmax(1) == 0).float().mean() > (first[0].argmax(1) == 0).float().mean()
    else:
        assert order_agreement(found[0], data.train.scores) > max(0.7, order_agreement(first[0], data.train.scores))


def test_a_model_teaches_a_smaller_one_and_both_are_measured():
    documents = pandas.DataFrame({"doc_id": range(12), "text": TEXTS[:12]})
    queries = pandas.DataFrame({"query_id": range(6), "text": [text + " one" for text in TEXTS[:6]]})
    judgements = pandas.DataFrame({"query_id": range(6), "doc_id": range(6), "grade": [1] * 6})
    bench = {"documents": documents, "queries": queries, "judgements": judgements}
    run = lb.distill("margin_mse", task="ranking", teacher=made("late"), student=made("cross", seed=3), data=rows(scores=False),
                     test=4, epochs=2, batch_size=8, progress=False, measure=False, retrieval=bench)  # fmt: skip
    teacher, student = run.record["models"]
    assert {"ndcg@10", "recall@100", "mrr", "first_is_first"} == set(teacher["scores"]) == set(student["scores"])
    assert 0 <= student["agreement"]["order_agreement"]["mean"] <= 1
    perfect = ranker("cosine", encoder())
    found = scores_of(perfect.eval(), run.data.benches["retrieval"])
    assert found["recall@100"] == 1


def test_a_cross_ranker_orders_the_best_by_words_anew():
    bench = load_rankings(rows(), test=0, retrieval={
        "documents": pandas.DataFrame({"doc_id": range(8), "text": TEXTS[:8]}),
        "queries": pandas.DataFrame({"query_id": [0], "text": [TEXTS[3]]}),
        "judgements": pandas.DataFrame({"query_id": [0], "doc_id": [3], "grade": [1]}),
    }).benches["retrieval"]  # fmt: skip
    module = made("cross").eval()
    with torch.no_grad():
        scores = module(**module.prepare([TEXTS[3]], TEXTS[:8]))["scores"][0]
    rank = 1 + int((scores > scores[3]).sum())
    assert scores_of(module, bench)["mrr"] == pytest.approx(1 / rank)


@pytest.mark.parametrize(("given", "error", "match"), [
    ([{"query": "a", "documents": ["b", "c"]}, {"query": "d", "documents": ["e"]}], DataError, "1 candidates, and the rows"),
    ([{"query": "a", "documents": ["b"], "scores": [float("nan")]}], DataError, "expected 1 numbers"),
    ([{"query": "a", "documents": ["b", "c"], "scores": [1.0]}], DataError, "expected 2 numbers"),
    ([{"query": "", "documents": ["b"]}], DataError, "no row of 'train' is left"),
    ([{"text": "a"}], DataError, "has the columns text"),
])  # fmt: skip
def test_rows_that_cannot_be_ranked(given, error, match):
    with pytest.raises(error, match=match):
        load_rankings(given, test=0)


def test_what_does_not_fit_is_said_before_training():
    options = {"task": "ranking", "data": rows(scores=False), "progress": False}
    with pytest.raises(ArgumentError, match="have no column scores"):
        lb.distill("margin_mse", teacher="scores", student=made("dot"), **options)
    with pytest.raises(ModelError, match="does not score candidates"):
        lb.distill("contrastive", student=encoder(), **options)
    with pytest.raises(ArgumentError, match="kind='lat'"):
        ranker("lat", encoder())
    with pytest.raises(ModelError, match="compares states of tokens"):
        ranker("late", static(16, make_tokenizer()))
    run = lb.distill(
        "margin_mse", teacher="scores", student=made("cosine"), task="ranking", data=rows(), steps=1, progress=False
    )
    assert any("no difference of cosines reaches" in warning for warning in run.record["warnings"])


def test_triples_and_what_is_left_out():
    triple = {"query": "one two", "positive": "two", "negative": "three"}
    found = load_rankings([triple, triple, {**triple, "positive": " "}, {**triple, "query": "nine"}], test=0)
    assert found.train.documents == [["two", "three"]] * 2
    assert len(found.about["warnings"]) == 2
    assert len(ranking_toy()[0].train) == 16


def test_the_answer_of_another_row_is_no_negative():
    module = made("cosine").eval()
    queries, documents = TEXTS[:3], [TEXTS[5], TEXTS[6], TEXTS[5], TEXTS[7], TEXTS[8], TEXTS[5]]  # two candidates each
    with torch.no_grad():
        found = module(**module.prepare(queries, documents))
    assert (found["in_batch"] == NONE).sum() == 2 + 2  # rows 0 and 1 share their answer, and row 2 has it as a negative
    assert found["in_batch"][0].eq(NONE).tolist() == [False, False, True, False, False, True]
    by_hand = [[float(module.score_all([query], [text])[0, 0]) for text in documents] for query in queries]
    kept = [[0, 1, 3, 4], [2, 3, 4, 1], [4, 5, 0, 1, 2, 3]]
    expected = np.mean(
        [np.log(np.exp([row[i] for i in places]).sum()) - row[places[0]] for row, places in zip(by_hand, kept)]
    )
    assert float(f.in_batch_contrastive(found["in_batch"])) == pytest.approx(expected, abs=1e-5)


def test_several_teachers_come_to_one_scale():
    large, small, data = made("dot", seed=1), made("cosine", seed=2), load_rankings(rows(scores=False), test=0)
    task = resolve("ranking")
    teacher = task.taught(as_teacher([large, small]), data)
    found = [task.scored(model, data.train) for model in (large, small)]
    expected = sum((scores - scores.mean()) / scores.std() for scores in found) / 2
    same(task.scored(teacher, data.train), expected, 1e-4)
    stretched = made("dot", seed=1)
    with torch.no_grad():
        stretched.log_scale.add_(3.0)
    again = task.taught(as_teacher([stretched, small]), data)
    same(task.scored(again, data.train), expected, 1e-4)  # its factor counts nothing
    assert again.identity() != teacher.identity()
    run = lb.distill("margin_mse", task="ranking", teacher=[large, small], student=made("dot", seed=3), data=rows(scores=False),
                     test=4, epochs=2, batch_size=8, progress=False, measure=False)  # fmt: skip
    assert run.record["models"][0]["role"] == "teacher"
    with torch.no_grad():
        stretched.encoder.body.embeddings.word_embeddings.weight.zero_()
        stretched.encoder.body.embeddings.position_embeddings.weight.zero_()
        for layer in stretched.encoder.body.encoder.layer:
            layer.output.LayerNorm.weight.zero_()
    with pytest.raises(ModelError, match="every candidate the same score"):
        task.taught(as_teacher([stretched, small]), data)


def test_a_teacher_reads_each_row_once(tmp_path, monkeypatch):
    teacher, read = made("late"), []
    monkeypatch.setattr(type(teacher), "forward", counted(type(teacher).forward, teacher, read))
    options = {"task": "ranking", "teacher": teacher, "data": rows(scores=False), "test": 4, "batch_size": 8, "progress": False,
               "measure": False, "store": str(tmp_path / "scores")}  # fmt: skip
    run = lb.distill("score_mse", student=made("dot", seed=3), epochs=5, **options)
    assert [each["rows"] for each in run.record["teacher_passes"]] == [20]
    assert read == [
        2,
        20,
        4,
        4,
    ]  # a look at its shapes, the rows, the test part for its own scores and for the agreement
    read.clear()
    again = lb.distill("score_mse", student=made("dot", seed=3), epochs=1, **options)
    assert again.record["teacher_passes"] == []
    assert read == [4, 4]


def counted(forward, module, seen):
    def call(self, **inputs):
        if self is module:
            seen.append(len(inputs["query_input_ids"]))
        return forward(self, **inputs)

    return call


def test_a_long_query_is_cut_too():
    module = made("cross")
    found = module.prepare(["one two and " * 30], ["three"])
    assert found["input_ids"].shape == (1, 1, 32)


def classifier(folder, labels=1):
    config = transformers.BertConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=labels, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return model


def test_a_cross_encoder_of_others_teaches(tmp_path):
    theirs, tokenizer = classifier(tmp_path / "cross"), make_tokenizer()
    lb.distill("margin_mse", task="ranking", teacher=str(tmp_path / "cross"), student=made("dot"), data=rows(scores=False),
                     test=4, steps=2, progress=False, measure=False, out=tmp_path / "run")  # fmt: skip
    data = load_rankings(rows(scores=False), test=0)
    module = (
        resolve("ranking").pretrained(str(tmp_path / "cross"), role="teacher", trust_remote_code=False, seed=0).eval()
    )
    with torch.no_grad():
        inputs = tokenizer([data.train.queries[0]] * 3, data.train.documents[0], return_tensors="pt", padding=True)
        expected = theirs(**inputs).logits[:, 0]
    same(resolve("ranking").scored(module, data.train)[0], expected)
    save_model(module, tmp_path / "saved", task=resolve("ranking"))
    same(resolve("ranking").scored(load_module(tmp_path / "saved"), data.train)[0], expected)
    assert "samples in" in (tmp_path / "run" / "report.html").read_text()
    classifier(tmp_path / "three", labels=3)
    with pytest.raises(ModelError, match="has 3 outputs"):
        lb.distill("margin_mse", task="ranking", teacher=str(tmp_path / "three"), student=made("dot"), data=rows(scores=False),
                   test=4, steps=2, progress=False)  # fmt: skip


def test_the_most_relevant_of_graded_documents_is_the_answer():
    rows = [{"query": "one", "documents": ["two", "three", "four"], "grades": [0, 2, 1], "scores": [0.1, 0.9, 0.5]},
            {"query": "two", "documents": ["six", "five", "one"], "grades": [1, 1, 0], "scores": [0.3, 0.2, 0.1]}]  # fmt: skip
    part = load_rankings(rows, test=0).train
    assert part.documents == [["three", "four", "two"], ["six", "five", "one"]]
    same(part.scores, torch.tensor([[0.9, 0.5, 0.1], [0.3, 0.2, 0.1]]))
    rows[1]["grades"] = [1, 1]
    with pytest.raises(DataError, match="are its grades; expected 3 numbers"):
        load_rankings(rows, test=0)
