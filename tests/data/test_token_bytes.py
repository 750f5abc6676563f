"""What tokens stand for: bytes and roles of byte-level, sentencepiece-like and plain tokenizers; equal tokenizers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.token_bytes import TokenBytes, same_tokens
from limbeck.data.tokenizer import train_tokenizer
from tokenizer_toys import BPE, BYTES, TEXTS, sentencepiece

tk = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


def plain():
    made = tk.Tokenizer(tk.models.WordLevel({"<unk>": 0, "a": 1, " ": 2, "é": 3}, unk_token="<unk>"))
    made.pre_tokenizer = tk.pre_tokenizers.Split(tk.Regex(r"[\s\S]"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def written(tokenizer, text):
    return TokenBytes(tokenizer)(tokenizer(text)["input_ids"])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20).filter(lambda text: "<|" not in text))
def test_the_bytes_of_the_tokens_are_those_of_the_text(text):
    for tokenizer in (BPE, BYTES):
        assert b"".join(written(tokenizer, text)) == text.encode()


def test_sentencepiece_writes_its_own_space_and_falls_back_on_bytes():
    assert written(sentencepiece(), "the cats é") == [b" the", b" cat", b"s", b" ", b"\xc3", b"\xa9"]
    assert written(sentencepiece(fallback=False), "the x")[-1] == "unknown"


def test_plain_strings_are_what_they_say():
    assert written(plain(), "a éb") == [b"a", b" ", "é".encode(), "unknown"]


def test_marks_have_roles_and_sizes_of_nothing():
    found = TokenBytes(BPE)
    ids = BPE("the<|end|><|user|> cat<|pad|>")["input_ids"]
    assert [piece for piece in found(ids) if isinstance(piece, str)] == ["end", "<|user|>", "pad"]
    assert found.sizes[ids].sum() == len("the cat")
    opening = [piece for piece, opens in zip(found.pieces, found.opens) if opens]
    assert {"end", b" cat", b" "} <= {*opening}
    assert all(piece == "end" or piece[:1].isspace() for piece in opening)
    stop = BPE.convert_tokens_to_ids("<|user|>")
    assert TokenBytes(BPE, stop).pieces[stop] == "end"
    bos = transformers.PreTrainedTokenizerFast(tokenizer_object=BPE.backend_tokenizer, bos_token="<|end|>")
    assert TokenBytes(bos).pieces[BPE.eos_token_id] == "begin"


def test_what_was_added_to_a_vocabulary_stands_as_it_is_written():
    more = train_tokenizer(TEXTS, 300)
    more.add_tokens(["né", "\n\n  "])
    assert written(more, "the né\n\n  ") == [b"the", b" ", "né".encode(), b"\n\n  "]


def test_equal_tokenizers():
    again = train_tokenizer(TEXTS, 300)
    assert same_tokens(BPE, again)
    again.chat_template = None
    again.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    assert same_tokens(BPE, again)
    assert same_tokens(again, BPE)
    assert not same_tokens(BPE, BYTES)
    assert not same_tokens(BYTES, BPE)
    # one vocabulary, other rules
    other = train_tokenizer(TEXTS, 300)
    other.backend_tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not same_tokens(BPE, other)
