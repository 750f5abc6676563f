"""How alike two written answers are: by hand, and by the recursive definition of edits."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.evaluation.rationales import (
    answer_agreement,
    edit_similarity,
    final_answer,
    of_samples,
    rationale_fidelity,
    step_overlap,
    steps,
)

words = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


def edits(one, two):
    """Levenshtein by its recursive definition."""

    @cache
    def rest(i, j):
        if i == len(one) or j == len(two):
            return len(one) - i + len(two) - j
        if one[i] == two[j]:
            return rest(i + 1, j + 1)
        return 1 + min(rest(i + 1, j), rest(i, j + 1), rest(i + 1, j + 1))

    return rest(0, 0)


@settings(max_examples=100, deadline=None)
@given(words, words)
def test_edit_similarity_is_levenshtein(first, second):
    one, two = first.split(), second.split()
    expected = 1 - edits(tuple(one), tuple(two)) / max(len(one), len(two), 1)
    assert edit_similarity(first, second) == pytest.approx(expected)
    assert edit_similarity(first, second) == edit_similarity(second, first)


def test_by_hand():
    assert edit_similarity("the cat sat", "the cat sat") == 1
    assert edit_similarity("the cat sat", "the dog sat down") == 0.5  # one word replaced, one added, of four
    assert edit_similarity("", "") == 1
    assert edit_similarity("a", "") == 0
    assert steps("First, add 2.\n\n- Then double it!\n") == ["first, add 2", "then double it"]
    assert steps("Add 2. Then double it.") == ["add 2", "then double it"]
    assert step_overlap("Add 2.\nDouble it.\nSo 8.", "Double  it\nadd 2\nSo 9") == pytest.approx(4 / 6)
    assert step_overlap("a\na\na", "a") == 0.5  # said three times, meant once
    assert step_overlap("", "") == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [("so 3 + 4 = 7", "7"), ("that makes $1,200.50.", "1200.5"), ("12.0", "12"), ("a -3 b", "-3"),
     ("Because birds fly. The answer is: a wing.", "the answer is: a wing"), ("", "")],
)  # fmt: skip
def test_final_answers(text, answer):
    assert final_answer(text) == answer


def test_the_same_answer_by_another_way():
    first, second = "3 apples and 4 pears\nso 7", "4 + 3 = 7"
    assert answer_agreement(first, second)
    found = rationale_fidelity([(first, second), ("1", "2")])
    assert found["answer_agreement"] == 0.5
    assert found["edit_similarity"] == pytest.approx((edit_similarity(first, second) + 0) / 2)
    assert rationale_fidelity([]) == {}


def test_samples_without_both_texts_are_left_out():
    samples = [{"prompt": "?", "student": "7", "teacher": "7"}, {"prompt": "?", "student": "8"}, {"teacher": None}]
    assert of_samples(samples) == {"edit_similarity": 1, "step_overlap": 1, "answer_agreement": 1}
    assert of_samples([]) == {}
