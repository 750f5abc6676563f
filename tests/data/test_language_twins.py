"""Samples as two tokenizers write them: the same texts, chunk by chunk, through cuts, packing, chats and streams."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from language_toys import CHATML, make_tokenizer
from limbeck.data.base import SubsetPart
from limbeck.data.language import load_language_data
from limbeck.data.language_twins import DIFFER, align
from limbeck.data.token_bytes import TokenBytes
from limbeck.data.tokenizer import train_tokenizer
from limbeck.errors import DataError
from limbeck.signals.step import count_items
from tokenizer_toys import BPE, BYTES, TEXTS, sentencepiece

OTHER = train_tokenizer(["and the rest, the dog, the mat " * 3], 290)


def load(spec, student=BYTES, teacher=BPE, **options):
    return load_language_data(spec, student, teacher=teacher, **{"valid": 0, "pack": False, **options})


def decoded(tokenizer, ids):
    return b"".join(piece for piece in TokenBytes(tokenizer)(ids) if isinstance(piece, bytes))


def rows(part, student=BYTES, teacher=BPE):
    """Of every row the text that student and teacher see, and the texts of the chunks that count, on both sides."""
    found = []
    batch = part.batch(range(len(part)))
    theirs = batch.extra["twin"]
    for number in range(len(part)):
        ids = [
            side["input_ids"][number][side["attention_mask"][number] > 0].tolist()
            for side in (batch.inputs, theirs["inputs"])
        ]
        sides = []
        for name, labels, tokenizer in (("student", batch.labels, student), ("teacher", theirs["labels"], teacher)):
            chunks = batch.extra["chunks"][name][number]
            assert (chunks[labels[number] == -100] == -1).all()
            texts = {}
            for chunk, token in zip(chunks.tolist(), labels[number].tolist()):
                if chunk >= 0 and batch.extra["populations"]["chunk"][number, chunk]:
                    texts[chunk] = texts.get(chunk, b"") + decoded(tokenizer, [token])
            sides.append(texts)
        assert sides[0] == sides[1]
        found.append((decoded(student, ids[0]), decoded(teacher, ids[1]), [sides[0][key] for key in sorted(sides[0])]))
    return found


# alignment
def test_marks_pair_by_role_and_never_by_bytes():
    one = ["begin", b"ab", b"c", "end"]
    two = [b"a", b"bc", "end"]
    chunks, other, words, marks = align(one, two)
    assert (chunks.tolist(), other.tolist(), words.tolist()) == ([-1, 0, 0, 1], [0, 0, 1], [0, 1])
    assert marks.tolist() == [False, True]
    assert align([b"ab", "end"], [b"ab", "<tool>"]) is None
    assert align([b"ab", "end"], [b"ab", b"<end>"]) is None
    assert align([b"ab"], [b"abc"]) is None


def test_white_space_around_a_text_goes_to_the_chunk_that_it_touches():
    chunks, other, _, _ = align([b" ", b"the", b" cat", "end"], [b"the", b" c", b"at", b"\n", "end"])
    assert chunks.tolist() == [0, 0, 1, 2]
    assert other.tolist() == [0, 1, 1, 1, 2]


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=25).filter(lambda text: text.strip() and "<|" not in text))
def test_two_tokenizers_align_on_any_text(text):
    pieces = [[*TokenBytes(t)(t(text)["input_ids"]), "end"] for t in (BPE, OTHER)]
    chunks, other, words, marks = align(*pieces)
    for number in range(len(words)):
        sides = [
            [piece for piece, chunk in zip(side, found) if chunk == number]
            for side, found in zip(pieces, (chunks, other))
        ]
        mine, theirs = (b"".join(p if isinstance(p, bytes) else p.encode() for p in side) for side in sides)
        assert mine == theirs != b""
        assert marks[number] == (mine == b"end" and number == len(words) - 1)
    assert (np.diff(words) >= 0).all()
    assert (np.diff(words) <= 1).all()


# rows
def test_texts_in_both_tokenizations():
    data = load(["the cat sat", "naïve café"])
    assert [row[:2] for row in rows(data.train)] == [(text.encode(),) * 2 for text in ("the cat sat", "naïve café")]
    # the first token of a text is predicted by neither, and its chunk left out; the end is a chunk
    first = rows(data.train)[0][2]
    assert b"".join(first) == b"the cat sat"[-len(b"".join(first)) :]
    assert len(first) == len(BPE("the cat sat")["input_ids"])
    assert data.train.tokenizations == 2
    assert data.about["tokenizer"].count(" ") == 1


def test_one_tokenizer_twice_gives_one_token_a_chunk():
    part = load(TEXTS, BPE, BPE).train
    batch = part.batch(range(len(part)))
    assert torch.equal(batch.inputs["input_ids"], batch.extra["twin"]["inputs"]["input_ids"])
    counts = count_items(batch)
    assert counts["chunk"] == counts["token"] == counts["chunk token"]


@pytest.mark.parametrize("long", ["split", "end", "start"])
def test_cuts_leave_the_same_text_on_both_sides(long):
    text = " ".join(TEXTS)
    part = load([text], length=40, long=long, teacher_length=16).train
    found = rows(part)
    for row in found:
        assert row[0] == row[1]
    batch = part.batch(range(len(part)))
    assert batch.inputs["input_ids"].shape[1] <= 40
    assert batch.extra["twin"]["inputs"]["input_ids"].shape[1] <= 16
    if long == "split":  # every chunk but the first is compared once, the last one is the end
        whole = rows(load([text], length=10000).train)[0][2]
        assert [chunk for row in found for chunk in row[2]] == whole
        assert int((batch.labels != -100).sum()) == len(text.encode())
    else:
        assert text.encode().startswith(found[0][0]) if long == "end" else text.encode().endswith(found[0][0])


def test_what_cannot_be_cut_is_left_out_and_said():
    data = load([" ".join(TEXTS), "the cat"], length=12, long="drop")
    assert len(data.train) == 1
    assert "longer than the student's or the teacher's length" in data.about["warnings"][0]
    with pytest.raises(
        DataError, match=r"has \d+ tokens of the student and \d+ of the teacher, the lengths are 12 and"
    ):
        load([" ".join(TEXTS)], length=12, long="error")
    wide = train_tokenizer(["internationalisation"] * 9, 300)  # one token, of which no half can be had
    with pytest.raises(DataError, match="no cut leaves"):
        load(["internationalisation internationalisation"], teacher=wide, length=8)


def test_prompts_and_responses():
    data = load([{"prompt": "the cat", "response": "sat on"}], template="plain")
    seen, same, chunks = rows(data.train)[0]
    assert seen == same == b"the cat\nsat on"
    assert b"".join(chunks) == b"sat on"
    assert len(chunks) == len(BPE("sat on")["input_ids"]) + 1
    short = load([{"prompt": " ".join(TEXTS), "response": "sat on"}], template="plain", length=20, long="start")
    seen, same, chunks = rows(short.train)[0]
    assert seen == same
    assert b"".join(chunks) == b"sat on"


def test_a_sentencepiece_teacher_and_its_spaces():
    teacher = sentencepiece()
    teacher.add_special_tokens({"eos_token": "</s>"})
    data = load([{"prompt": "the cat", "response": "the cats"}, {"prompt": "", "response": "é"}], BYTES, teacher,
                template="plain")  # fmt: skip
    batch = data.train.batch([0, 1])
    # the answer is aligned by itself: the teacher writes a space before it that stands nowhere in the text
    # of the text without a prompt the first byte is predicted by the teacher only, which has that space before it
    assert batch.extra["populations"]["chunk token"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]
    assert batch.extra["populations"]["word"][0].tolist() == [1, 1, 1]


def test_chats_with_different_templates_are_compared_answer_by_answer():
    student = make_tokenizer(CHATML)
    teacher = train_tokenizer([], 261)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c, d"},
            {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]  # fmt: skip
    batch = load([chat], student, teacher).train.batch([0])
    chunks = batch.extra["populations"]["chunk token"][0]
    assert chunks.tolist() == [1] * 9  # six characters and the end, one and the end: nothing of the headers
    ids, labels = batch.inputs["input_ids"][0], batch.labels[0]
    assert decoded(student, labels[labels != -100]) == b"b c, de"
    assert b"assistant" in decoded(student, ids)
    ids = batch.extra["twin"]["inputs"]["input_ids"][0]
    assert b"assistant" not in decoded(teacher, ids)


def test_texts_that_differ_are_left_out():
    words = make_tokenizer()  # knows no q as a part of words
    data = load(["a b", "a zebra", "b a"], words, BYTES)
    assert data.about["left_out"]["train"] == {DIFFER: 1}
    with pytest.raises(DataError, match=DIFFER):
        load(["zebra"], words, BYTES)


def test_packed_rows_hold_the_chunks_of_their_documents():
    texts = ["the cat", "sat on the mat", "and", "the dog did not"]
    packed, single = load(texts, pack=True, length=32).train, load(texts).train
    assert len(packed) < len(single)
    batch = packed.batch(range(len(packed)))
    assert "position_ids" in batch.extra["twin"]["inputs"]
    counts = [count_items(part.batch(range(len(part)))) for part in (packed, single)]
    for kind in ("chunk", "chunk token", "word", "word token"):
        assert counts[0][kind] == counts[1][kind] > 0
    for name in ("student", "teacher"):  # chunks go on counting from document to document
        for row in batch.extra["chunks"][name]:
            known = row[row >= 0]
            assert (known.diff() >= 0).all()


def test_subsets_and_batches_of_one_agree():
    part = load(TEXTS[:2]).train
    whole, alone = part.batch([0, 1]), SubsetPart(part, torch.tensor([1])).batch([0])
    size = int(alone.extra["populations"]["chunk"].sum())
    assert size == int(whole.extra["populations"]["chunk"][1].sum())
    assert alone.extra["twin"]["labels"].shape[1] == part.theirs.width
    assert part.with_labels(None).batch([0]).labels is None


def test_preference_pairs_carry_both():
    data = load([{"prompt": "the cat", "chosen": "sat on", "rejected": "did not"}], template="plain")
    batch = data.train.batch([0])
    assert data.train.tokenizations == 2
    assert batch.extra["populations"]["chunk"].shape[0] == 2


def test_words_are_chunks_that_end_at_spaces():
    part = load(["the cat sat on the mat"]).train
    batch = part.batch([0])
    words = batch.extra["chunks"]["words"][0]
    texts = rows(part)[0][2]
    joined = {}
    worth = batch.extra["populations"]["chunk"][0]
    for chunk, word in zip([c for c in range(len(words)) if worth[c]], texts):
        joined[int(words[chunk])] = joined.get(int(words[chunk]), b"") + word
    kept = [joined[w] for w in sorted(joined) if batch.extra["populations"]["word"][0, w]]
    assert kept == [b" cat", b" sat", b" on", b" the", b" mat", b""]


def test_a_stream_reads_both_and_goes_on_where_it_stopped(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"the cat {number}, {TEXTS[number % 2]}"}) + "\n" for number in range(23))
    )
    stream = load(str(file), stream=True, buffer=7, length=64).train
    assert stream.tokenizations == 2
    reader = stream.open(2)
    seen = [next(reader) for _ in range(4)]
    assert all((batch.extra["populations"]["chunk"].sum(1) > 0).all() for batch in seen)
    state = json.loads(json.dumps(reader.state_dict()))
    again = stream.open(2, state)
    for _ in range(6):
        one, other = next(reader), next(again)
        assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
        for name in ("student", "teacher", "words", "marks"):
            assert torch.equal(one.extra["chunks"][name], other.extra["chunks"][name])
