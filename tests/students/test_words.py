"""New words of an encoder: which, with which rows, and that the rest stays as it was."""

import copy

import pytest
import torch

import limbeck as lb
from embedding_toys import encoder as whole_words
from embedding_toys import same
from limbeck.errors import ArgumentError, ModelError
from limbeck.recipes.toy_embedding import words_toy
from limbeck.students.encoders import static_encoder
from limbeck.students.save import load_module, save_model
from limbeck.students.words import add_words, frequent_words, rows_in_context, rows_of_pieces, words_of

TEXTS = ["seven and three", "three or seven, seven", "one of three", "or of or of"]


def model():
    return words_toy()[1]


def test_the_most_frequent_words_in_pieces():
    tokenizer = model().tokenizer
    assert words_of(tokenizer, "three or seven, seven") == ["three", "or", "seven", ",", "seven"]
    assert frequent_words(tokenizer, TEXTS, 3) == ["seven", "three", "and"]  # "or" and "of" are whole, "," is no word
    with pytest.raises(ModelError, match="WordPiece"):
        words_of(whole_words().tokenizer, "one")


@pytest.mark.parametrize(("layer", "pool"), [(-1, "mean"), (1, "first"), (0, "last")])
def test_rows_are_means_over_sentences_of_what_the_pieces_are(layer, pool):
    old = model()
    found = rows_in_context(old, TEXTS, ["seven", "three", "ten"], 2, layer, pool)
    piece = {"mean": slice(0, 2), "first": slice(0, 1), "last": slice(1, 2)}[pool]

    def state(text, begin):  # where the pieces of the word begin, [CLS] first
        ids = torch.tensor([old.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = old.body(ids, torch.ones_like(ids), output_hidden_states=True).hidden_states[layer]
        return states[0, begin : begin + 2][piece].mean(0)

    expected = [(state(TEXTS[0], 1) + state(TEXTS[1], 4)) / 2, (state(TEXTS[0], 5) + state(TEXTS[1], 1)) / 2]
    same(found[:2], torch.stack(expected), atol=3e-2)  # the pass may be in bfloat16
    same(found[2], rows_of_pieces(old, ["ten"])[0])  # is in no sentence
    with pytest.raises(ArgumentError, match="layer=3: the model has 2 layers"):
        rows_in_context(old, TEXTS, ["ten"], 2, 3)


def test_the_mean_of_pieces_by_hand():
    old = model()
    table, ids = old.body.embeddings.word_embeddings.weight, old.tokenizer.convert_tokens_to_ids(["se", "##ven"])
    same(rows_of_pieces(old, ["seven"])[0], (table[ids[0]] + table[ids[1]]) / 2)


def test_a_new_word_is_one_token_and_all_else_stays(tmp_path):
    old = model()
    new, before = copy.deepcopy(old), old.body.embeddings.word_embeddings.weight.detach().clone()
    rows = torch.randn(2, 16)
    add_words(new, ["seven", "three"], rows)
    assert new.tokenizer.tokenize("one seven three") == ["on", "##e", "seven", "three"]
    assert new.tokenizer.tokenize("seventeen") == old.tokenizer.tokenize(
        "seventeen"
    )  # longer words are split as before
    assert old.tokenizer.tokenize("seven") == ["se", "##ven"]
    table = new.body.embeddings.word_embeddings.weight.detach()
    assert torch.equal(table[: len(before)], before)
    direction = rows / rows.norm(dim=1, keepdim=True)
    same(table[new.tokenizer.convert_tokens_to_ids(["seven", "three"])], direction * before.norm(dim=1).mean())
    same(new.encode(["one or of"]), old.encode(["one or of"]))
    assert abs(new.encode(["seven"]) - old.encode(["seven"])).max() > 1e-3
    save_model(new, tmp_path / "new")
    same(load_module(tmp_path / "new").encode(TEXTS), new.encode(TEXTS))
    with pytest.raises(ModelError, match="do not fit an input table"):
        add_words(new, ["ten"], torch.randn(1, 8))


@pytest.mark.parametrize("rows", ["contextual", "pieces", "random"])
def test_the_grown_encoder_goes_back_to_the_old_ones_vectors(tmp_path, rows):
    data, student, teacher = words_toy()
    options = {"teacher": teacher.module, "data": data.train.texts, "task": "embedding", "test": 8, "words": 4, "rows": rows,
               "progress": False}  # fmt: skip
    begun = lb.distill("bioptimus", student=copy.deepcopy(student), steps=0, **options)
    run = lb.distill("bioptimus", student=student, steps=60, learning_rate=3e-3, out=tmp_path / "run", **options)
    before, after = (each.record["models"][1]["agreement"]["cosine"]["mean"] for each in (begun, run))
    assert before < 0.999
    assert after > before
    assert len(run.student.tokenizer) == len(teacher.module.tokenizer) + 4
    same(load_module(tmp_path / "run" / "student").encode(TEXTS), run.student.encode(TEXTS))


def test_what_cannot_have_words_is_refused():
    data, student, teacher = words_toy()
    table = static_encoder(30, 16, 16)
    options = {"teacher": teacher.module, "task": "embedding", "test": 0, "progress": False, "steps": 0}
    table.tokenizer = student.tokenizer
    with pytest.raises(ArgumentError, match="adds words to Transformers encoders"):
        lb.distill("bioptimus", student=table, data=data.train.texts, **options)
    with pytest.raises(ArgumentError, match="splits no word"):
        lb.distill("bioptimus", student=student, data=["or of", "of or", "or or"], **options | {"test": 1})
