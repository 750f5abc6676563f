"""The toy of the recipes for vectors: texts of a few words, a teacher that knows how they follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.data.base import Data, Part, TextPart
from limbeck.data.rankings import RankingPart
from limbeck.data.texts import text_part
from limbeck.data.translations import translated_part
from limbeck.students.bert import bert_config
from limbeck.students.declare import seeded
from limbeck.students.encoders import SentenceEncoder, StaticEncoder, around
from limbeck.students.rankers import Kind, Ranker, VectorRanker, ranker
from limbeck.teachers.base import ModuleTeacher

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "and", "or", "not", "of"]


class ToyTokens:
    """A number for each known word; between the special tokens 0 and 1 where asked."""

    size = len(WORDS) + 2
    pad_token_id, nothing, padding_side = size, size + 1, "right"

    def __init__(self, special: bool = False):
        self.special = special

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        rows = [[2 + WORDS.index(word) for word in text.split() if word in WORDS] for text in texts]
        return {"input_ids": [[0, *row, 1] if self.special else row or [self.nothing] for row in rows]}


class ToyEncoder(nn.Module):
    """The mean over tokens of what a token and its forerunners make, of length 1. [batch, tokens] to [batch, width]."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.tokenizer = ToyTokens(special=True)
        self.embedding = nn.Embedding(ToyTokens.size + 2, width)
        self.mix = nn.Linear(2 * width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, mask = self.embedding(input_ids), attention_mask[..., None].float()
        past = (x * mask).cumsum(1) / mask.cumsum(1).clamp(min=1)
        hidden = torch.tanh(self.mix(torch.cat([x, past], -1)))
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def embedding_toy(width: int = 12, translated: bool = False) -> tuple[Data, StaticEncoder, ModuleTeacher]:
    """48 texts, a static student with random rows, and its teacher; `translated` into a language that calls words otherwise."""
    draw = torch.Generator().manual_seed(0)
    texts: list[str] = []
    while len(texts) < 48:
        length = int(torch.randint(2, 7, (), generator=draw))
        text = " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=draw).tolist())
        texts += [text] * (text not in texts)
    parts: dict[str, Part] = {"train": text_part("train", texts[:40]), "test": text_part("test", texts[40:])}
    if translated:
        other = dict(zip(WORDS, WORDS[1:] + WORDS[:1]))
        pairs = [(text, " ".join(other[word] for word in text.split())) for text in texts]
        parts = {"train": translated_part("train", pairs[:40]), "test": translated_part("test", pairs[40:])}
    about = {"prompts": {"query": "", "document": ""}}
    with seeded(0):
        teacher, student = ToyEncoder(width), StaticEncoder(ToyTokens.size, width, width)
    student.tokenizer = ToyTokens()
    student.limbeck_fresh = True  # type: ignore[assignment]
    return Data("toy", "text", parts, "none", about=about), student, ModuleTeacher(teacher.eval())


def ranking_toy(kind: Kind | None = None) -> tuple[Data, Ranker, ModuleTeacher]:
    """24 queries with three candidates each, a ranker of static vectors, and another one as its teacher; `kind`: of BERTs."""
    texts = embedding_toy()[0].train.texts  # type: ignore[attr-defined]
    rows = [[texts[(i + step) % 40] for step in (3, 11, 19)] for i in range(24)]
    parts: dict[str, Part] = {
        "train": RankingPart("train", texts[:16], rows[:16]), "test": RankingPart("test", texts[16:24], rows[16:]),
    }  # fmt: skip
    if kind is not None:
        _, one, other = words_toy()
        student, teacher = ranker(kind, one), ranker(kind, other.module)  # type: ignore[arg-type]
    else:
        with seeded(0):
            student, teacher = (VectorRanker(StaticEncoder(ToyTokens.size, 12, 12)) for _ in range(2))
        for module in (student, teacher):
            module.encoder.tokenizer = ToyTokens()
    return Data("toy", "text", parts, "none"), student, ModuleTeacher(teacher.eval())


def words_tokenizer() -> Any:
    """A tokenizer of Transformers that splits most words in two. Needs `language`."""
    tokenizers, transformers = need("tokenizers", "language"), need("transformers", "language")
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(word[:2] for word in WORDS),
        *(f"##{word[2:]}" for word in WORDS if word[2:]),
    ]
    known = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(known, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def words_toy() -> tuple[Data, SentenceEncoder, ModuleTeacher]:
    """The same texts, a small BERT whose tokenizer splits most words in two, and its copy as a student. Needs `language`."""
    tokenizer, transformers = words_tokenizer(), need("transformers", "language")
    config = bert_config(tokenizer, layers=2, width=16, heads=2, ffn=32, max_length=32, dropout=0.0)
    config.initializer_range = 0.3
    models = []
    for _ in range(2):
        with seeded(0):
            body = transformers.BertModel(config, add_pooling_layer=False)
        body.tokenizer = tokenizer
        models.append(around(body.eval()))
    return embedding_toy()[0], models[0], ModuleTeacher(models[1].eval())


def encoder_toy(student: int = 2, teacher: int = 4, width: int = 16) -> tuple[Data, nn.Module, ModuleTeacher]:
    """The same texts in four classes, some unlabelled, a BERT as the teacher, a shallower one as the student."""
    from limbeck.students.build import text_encoder

    texts: list[str] = embedding_toy()[0].train.texts + embedding_toy()[0].parts["test"].texts  # type: ignore[attr-defined]
    labels = torch.tensor([WORDS.index(text.split()[0]) % 4 for text in texts])
    train = labels[:40].clone()
    train[30:] = -100
    parts: dict[str, Part] = {
        "train": TextPart("train", texts[:40], train),
        "valid": TextPart("valid", texts[40:], labels[40:]),
    }
    tokenizer = words_tokenizer()
    with seeded(0):
        models = [text_encoder(4, tokenizer, layers, size, heads=2, ffn=32, max_length=32, dropout=0.0)
                  for layers, size in ((student, width), (teacher, 16))]  # fmt: skip
    return Data("toy", "text", parts, classes=list("abcd")), models[0], ModuleTeacher(models[1].eval())
