"""DASD's sentences: probabilities by definition, whose each is, and the case computed elsewhere."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.shared import find_golden
from limbeck.errors import ArgumentError, DataError
from limbeck.functional import sentence_kinds, sentence_probabilities, teacher_share

ANSWERS = st.lists(st.lists(st.floats(-8, 0), min_size=1, max_size=5), min_size=1, max_size=5)


@given(ANSWERS)
def test_probabilities_are_geometric_means(sentences):
    flat = torch.tensor([value for one in sentences for value in one], dtype=torch.float64)
    number = torch.tensor([place for place, one in enumerate(sentences) for _ in one])
    expected = [np.prod(np.exp(one)) ** (1 / len(one)) for one in sentences]
    assert sentence_probabilities(flat, number).tolist() == pytest.approx(expected)


def test_a_sentence_belongs_to_whom_it_is_likelier_under():
    teacher, student = torch.tensor([0.9, 0.3, 0.5, 0.61]), torch.tensor([0.2, 0.8, 0.5, 0.5])
    kinds = sentence_kinds(teacher, student)
    assert kinds.tolist() == [1, -1, 0, 1]
    assert sentence_kinds(student, teacher).tolist() == [-1, 1, 0, -1]
    assert sentence_kinds(teacher, student, threshold=0.5).tolist() == [1, 0, 0, 0]
    assert teacher_share(kinds) == 0.5
    assert teacher_share(torch.zeros(0)) == 0.0


def test_shapes_and_thresholds_are_checked():
    with pytest.raises(ArgumentError, match=r"\[3\], sentence \[2\]"):
        sentence_probabilities(torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ArgumentError, match=r"threshold=1\.5"):
        sentence_kinds(torch.zeros(1), torch.zeros(1), threshold=1.5)


@pytest.mark.shared_data
def test_the_case_computed_independently():
    try:
        folder = find_golden()
    except DataError as missing:
        pytest.skip(str(missing))
    entry = json.loads((folder / "index.json").read_text())["language-models"]["dasd-sentence-probabilities"]
    case = {key: torch.tensor(value) for key, value in np.load(folder / entry["file"]).items()}
    found = [
        sentence_probabilities(case[f"in_{who}_logprobs"], case["in_sentence_id"]) for who in ("teacher", "student")
    ]
    torch.testing.assert_close(found[0], case["out_teacher"])
    torch.testing.assert_close(found[1], case["out_student"])
    torch.testing.assert_close(found[0] - found[1], case["out_gap"])
