"""Small encoders of texts as Transformers has them: a tokenizer of whole words with special tokens, a BERT of two layers."""

from __future__ import annotations

import pytest
import torch

from limbeck.recipes.toy_embedding import WORDS
from limbeck.students.declare import seeded
from limbeck.students.encoders import around

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TEXTS = [f"{a} {b} and {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[:3]]


def make_tokenizer(side: str = "right"):
    """[CLS] words [SEP]; what is no word of WORDS is left out by the normalizer."""
    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex("[^a-z ]"), "")
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        padding_side=side, model_max_length=32,
    )  # fmt: skip


def encoder(width: int = 16, seed: int = 0, side: str = "right", **options):
    """A sentence encoder with random weights, larger than usual so that its vectors differ."""
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    with seeded(seed):
        body = transformers.BertModel(config, add_pooling_layer=False)
    body.tokenizer = make_tokenizer(side)
    return around(body.eval(), seed=seed, **options).eval()


def same(found, expected, atol: float = 1e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=atol, rtol=0)
