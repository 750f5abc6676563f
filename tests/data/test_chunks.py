"""Chunks of rationales, sentences of answers, and answers that are worth learning."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from language_toys import VOCABULARY, make_tokenizer
from limbeck.data.answers_kept import AnswerFilter, most_repeated
from limbeck.data.chunks import chunk_losses, even_cuts, searched_cuts
from limbeck.data.generate import Answers
from limbeck.data.sentences import Sentences
from limbeck.errors import ArgumentError

ENDS = st.lists(st.integers(1, 6), min_size=1, max_size=9).map(lambda sizes: list(itertools.accumulate(sizes)))


def ids(text):
    return torch.tensor([VOCABULARY.index(word) for word in text])


# sentences
def test_a_sentence_ends_with_its_mark_and_takes_what_has_no_text():
    cut = Sentences(make_tokenizer())
    assert cut.number(ids("ab. c?d")).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert cut.number(ids("3.1a\n\nb")).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert cut.number(torch.cat([ids("a.b."), torch.tensor([2])])).tolist() == [0, 0, 1, 1, 1]  # the end of the text
    assert Sentences(make_tokenizer(), ":").number(ids("a.:b:")).tolist() == [0, 0, 0, 1, 1]
    assert Sentences(None).number(ids("a.b.")).tolist() == [0, 0, 0, 0]
    assert cut.number(ids("")).tolist() == []
    with pytest.raises(ArgumentError, match="No character"):
        Sentences(None, "")


# cuts
@given(ENDS, st.integers(1, 12))
def test_even_cuts_are_sentence_ends_and_leave_every_chunk_one(ends, count):
    cuts = even_cuts(ends, count)
    assert cuts == sorted(set(cuts))
    assert set(cuts) <= set(ends)
    assert cuts[-1] == ends[-1]
    assert len(cuts) == min(count, len(ends))


def test_even_cuts_are_even():
    assert even_cuts(range(1, 13), 4) == [3, 6, 9, 12]
    assert even_cuts([1, 2, 3, 12], 3) == [2, 3, 12]
    with pytest.raises(ArgumentError, match="count=0"):
        even_cuts([3], 0)


@given(ENDS, st.integers(1, 5), st.randoms(use_true_random=False))
def test_searched_cuts_are_a_local_minimum_and_no_worse_than_even_ones(ends, count, chance):
    losses = [chance.random() for _ in range(ends[-1])]
    even, found = even_cuts(ends, count), searched_cuts(losses, ends, count, rounds=1000)
    value = sum(chunk_losses(losses, found))
    assert value <= sum(chunk_losses(losses, even)) + 1e-9
    assert len(found) == len(even)
    for number, step in itertools.product(range(len(found) - 1), (-1, 1)):
        place = ends.index(found[number]) + step
        moved = sorted({*found[:number], *found[number + 1 :], ends[place]}) if 0 <= place < len(ends) else []
        if len(moved) == len(found):
            assert sum(chunk_losses(losses, moved)) >= value - 1e-9


def test_chunk_losses_by_definition():
    assert chunk_losses([1.0, 2.0, 6.0, 4.0], [1, 4]) == pytest.approx([1.0, 4.0])
    assert chunk_losses(torch.tensor([1.0, 3.0]), [2]) == pytest.approx([2.0])


# answers
def test_what_is_not_worth_learning_is_counted_by_its_reason():
    answers = Answers(
        [ids("ab"), ids(""), ids("cd"), ids("abababab"), ids("b")], torch.tensor([True, True, False, True, True])
    )
    answers.tokens = [
        torch.cat([row, torch.tensor([2])]) if end else row for row, end in zip(answers.tokens, answers.finished)
    ]
    keep = AnswerFilter(stretch=2, repeats=3, required="a")
    kept, reasons = keep(answers, ["ab", "", "cd", "abababab", "b"])
    assert kept.tolist() == [True, False, False, False, False]
    assert reasons == {"empty": 1, "unfinished": 1, "repetitive": 1, "incomplete": 1}
    assert AnswerFilter(stretch=2, repeats=0)(answers, [""] * 5)[0].tolist() == [True, False, False, True, True]


def test_required_parts_may_stand_on_other_lines():
    answers = Answers([ids("a"), ids("b")], torch.tensor([True, True]))
    answers.tokens = [torch.cat([row, torch.tensor([2])]) for row in answers.tokens]
    keep = AnswerFilter(required=r"</think>\s*\S")
    assert keep(answers, ["thoughts</think>\n\nyes", "thoughts</think>\n"])[0].tolist() == [True, False]


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 4))
def test_repeats_are_counted_as_by_hand(tokens, length):
    stretches = [tokens[start : start + length] for start in range(max(0, len(tokens) - length + 1))]
    assert most_repeated(tokens, length) == max((stretches.count(one) for one in stretches), default=0)


def test_filters_out_of_range_are_named():
    with pytest.raises(ArgumentError, match="stretch=0"):
        AnswerFilter(stretch=0)
    with pytest.raises(ArgumentError, match=r"required='\(' is no regular expression"):
        AnswerFilter(required="(")
