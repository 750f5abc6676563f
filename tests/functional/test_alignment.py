"""Two tokenizations of one text: chunks against a walk over both, properties, golden cases, sums."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.functional import chunk_rows, chunk_sums, shared_chunks, words_of_chunks


def walk(ends, other):
    """Chunks as (tokens, other tokens): the side that is behind goes on; where both end, a chunk does."""
    found, i, j, begin = [], 0, 0, (0, 0)
    while i < len(ends) and j < len(other):
        if ends[i] == other[j]:
            i, j = i + 1, j + 1
            found.append((range(begin[0], i), range(begin[1], j)))
            begin = (i, j)
        elif ends[i] < other[j]:
            i += 1
        else:
            j += 1
    return found


@st.composite
def tokenizations(draw):
    """A text and the ends of the tokens of two tokenizations of it, without empty tokens."""
    text = draw(st.binary(min_size=1, max_size=30))
    inner = st.lists(st.sampled_from(range(1, len(text))), unique=True) if len(text) > 1 else st.just([])
    return text, *(np.array([*sorted(draw(inner)), len(text)]) for _ in range(2))


@settings(deadline=None)
@given(tokenizations())
def test_chunks_are_those_of_a_walk_and_have_the_same_bytes(case):
    text, ends, other = case
    mine, theirs, chunk_ends = shared_chunks(ends, other)
    expected = walk(ends, other)
    assert mine.tolist() == [number for number, (span, _) in enumerate(expected) for _ in span]
    assert theirs.tolist() == [number for number, (_, span) in enumerate(expected) for _ in span]
    starts = [0, *chunk_ends[:-1]]
    for number, (start, end) in enumerate(zip(starts, chunk_ends)):
        for chunks, sides in ((mine, ends), (theirs, other)):
            places = np.flatnonzero(chunks == number)
            begins = np.r_[0, sides[:-1]]
            joined = b"".join(text[begins[k] : sides[k]] for k in places)
            assert joined == text[start:end] != b""
            assert places.tolist() == list(range(places[0], places[-1] + 1))


@settings(deadline=None)
@given(tokenizations())
def test_equal_tokenizations_give_one_chunk_a_token_and_sides_can_be_exchanged(case):
    _, ends, other = case
    mine, theirs, chunk_ends = shared_chunks(ends, ends)
    assert mine.tolist() == theirs.tolist() == list(range(len(ends)))
    assert chunk_ends.tolist() == ends.tolist()
    there, back = shared_chunks(ends, other), shared_chunks(other, ends)
    assert (there[0].tolist(), there[1].tolist()) == (back[1].tolist(), back[0].tolist())


@settings(deadline=None)
@given(tokenizations())
def test_words_are_the_chunks_that_a_walk_from_space_to_space_gives(case):
    text, ends, other = case
    *_, chunk_ends = shared_chunks(ends, other)
    expected, number = [], 0
    for end in chunk_ends:
        expected.append(number)
        number += end == len(text) or text[end : end + 1].isspace()
    assert words_of_chunks(text, chunk_ends).tolist() == expected


def test_tokens_without_bytes_belong_where_they_stand():
    mine, theirs, _ = shared_chunks(np.array([0, 2, 2, 5]), np.array([2, 5, 5]))
    assert mine.tolist() == [0, 0, 0, 1]
    assert theirs.tolist() == [0, 1, 1]
    nothing = shared_chunks(np.array([0, 0]), np.zeros(0, dtype=np.int64))
    assert [part.tolist() for part in nothing] == [[-1, -1], [], []]


@pytest.mark.parametrize(("ends", "other"), [([2, 4], [4, 5]), ([2, 1, 4], [4]), ([-1, 4], [4]), ([], [3])])
def test_what_is_no_tokenization_of_one_text_is_refused(ends, other):
    with pytest.raises(ArgumentError, match="end"):
        shared_chunks(np.array(ends, dtype=np.int64), np.array(other, dtype=np.int64))


def test_sums_over_chunks_by_hand():
    values = torch.tensor([[1.0, 2, 3, float("nan")], [5, 6, 7, 8]], dtype=torch.float64, requires_grad=True)
    chunks = torch.tensor([[0, 0, 2, -1], [-1, 1, 1, 1]])
    sums = chunk_sums(values, chunks, 3)
    assert sums.tolist() == [[3, 0, 3], [0, 21, 0]]
    (sums * torch.tensor([[1.0, 10, 100], [1, 10, 100]])).sum().backward()
    assert values.grad.tolist() == [[1, 1, 100, 0], [0, 10, 10, 10]]


def golden(name):
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    file = json.loads((folder / "index.json").read_text())["language-models"][name]["file"]
    return dict(np.load(folder / file))


def groups(chunks):
    return [np.flatnonzero(chunks == number).tolist() for number in range(chunks.max() + 1)]


@pytest.mark.shared_data
def test_byte_offsets_align_as_in_released_code():
    case = golden("byte-align")
    mine, theirs, _ = shared_chunks(*(case[f"in_{side}_byte_offsets"][:, 1] for side in ("student", "teacher")))
    for chunks, side in ((mine, "student"), (theirs, "teacher")):
        assert groups(chunks) == [[k for k in row if k >= 0] for row in case[f"out_{side}_groups"].tolist()]


@pytest.mark.shared_data
def test_strings_align_as_in_released_code():
    case = golden("token-alignment")
    ends = [np.cumsum([len(t.encode()) for t in case[f"in_{side}_tokens"].tolist()]) for side in ("teacher", "student")]
    teacher, student, _ = shared_chunks(*ends)
    spans = [[t[0], t[-1] + 1, s[0], s[-1] + 1] for t, s in zip(groups(teacher), groups(student))]
    assert spans == case["out_spans"].tolist()


def test_rows_that_stand_for_chunks_by_hand():
    values = torch.tensor([[-1.0, -2, -4, -8], [-16, -32, -64, -128]])
    chunks = torch.tensor([[0, 0, -1, 1], [-1, 2, 2, 2]])
    rows, mass = chunk_rows(values, chunks, 3)
    assert rows.tolist() == [[0, 3, 0], [0, 0, 1]]
    assert mass.tolist() == [[-2, 0, 0], [0, 0, -192]]
    rows, mass = chunk_rows(values, chunks, 3, "bayesian")
    assert rows.tolist() == [[1, 3, 0], [0, 0, 3]]
    assert mass.tolist() == [[-1, 0, 0], [0, 0, -96]]


@pytest.mark.shared_data
def test_chunks_are_merged_as_in_released_code():
    case = {key: torch.from_numpy(value) for key, value in golden("merge-split-tokens").items()}
    probabilities, ids, groups = case["in_probs"], case["in_token_ids"], case["in_group_of_position"]
    values = probabilities.gather(1, ids[:, None])[:, 0].log()
    rows, mass = chunk_rows(values[None], groups[None], len(case["out_merged"]))
    torch.testing.assert_close(
        probabilities[rows[0]] * mass[0].exp()[:, None], case["out_merged"], rtol=1e-6, atol=1e-9
    )
