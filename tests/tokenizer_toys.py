"""Small tokenizers of every kind: byte-level BPE, bytes, sentencepiece-like; for tests of what their tokens stand for."""

import pytest

from limbeck.data.tokenizer import train_tokenizer

tk = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = ["the cat sat on the mat, and the dog did not", "naïve café, 東京 and the rest of the world"] * 3
BPE = train_tokenizer(TEXTS, 300)
BYTES = train_tokenizer([], 261)


def sentencepiece(fallback=True):
    """Unigram with a space before every text, and bytes for what it does not know."""
    pieces = [("<unk>", 0.0), ("▁", -3.0), ("▁the", -1.0), ("▁cat", -1.5), ("t", -4.0), ("s", -4.0)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)] if fallback else []
    made = tk.Tokenizer(tk.models.Unigram(pieces, unk_id=0, byte_fallback=fallback))
    made.pre_tokenizer = tk.pre_tokenizers.Metaspace()
    steps = [
        tk.decoders.Replace("▁", " "),
        tk.decoders.ByteFallback(),
        tk.decoders.Fuse(),
        tk.decoders.Strip(" ", 1, 0),
    ]
    made.decoder = tk.decoders.Sequence(steps)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
