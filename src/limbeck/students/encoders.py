"""Models that give a text one vector: a Transformers body with a pooling, and a table of token vectors.

    teacher = sentence_encoder_of("path/or/hub/name")
    teacher.encode(["two texts", "or more"])          # NumPy [texts, width]

Both take `input_ids` and `attention_mask` and give [batch, width], normalised where the teacher's vectors are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, nearest
from limbeck.evaluation.modes import evaluating
from limbeck.students.bert import bert_config
from limbeck.students.declare import builder, whole
from limbeck.students.encoder_grams import HashedGrams, read_tokens
from limbeck.students.encoder_tokens import PlainTokens

POOLINGS = ("mean", "cls", "last")
TOGETHER = 32  # texts of like length that a body without gradient sees at once


class Encoder(nn.Module):
    """A module from token ids to one vector a text, with what `encode` needs: a tokenizer and a length."""

    tokenizer: Any = None
    width: int
    normalize: bool
    projection: nn.Linear | None
    max_length: int | None = None
    prompts: dict[str, str] | None = None  # before a "query" and a "document", where what was loaded states them

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        arguments = self.__dict__.get("limbeck_spec", {"arguments": {}})["arguments"]
        if name in ("normalize", "pooling", "max_length") and name in arguments:
            arguments[name] = value  # what is set later is saved too

    def encode(self, texts: Sequence[str], *, batch_size: int = 512, prompt: str = "",
               progress: Callable[[int, int], None] | None = None) -> np.ndarray:  # fmt: skip
        """The vectors of texts, [texts, width] float32, where the module lies, without gradient.

        `prompt` is put before each text, as a teacher wants that was trained with prompts.
        """
        if isinstance(texts, str):
            raise ArgumentError("encode takes a list of texts, not one text: encode([text]).")
        texts = [prompt + text for text in texts] if prompt else list(texts)
        found = np.empty((len(texts), self.width), dtype=np.float32)
        with evaluating(self), torch.inference_mode():
            for begin in range(0, len(texts), batch_size):
                found[begin : begin + batch_size] = self.read(texts[begin : begin + batch_size]).float().cpu().numpy()
                if progress is not None:
                    progress(min(begin + batch_size, len(texts)), len(texts))
        return found

    def finish(self, vectors: Tensor) -> Tensor:
        """From pooled to final vectors."""
        if self.projection is not None:
            vectors = self.projection(vectors)
        vectors = vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def read(self, texts: Sequence[str]) -> Tensor:
        """The vectors of some texts, [texts, width]."""
        from limbeck.tasks.text import tokenize

        return self(**tokenize(self, texts, self.max_length))


class SentenceEncoder(Encoder):
    """A Transformers body, one vector out of its last hidden states, a linear map where it has one, L2 norm 1 if asked."""

    limbeck_settings = {"learning_rate": 2e-4, "batch_size": 32, "clip": 1.0, "schedule": "linear", "warmup": 0.1}

    def __init__(self, body: nn.Module, pooling: str = "mean", normalize: bool = True, outputs: int | None = None,
                 max_length: int | None = None):  # fmt: skip
        super().__init__()
        if pooling not in POOLINGS:
            raise ArgumentError(f"pooling={pooling!r}.{nearest(pooling, POOLINGS)}")
        inner = int(body.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.body, self.pooling, self.normalize, self.max_length = body, pooling, normalize, max_length
        self.projection = nn.Linear(inner, outputs) if outputs is not None and outputs != inner else None
        self.width = inner if outputs is None else outputs

    @property
    def config(self) -> Any:
        """The body's: what says how many positions it has."""
        return self.body.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if getattr(self.tokenizer, "padding_side", "right") == "left":
            input_ids, mask = to_front(input_ids, mask)  # padding on the left would move the positions
        return self.finish(pooled(self.body(input_ids=input_ids, attention_mask=mask)[0], mask, self.pooling))

    def together(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As `forward`, in groups of texts of like length, each no longer than its longest: less work on padding."""
        if len(input_ids) <= TOGETHER:
            return self(input_ids, attention_mask)
        lengths = attention_mask.sum(1)
        order = lengths.argsort(descending=True)
        left, found = bool((attention_mask[:, 0] == 0).any()), []
        for rows in order.split(TOGETHER):
            most = max(int(lengths[rows[0]]), 1)
            here = slice(attention_mask.shape[1] - most, None) if left else slice(0, most)
            found.append(self(input_ids[rows, here], attention_mask[rows, here]))
        every = torch.cat(found)
        return torch.empty_like(every).index_copy(0, order, every)

    def read(self, texts: Sequence[str]) -> Tensor:
        """The vectors of some texts, [texts, width]."""
        from limbeck.tasks.text import tokenize

        return self.together(**tokenize(self, texts, self.max_length))


def to_front(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask [batch, tokens], each text turned so that it begins at its first token: padding is then on the right."""
    places = (mask.argmax(1, keepdim=True) + torch.arange(mask.shape[1], device=mask.device)) % mask.shape[1]
    return input_ids.gather(1, places), mask.gather(1, places)


def pooled(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector out of hidden states [batch, tokens, width] and mask [batch, tokens]: [batch, width].

    "mean" over the tokens of the mask, "cls" the first of them, "last" the last of them.
    """
    if pooling == "mean":
        weight = mask.to(hidden.dtype)
        return (hidden * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
    place = torch.arange(mask.shape[1], device=mask.device)
    inside = mask != 0
    at = (
        torch.where(inside, place, mask.shape[1]).amin(1)
        if pooling == "cls"
        else torch.where(inside, place, -1).amax(1)
    )
    return hidden[torch.arange(len(hidden), device=hidden.device), at.clamp(0, mask.shape[1] - 1)]


class StaticEncoder(Encoder):
    """A text is the mean of its tokens' vectors, one row of a table each; no layer mixes them.

    With `pairs`, hashed pairs of neighbouring tokens have rows in a second table, and count like tokens. With a `width` other
    than `outputs`, a linear map follows, which is part of the model: student and teacher stay in one space. The length of a
    row is its weight. The two last rows are padding (zeros) and what stands for a text without tokens.
    """

    limbeck_settings = {"learning_rate": 3e-3, "batch_size": 256, "epochs": 5, "schedule": "linear", "warmup": 0.0}

    def __init__(self, vocabulary: int, outputs: int, width: int, pairs: int = 0, normalize: bool = True):
        super().__init__()
        self.vocabulary, self.width, self.pairs, self.normalize = vocabulary, outputs, pairs, normalize
        self.table = _rows(vocabulary + 2, width, vocabulary)
        self.pair_table = _rows(pairs + 1, width, pairs) if pairs else None
        if self.pair_table is not None:
            nn.init.zeros_(self.pair_table.weight)  # it begins as the table alone, which pairs then correct
        self.projection = nn.Linear(width, outputs) if width != outputs else None
        self._tokens: PlainTokens | HashedGrams | None = None

    @property
    def tokenizer(self) -> PlainTokens | HashedGrams | None:  # type: ignore[override]
        return self._tokens

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        tokens = value if hasattr(value, "nothing") else PlainTokens.of(value)
        if tokens.size != self.vocabulary:
            raise ArgumentError(
                f"The tokenizer knows {tokens.size:,} tokens, the table of the static student has {self.vocabulary:,} rows."
            )
        self._tokens = tokens

    def read_tokenizer(self, folder: str) -> PlainTokens | HashedGrams:
        """The tokenizer that lies beside saved weights."""
        return read_tokens(folder)

    def pair_rows(self, input_ids: Tensor) -> Tensor:
        """The row of each token's pair with the next token, [batch, tokens - 1]; padding where either is padding."""
        first, second = input_ids[:, :-1], input_ids[:, 1:]
        rows = (first * 1_000_003 + second * 7_919) % self.pairs
        return rows.masked_fill((first >= self.vocabulary) | (second >= self.vocabulary), self.pairs)

    def read(self, texts: Sequence[str]) -> Tensor:
        """The vectors of some texts, [texts, width]. Nothing is padded or remembered: tokenizing is nearly all of the time."""
        if self.tokenizer is None or self.pair_table is not None:
            return super().read(texts)
        rows, device = self.tokenizer(texts)["input_ids"], self.table.weight.device
        count = torch.tensor([len(row) for row in rows], device=device)
        ids = torch.tensor(list(itertools.chain.from_iterable(rows)), device=device)
        total = F.embedding_bag(ids, self.table.weight, count.cumsum(0) - count, mode="sum")
        return self.finish(total / count[:, None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, self.vocabulary)
        total, count = _sum(self.table, input_ids, self.vocabulary)
        if self.pair_table is not None and input_ids.shape[1] > 1:
            more, pairs = _sum(self.pair_table, self.pair_rows(input_ids), self.pairs)
            total, count = total + more, count + pairs
        return self.finish(total / count.clamp(min=1))


def _rows(count: int, width: int, padding: int) -> nn.EmbeddingBag:
    table = nn.EmbeddingBag(count, width, mode="sum", sparse=True, padding_idx=padding)
    with torch.no_grad():
        table.weight.div_(width**0.5)  # rows of length about 1
        table.weight[padding].zero_()
    return table


def _sum(table: nn.EmbeddingBag, ids: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """The sum of the rows of ids [batch, tokens], [batch, width], and how many they are, [batch, 1]."""
    real = ids != padding
    count = real.sum(1)
    if torch.compiler.is_exporting():
        return (table.weight[ids] * real[..., None]).sum(1), count[:, None]
    # padding is left out at once: of what is gathered, and of the rows that get a gradient
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)[:-1]])
    return F.embedding_bag(ids[real], table.weight, offsets, mode="sum", sparse=table.sparse), count[:, None]


@builder
def static_encoder(vocabulary: int, outputs: int, width: int, pairs: int = 0, normalize: bool = True) -> StaticEncoder:
    """A table of token vectors (see `StaticEncoder`), rows random with a length of about 1. Its tokenizer is set apart."""
    return StaticEncoder(whole("vocabulary", vocabulary), whole("outputs", outputs), whole("width", width),
                         whole("pairs", pairs, 0), normalize)  # fmt: skip


def static(outputs: int, tokenizer: Any, width: int | None = None, pairs: int = 0) -> StaticEncoder:
    """A static student with the words and pieces of the teacher's tokenizer.

    `width`: of the table, by default that of the teacher's vectors, `outputs`; else a linear map follows. `pairs`: how many
    rows hashed pairs of tokens have, 0 for none.
    """
    tokens = PlainTokens.of(tokenizer)
    module = static_encoder(tokens.size, outputs, width or outputs, pairs)
    module.tokenizer = tokens
    module.limbeck_fresh = True  # type: ignore[assignment]
    return module


def grams(
    outputs: int, buckets: int = 2**17, width: int | None = None, shortest: int = 3, longest: int = 5
) -> StaticEncoder:
    """A static student without a vocabulary: `buckets` rows for hashed words and their runs of `shortest` to `longest` letters.

    It reads any language with words (see `HashedGrams`). `width` as in `static`.
    """
    if whole("longest", longest) < whole("shortest", shortest):
        raise ArgumentError(f"longest={longest} is less than shortest={shortest}.")
    module = static_encoder(whole("buckets", buckets, 2), outputs, width or outputs)
    module.tokenizer = HashedGrams(buckets, shortest, longest)
    module.limbeck_fresh = True  # type: ignore[assignment]
    return module


@builder
def sentence_encoder(config: dict[str, Any], pooling: str = "mean", normalize: bool = True, outputs: int | None = None,
                     max_length: int | None = None) -> SentenceEncoder:  # fmt: skip
    """A Transformers body from its config (`config.to_dict()`), randomly initialised, with a pooling. Needs `language`."""
    transformers = need("transformers", "language")
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    body = transformers.AutoModel.from_config(kind.from_dict(config))
    if hasattr(body, "pooler"):
        body.pooler = None  # of its pretraining, which no pooling here reads
    return SentenceEncoder(body, pooling, normalize, outputs, max_length)


def around(body: Any, pooling: str = "mean", normalize: bool = True, outputs: int | None = None,
           max_length: int | None = None, seed: int = 0) -> SentenceEncoder:  # fmt: skip
    """A sentence encoder around a Transformers body that is there, which can be saved and built again."""
    from limbeck.students.declare import seeded

    with seeded(seed):  # the linear map, where there is one
        module = SentenceEncoder(body, pooling, normalize, outputs, max_length)
    arguments = {"config": body.config.to_diff_dict() | {"model_type": body.config.model_type}, "pooling": pooling,
                 "normalize": normalize, "outputs": outputs, "max_length": max_length}  # fmt: skip
    module.limbeck_spec = {"builder": f"{__name__}:sentence_encoder", "arguments": arguments}  # type: ignore[assignment]
    module.tokenizer = getattr(body, "tokenizer", None)
    return module


def small_encoder(outputs: int, tokenizer: Any, layers: int = 2, width: int = 128, heads: int = 2, ffn: int | None = None,
                  max_length: int = 256, dropout: float = 0.1) -> SentenceEncoder:  # fmt: skip
    """A small BERT of vectors from scratch: mean over tokens, a linear map to the teacher's width, `outputs`, L2 norm 1.

    Its tokenizer is the given Transformers one, often the teacher's. `ffn` as in `bert_config`. Needs `language`.
    """
    config = bert_config(tokenizer, layers, width, heads, ffn, max_length, dropout)
    module = sentence_encoder(config.to_diff_dict() | {"model_type": config.model_type}, outputs=outputs)
    module.tokenizer, module.limbeck_fresh = tokenizer, True  # type: ignore[assignment]
    return module
