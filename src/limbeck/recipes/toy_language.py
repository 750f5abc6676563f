"""The toy of the language recipes: a model of a few thousand weights, and rows that count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Data
from limbeck.data.language_parts import PairPart, TokenRows
from limbeck.data.language_tokens import Document
from limbeck.data.language_twin_rows import TwinRows
from limbeck.data.language_twins import Twin, align
from limbeck.students.declare import seeded

SYMBOLS, END = 16, 1
DOMAINS = ["by one", "by two", "by three"]


class TinyLM(nn.Module):
    """The least that a language model of one's own must have: `base_model` with hidden states, and its output matrix.

    `base_model(input_ids, ...)` gives `.last_hidden_state` [batch, tokens, width], `get_output_embeddings()` the layer
    after it, and a call of the whole `.logits` [batch, tokens, symbols]. A state is what a running mean makes of the past,
    and `layers` after it.
    """

    def __init__(self, symbols: int = SYMBOLS, width: int = 16, layers: int = 0):
        super().__init__()
        self.base_model = _Body(symbols, width, layers)
        self.lm_head = nn.Linear(width, symbols, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.lm_head(self.base_model(input_ids, **options).last_hidden_state))


class _Body(nn.Module):
    def __init__(self, symbols: int, width: int, layers: int = 0):
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.mix = nn.Linear(2 * width, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> SimpleNamespace:
        x = self.embedding(input_ids)
        kept = torch.ones_like(x[..., :1]) if attention_mask is None else attention_mask[..., None].to(x.dtype)
        past = (x * kept).cumsum(1) / kept.cumsum(1).clamp(min=1)
        state = torch.tanh(self.mix(torch.cat([x, past], -1)))
        for layer in self.layers:
            state = layer(state)
        return SimpleNamespace(last_hidden_state=state)


def counting(name: str, rows: int, seed: int, first: int = 0) -> TokenRows:
    """Rows that count on from a number by a step: prompt [start, step], answer the next four numbers and the end.

    Rows of one step are a domain (`DOMAINS`).
    """
    draw = torch.Generator().manual_seed(seed)
    documents, steps = [], []
    for _ in range(rows):
        start, step = (int(torch.randint(1, 4, (), generator=draw)) for _ in range(2))
        answer = [2 + (start + step * (k + 1)) % (SYMBOLS - 2) for k in range(4)]
        documents.append(Document.of([2 + start, 2 + step, *answer, END], 2, prompt=2))
        steps.append(step - 1)
    part = TokenRows(name, documents, range(rows), ids=torch.arange(first, first + rows), padding=0)
    part.domain = torch.tensor(steps)
    return part


def miscounting(name: str, pairs: int, seed: int, first: int = 0) -> PairPart:
    """Pairs of answers to the prompts of `counting`: chosen ones that count, rejected ones with a number that is wrong."""
    draw = torch.Generator().manual_seed(seed)
    right = counting(name, pairs, seed)
    documents = []
    for number in range(pairs):
        good = right.document(number)
        bad, place = good.clone(), int(torch.randint(2, 6, (), generator=draw))
        bad[place] = 2 + (good[place] - 2 + int(torch.randint(1, SYMBOLS - 2, (), generator=draw))) % (SYMBOLS - 2)
        documents += [Document.of(each.tolist(), 2, prompt=2) for each in (good, bad)]
    samples = [number // 2 for number in range(2 * pairs)]
    ids = torch.arange(2 * first, 2 * (first + pairs))
    return PairPart(TokenRows(name, documents, samples, ids=ids, padding=0))


def spelling(name: str, rows: int, seed: int, first: int = 0) -> TwinRows:
    """The alphabet of four letters from some letter on: the student's tokens are letters, the teacher's one or two of them."""
    draw = torch.Generator().manual_seed(seed)
    letters, pairs = [b"a", b"b", b"c", b"d"], [b"ab", b"bc", b"cd", b"da"]
    documents = []
    for _ in range(rows):
        start, size = int(torch.randint(4, (), generator=draw)), int(torch.randint(5, 9, (), generator=draw))
        mine = [(start + place) % 4 for place in range(size)]
        theirs: list[int] = []
        place = 0
        while place < size:
            double = place + 1 < size and bool(torch.randint(2, (), generator=draw))
            theirs.append(mine[place] + 4 * double)
            place += 1 + double
        chunks = align([*(letters[n] for n in mine), "end"], [*((letters + pairs)[n] for n in theirs), "end"])
        assert chunks is not None
        one, other = (Document.of([*(2 + n for n in ids), END], 1) for ids in (mine, theirs))
        documents.append(Twin(one.tokens, one.predict, one.prompt, other, *chunks))
    ids = torch.arange(first, first + rows)
    ends = [torch.arange(size) == END for size in (6, 10)]  # no token here begins with white space
    return TwinRows(name, documents, range(rows), ids=ids, padding=0, teacher_padding=0, opens=(ends[0], ends[1]))


def two_tokenizers_toy() -> tuple[Data, nn.Module, nn.Module]:
    """Data, teacher, student, of which the teacher reads other tokens."""
    parts = {"train": spelling("train", 40, 0), "valid": spelling("valid", 8, 1, first=40)}
    with seeded(0):
        teacher, student = TinyLM(symbols=10, width=16), TinyLM(symbols=6, width=8)
    return Data("toy", "tokens", parts, target="none"), teacher, student  # type: ignore[arg-type]


def language_toy(preferences: bool = False, layers: int = 0) -> tuple[Data, nn.Module, nn.Module]:
    """Data, teacher, student; both of so many layers."""
    make = miscounting if preferences else counting
    parts = {"train": make("train", 40, 0), "valid": make("valid", 8, 1, first=40)}
    with seeded(0):
        teacher, student = TinyLM(width=16, layers=layers), TinyLM(width=8, layers=layers)
    return Data("toy", "tokens", parts, target="none", domains=DOMAINS), teacher, student  # type: ignore[arg-type]
