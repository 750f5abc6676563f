"""Docstrings as documents: which are taken, how they are split, and that nothing is imported or left to chance."""

import sys

import pytest

from limbeck.data.docstrings import STANDARD, collect, sentences, split
from limbeck.errors import DataError
from search_toys import DEEDS, THINGS, library

REST = "word " * 30


@pytest.fixture
def toylib(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return library(tmp_path)


def test_public_docstrings_are_found_without_an_import(toylib):
    found = collect(["toylib", "no_such_library"])
    assert {one.name for one in found} == {f"toylib.{thing}.do_{deed}" for thing in THINGS for deed in DEEDS}
    assert "toylib" not in sys.modules
    one = next(one for one in found if one.name == "toylib.one.do_nine")
    assert one.first == "It is one that nine one nine."
    assert one.rest.startswith("Here one nine one")
    assert one.library == "toylib"


def test_the_choice_is_the_same_and_spread(toylib):
    few = collect(["toylib"], most=24)
    assert few == collect(["toylib"], most=24)
    assert few == collect(["toylib"])[:24]
    assert len({one.name.split(".")[1] for one in few}) >= 4
    assert len(collect([STANDARD], most=30)) == 30


def test_doubles_are_there_once(toylib):
    text = (toylib / "one.py").read_text()
    (toylib / "copy.py").write_text(text)
    assert len(collect(["toylib"])) == len(THINGS) * len(DEEDS)


@pytest.mark.parametrize(("docstring", "first"), [
    (f"Give the first number back. {REST}", None),  # what follows begins with a small letter: still the first sentence
    (f"Give the first number back. Then {REST}", "Give the first number back."),
    (f"Give the first\n    number back\n\n    {REST}", "Give the first number back"),
    (f"=====\nA head of four words\n=====\n\n{REST}", "A head of four words"),
    (f"Too short.\n\n{REST}", None),
    ("Give the first number back.\n\nThe rest is short.", None),
    (f">>> give the first number\n\n{REST}", None),
    (f"support only the first number.\n\n{REST}", None),
    (f"Count (`int`, optional): how many of them\n\n{REST}", None),
])  # fmt: skip
def test_a_docstring_is_split_after_its_first_sentence(docstring, first):
    found = split(docstring)
    assert (found and found[0]) == first
    if found:
        assert found[0] not in found[1]
        assert found[1].split()[-25:] == REST.split()[:25]


def test_sentences_are_on_one_line_and_have_words():
    assert sentences("One two three. Four\nfive six.\n\nSeven eight\n\nNine ten eleven") == [
        "One two three.", "Four five six.", "Nine ten eleven"]  # fmt: skip


def test_no_library_is_an_error():
    with pytest.raises(DataError, match="none of no_such_library"):
        collect(["no_such_library"])
