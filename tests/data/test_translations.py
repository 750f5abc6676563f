"""Texts with translations: what is a pair, which ids they have, what a batch carries."""

import pytest
import torch

from limbeck.data.texts import load_texts, text_id
from limbeck.data.translations import TranslatedPart
from limbeck.errors import DataError

ROWS = [{"source": a, "target": b} for a, b in
        [("one", "eins"), ("two", "zwei"), ("one", "uno"), ("one", "eins"), ("three", " "), ("four", "vier")]]  # fmt: skip


def test_pairs_are_there_once_and_the_first_of_a_text_has_its_id():
    data = load_texts(ROWS, test=0)
    part = data.train
    assert list(zip(part.texts, part.translations)) == [
        ("one", "eins"),
        ("two", "zwei"),
        ("one", "uno"),
        ("four", "vier"),
    ]
    assert part.ids.tolist() == [text_id("one"), text_id("two"), text_id("one\nuno"), text_id("four")]
    assert part.kinds() == {"unlabelled", "translations"}
    assert data.about["warnings"] == ["1 of 6 texts of 'train' are empty; they are left out.",
                                      "1 of 6 texts of 'train' are there before; they are left out."]  # fmt: skip
    batch = part.batch(torch.tensor([2, 0]))
    assert batch.inputs == ["one", "one"]
    assert batch.extra["translation"] == ["uno", "eins"]


def test_a_held_out_part_keeps_its_translations_and_its_texts_to_itself():
    data = load_texts(ROWS, test=1, seed=3)
    assert isinstance(data.parts["test"], TranslatedPart)
    both = [pair for part in data.parts.values() for pair in zip(part.texts, part.translations)]
    assert sorted(both) == [("four", "vier"), ("one", "eins"), ("one", "uno"), ("two", "zwei")]
    given = load_texts({"train": ROWS, "test": [{"source": "one", "target": "ein"}]})
    assert given.train.texts == ["two", "four"]


def test_prompts_stand_before_both():
    part = load_texts(ROWS[:1], test=0, prompts={"query": "q: "}).train
    assert list(zip(part.texts, part.translations)) == [("q: one", "q: eins"), ("one", "eins")]


def test_columns_are_named_or_known():
    named = load_texts([{"a": "one", "b": "eins"}], text="a", translation="b", test=0).train
    assert named.translations == ["eins"]
    plain = load_texts([{"text": "one", "target": "1"}], test=0).train  # a label, not a translation
    assert not isinstance(plain, TranslatedPart)
    with pytest.raises(DataError, match=r"no column 'c' \(translation=\)"):
        load_texts([{"a": "one", "b": "eins"}], text="a", translation="c", test=0)


def test_held_out_translations_are_measured_beside_their_texts():
    from embedding_toys import encoder, make_tokenizer
    from limbeck.evaluation.embeddings import measure
    from limbeck.students.encoders import static
    from limbeck.tasks import resolve

    task, teacher = resolve("embedding"), encoder()
    torch.manual_seed(0)
    student = static(16, make_tokenizer()).eval()
    pairs = [("one two", "five"), ("three", "six seven"), ("four one", "two")]
    part = load_texts([{"source": a, "translation": b} for a, b in pairs], test=0).train
    found = measure(task, student, part, teacher)["agreement"]
    own = torch.tensor(student.encode([b for _, b in pairs]))
    theirs = torch.tensor(teacher.encode([a for a, _ in pairs]))
    table = torch.nn.functional.cosine_similarity(own[:, None], theirs[None], dim=-1)
    assert found["cosine_of_translations"] == pytest.approx(
        table.diagonal().mean().item(), abs=5e-3
    )  # bfloat16 if fast
    assert found["translations_found"] == pytest.approx((table.argmax(1) == torch.arange(3)).float().mean().item())
    same = load_texts([{"source": a, "translation": a} for a, _ in pairs], test=0).train
    found = measure(task, teacher, same, teacher)["agreement"]
    assert found["translations_found"] == 1
    assert found["cosine_of_translations"] == pytest.approx(1, abs=1e-5)
