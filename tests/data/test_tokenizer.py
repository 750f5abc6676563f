"""Tokenizers that are learnt from the texts: every text can be written, ends are marked, chats say what is answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.language_named import named_language
from limbeck.data.tokenizer import SMALLEST, as_tokenizer, texts_of, train_tokenizer
from limbeck.errors import ArgumentError, DataError, ModelError

TEXTS = ["a still keeps what mattered", "much goes in, little comes out"] * 20
LEARNT = train_tokenizer(TEXTS, 300)


@given(st.text(max_size=40))
def test_every_text_can_be_written_and_read_back(text):
    ids = LEARNT(text)["input_ids"]
    assert LEARNT.decode(ids) == text
    assert LEARNT.pad_token_id not in ids


def test_it_has_the_size_that_was_asked_for_and_merges_what_is_common():
    assert len(LEARNT) == 300
    bytes_only = train_tokenizer(TEXTS, SMALLEST)
    assert len(bytes_only) == SMALLEST == 261
    assert len(bytes_only("still")["input_ids"]) == 5 > len(LEARNT("still")["input_ids"])
    assert LEARNT.eos_token_id != LEARNT.pad_token_id


def test_its_template_marks_what_the_assistant_says():
    chat = [{"role": "user", "content": "in?"}, {"role": "assistant", "content": "much"}]
    found = LEARNT.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert LEARNT.decode(said) == "much" + LEARNT.eos_token
    asked = LEARNT.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert LEARNT.apply_chat_template(chat, tokenize=False).startswith(asked)


def test_words_for_tokenizers(tmp_path):
    assert len(as_tokenizer("bytes", lambda: TEXTS)) == 261
    assert len(as_tokenizer("bpe:280", lambda: TEXTS)) == 280
    assert as_tokenizer(LEARNT, lambda: TEXTS) is LEARNT
    LEARNT.save_pretrained(tmp_path)
    assert as_tokenizer(str(tmp_path), lambda: TEXTS)("out")["input_ids"] == LEARNT("out")["input_ids"]
    for wrong, error in (("bpe:12", ArgumentError), (7, ArgumentError), (str(tmp_path / "none"), ModelError)):
        with pytest.raises(error):
            as_tokenizer(wrong, lambda: TEXTS)


def test_all_that_is_written_is_learnt_from():
    chats = {
        "train": [{"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]}],
    }
    assert {"why?", "so."} <= set(texts_of(chats))
    assert list(texts_of({"train": ["one", "two"]})) == ["one", "two"]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "least"), [("wikitext2_small", 50), ("tiny_shakespeare", 5000), ("brown", 1000), ("gsm8k", 500)]
)
def test_texts_by_name(name, least):
    try:
        splits = named_language(name)
    except DataError as missing:
        pytest.skip(str(missing))
    assert len(splits["train"]) >= least
    assert len(splits["test"]) > 0
    first = splits["train"][0]
    if name == "gsm8k":
        assert "####" in first["response"] and first["prompt"].endswith(("?", "."))
    else:
        assert all(isinstance(text, str) and text.strip() for text in splits["train"])
    if name == "wikitext2_small":
        assert all(text.startswith("= ") for text in splits["train"][1:])
    assert named_language(["a text"]) == ["a text"]
