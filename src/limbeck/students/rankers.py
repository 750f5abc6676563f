"""Models that score documents for a query: by one vector each, by the vectors of their tokens, or by reading both at once.

dot(encoder)         # one vector each, their dot product: documents can be indexed
late(encoder)        # a vector for each token, the best document token for each of the query (MaxSim)
cross(encoder)       # query and document in one text, one number out of it: nothing can be indexed
mlp(encoder)         # a small network over the vectors of both, by an encoder that stays as it is
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError, nearest
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.students.declare import builder, seeded
from limbeck.students.encoders import Encoder, SentenceEncoder
from limbeck.tasks.text import length_limit, tokenize

KINDS = ("dot", "cosine", "late", "cross", "mlp")
Kind = Literal["dot", "cosine", "late", "cross", "mlp"]
REMEMBERED = 2**16  # texts of which a frozen encoder's vectors are kept
Inputs = dict[str, Tensor]
_vectors: WeakKeyDictionary[nn.Module, tuple[Any, dict[tuple[str, int | None], Tensor]]] = WeakKeyDictionary()
NONE = -1e4  # the score of what is not compared


class Ranker(nn.Module):
    """Scores [batch, candidates] of what `prepare` made of texts. `encoder` has the tokenizer and what a model saves."""

    encoder: Encoder
    indexed = True  # whether documents have vectors of their own, so that all can be scored for every query

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self.encoder.tokenizer = value

    @property
    def limbeck_settings(self) -> dict[str, Any]:
        """Rates and lengths that suit its encoder."""
        return self.encoder.limbeck_settings  # type: ignore[return-value]

    def prepare(self, queries: Sequence[str], documents: Sequence[str], longest: int | None = None) -> Inputs:
        """Token ids of [batch] queries and [batch x candidates] documents."""
        limit = min((n for n in (longest, self.encoder.max_length) if n), default=None)
        asked, found = (tokenize(self.encoder, texts, limit) for texts in (queries, documents))
        return {**{f"query_{key}": value for key, value in asked.items()},
                **{f"document_{key}": value for key, value in found.items()}}  # fmt: skip

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"scores": [batch, candidates]}, and where documents are indexed "in_batch" [batch, batch x candidates]: of every
        query with the candidates of all, its own first one first. Where another row has that document too, it is no negative:
        its score is `NONE`.
        """
        query = self.vectors(inputs["query_input_ids"], inputs["query_attention_mask"])
        document = self.vectors(inputs["document_input_ids"], inputs["document_attention_mask"])
        batch = len(query[0])
        every = self.compare(query, document)  # [batch, batch x candidates]
        count = every.shape[1] // batch
        own = torch.arange(batch, device=every.device)[:, None] * count
        places = torch.arange(every.shape[1], device=every.device)
        first = (places[None] + own) % every.shape[1]  # rolled, so that the first candidate is in column 0
        ids = inputs["document_input_ids"]
        again = (ids[None] == ids[own]).all(-1) & (places[None] != own)  # [batch, batch x candidates]
        return {"scores": every.gather(1, own + places[None, :count]),
                "in_batch": every.masked_fill(again, NONE).gather(1, first)}  # fmt: skip

    def vectors(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What a text is compared by, and which of it counts."""
        raise NotImplementedError(f"{type(self).__name__} does not say what texts are compared by")

    def compare(self, query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor]) -> Tensor:
        """The scores of all queries with all documents, [queries, documents]."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it compares")

    def score_all(self, queries: Sequence[str], documents: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """The scores of all queries with all documents, [queries, documents], without gradient."""
        with evaluating(self):
            asked = self._read(queries, batch_size)
            columns = [
                torch.cat([self.compare(one, two) for one in asked]).float().cpu()
                for two in self._read(documents, batch_size)
            ]
        return torch.cat(columns, 1).numpy()

    def _read(self, texts: Sequence[str], batch_size: int) -> list[tuple[Tensor, Tensor]]:
        starts = range(0, len(texts), batch_size)
        inputs = (tokenize(self.encoder, texts[at : at + batch_size], self.encoder.max_length) for at in starts)
        return [self.vectors(found["input_ids"], found["attention_mask"]) for found in inputs]


class VectorRanker(Ranker):
    """The dot product, or the cosine, of one vector for the query and one for the document, times a learnt scale."""

    def __init__(self, encoder: Encoder, cosine: bool = False, scale: float = 1.0):
        super().__init__()
        self.encoder, self.cosine = encoder, cosine
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        encoder.normalize = cosine

    def vectors(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(input_ids, mask), mask

    def compare(self, query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor]) -> Tensor:
        return query[0] @ document[0].T * self.log_scale.exp()


class LateRanker(Ranker):
    """MaxSim: the sum over the query's tokens of the largest cosine with a token of the document (ColBERT, 2020)."""

    def __init__(self, encoder: SentenceEncoder, width: int = 128):
        super().__init__()
        self.encoder = encoder
        self.tokens = nn.Linear(int(encoder.config.hidden_size), width, bias=False)

    def vectors(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.encoder, SentenceEncoder)
        hidden = self.encoder.body(input_ids=input_ids, attention_mask=mask)[0]
        return F.normalize(self.tokens(hidden), dim=-1), mask

    def compare(self, query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor]) -> Tensor:
        return max_sim(*query, *document)


def max_sim(query: Tensor, query_mask: Tensor, document: Tensor, document_mask: Tensor) -> Tensor:
    """The sum over query tokens of the largest dot product with a token of the document: [queries, documents].

    query [queries, tokens, width], document [documents, tokens, width], masks [.., tokens]: padded tokens of a document are
    never the largest, those of a query count nothing.
    """
    dots = torch.einsum("qiw,djw->qdij", query, document)
    best = dots.masked_fill(document_mask[None, :, None, :] == 0, -torch.inf).amax(-1)
    return (best * query_mask[:, None, :]).sum(-1)


class CrossRanker(Ranker):
    """Query and document read as one text; its pooled state through a linear map is the score."""

    indexed = False

    def __init__(self, encoder: SentenceEncoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(int(encoder.config.hidden_size), 1)

    def prepare(self, queries: Sequence[str], documents: Sequence[str], longest: int | None = None) -> Inputs:
        count = len(documents) // len(queries)
        limits = [longest, self.encoder.max_length, length_limit(self.encoder, self.tokenizer)]
        found = self.tokenizer(
            [query for query in queries for _ in range(count)], list(documents), truncation="longest_first", padding=True,
            max_length=min((limit for limit in limits if limit), default=512), return_tensors="pt",
        )  # fmt: skip
        kept = ("input_ids", "attention_mask", "token_type_ids")
        device = device_of(self)
        return {name: found[name].to(device).view(len(queries), count, -1) for name in kept if name in found}

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"scores": [batch, candidates]} of token ids [batch, candidates, tokens]."""
        assert isinstance(self.encoder, SentenceEncoder)
        batch, count, _ = inputs["input_ids"].shape
        flat = {name: value.flatten(0, 1) for name, value in inputs.items()}
        from limbeck.students.encoders import pooled

        state = pooled(self.encoder.body(**flat)[0], flat["attention_mask"], self.encoder.pooling)
        return {"scores": self.head(state).view(batch, count)}


class PairClassifier(CrossRanker):
    """A Transformers classifier of pairs with one output, whose logit is the score: a cross-encoder as others save it."""

    limbeck_settings = SentenceEncoder.limbeck_settings

    def __init__(self, model: Any):
        Ranker.__init__(self)
        model.max_length = None
        self.encoder = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"scores": [batch, candidates]} of token ids [batch, candidates, tokens]."""
        batch, count, _ = inputs["input_ids"].shape
        return {
            "scores": self.encoder(**{name: value.flatten(0, 1) for name, value in inputs.items()}).logits.view(
                batch, count
            )
        }


class MlpRanker(Ranker):
    """A small network over the vectors u, v of query and document, [u, v, |u - v|, u v]: widths h, h/2, h/4, 1, ELU between.

    Its encoder is not trained: a text is encoded once and its vector remembered, by all rankers that share the encoder.
    """

    indexed = False

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        h = encoder.width
        self.head = nn.Sequential(nn.Linear(4 * h, h), nn.ELU(), nn.Linear(h, h // 2), nn.ELU(), nn.Linear(h // 2, h // 4),
                                  nn.ELU(), nn.Linear(h // 4, 1))  # fmt: skip

    @property
    def limbeck_settings(self) -> dict[str, Any]:
        return {"learning_rate": 1e-3, "batch_size": 32}

    def prepare(self, queries: Sequence[str], documents: Sequence[str], longest: int | None = None) -> Inputs:
        """The vectors of [batch] queries and [batch x candidates] documents."""
        return {"query": self._encoded(queries, longest), "document": self._encoded(documents, longest)}

    def _encoded(self, texts: Sequence[str], longest: int | None) -> Tensor:
        limit = min((n for n in (longest, self.encoder.max_length) if n), default=None)
        state = tuple((p.data_ptr(), p._version) for p in self.encoder.parameters())
        if _vectors.get(self.encoder, (None,))[0] != state:
            _vectors[self.encoder] = (state, {})
        known = _vectors[self.encoder][1]
        missing = [text for text in dict.fromkeys(texts) if (text, limit) not in known]
        if len(known) + len(missing) > REMEMBERED:
            known.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            with evaluating(self.encoder), torch.no_grad():
                found = self.encoder(**tokenize(self.encoder, missing, limit)).float()
            known |= {(text, limit): vector for text, vector in zip(missing, found)}
        return torch.stack([known[text, limit] for text in texts]).to(device_of(self))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """{"scores": [batch, candidates]} of vectors [batch, width] and [batch x candidates, width]."""
        query, document = inputs["query"], inputs["document"].unflatten(0, (len(inputs["query"]), -1))
        query = query[:, None].expand_as(document)
        both = torch.cat([query, document, (query - document).abs(), query * document], -1)
        return {"scores": self.head(both)[..., 0]}


@builder
def pair_classifier(config: dict[str, Any]) -> PairClassifier:
    """A classifier of pairs from its config (`config.to_dict()`), randomly initialised. Needs `language`."""
    transformers = need("transformers", "language")
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    return PairClassifier(transformers.AutoModelForSequenceClassification.from_config(kind.from_dict(config)))


@builder
def ranker_of(kind: str, encoder: dict[str, Any], width: int = 128, scale: float = 1.0) -> Ranker:
    """A ranker around an encoder that is built by its own builder, {"builder": ..., "arguments": ...}, with fresh weights."""
    from limbeck.students.save import build_from

    return _ranker(kind, build_from(encoder), width, scale)


def ranker(kind: Kind, encoder: str | Encoder, width: int = 128, scale: float = 1.0, seed: int = 0) -> Ranker:
    """A ranker of a kind, "dot", "cosine", "late", "cross" or "mlp", around an encoder, or one by its folder or hub name.

    `width`: of the token vectors of "late"; `scale`: what dot products and cosines are multiplied by at first, and learn to be
    (20 lets cosines of 0.3 and 0.7 lie 8 apart). What is new in it is drawn from `seed`. Raises ArgumentError for another kind,
    ModelError where the kind needs a Transformers body and the encoder is a table.
    """
    if not isinstance(encoder, Encoder):
        from limbeck.teachers.load_encoders import read_encoder

        encoder = read_encoder(str(encoder), seed=seed)
    with seeded(seed):
        made = _ranker(kind, encoder, width, scale)
    spec: Any = getattr(encoder, "limbeck_spec", None)
    if spec is not None:
        arguments = {"kind": kind, "encoder": spec, "width": width, "scale": scale}
        made.limbeck_spec = {"builder": f"{__name__}:ranker_of", "arguments": arguments}  # type: ignore[assignment]
    return made


def _ranker(kind: str, encoder: Any, width: int, scale: float) -> Ranker:
    if not scale > 0:
        raise ArgumentError(f"scale={scale!r}: expected a number above 0.")
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r}.{nearest(kind, KINDS)}")
    if kind in ("dot", "cosine"):
        return VectorRanker(encoder, kind == "cosine", scale)
    if kind == "mlp":
        return MlpRanker(encoder)
    if not isinstance(encoder, SentenceEncoder):
        raise ModelError(
            f"A {kind} ranker compares states of tokens, which a {type(encoder).__name__} does not have: give a Transformers "
            "encoder, or the kind dot."
        )
    return LateRanker(encoder, width) if kind == "late" else CrossRanker(encoder)
