"""New words for an encoder of vectors: which a corpus wants, and what the old model made of them before they were tokens.

words = frequent_words(old.tokenizer, texts, 300)
rows = rows_in_context(old, texts, words)            # [words, width]
add_words(student, words, rows)                      # its tokenizer no longer splits them
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck._optional import need
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.machine import fast_bf16
from limbeck.students.encoders import SentenceEncoder
from limbeck.training.progress import counting

Pool = Literal["mean", "first", "last"]
TOGETHER = 32  # sentences that are read at once


def words_of(tokenizer: Any, text: str) -> list[str]:
    """The words of a text as a WordPiece tokenizer sees them, before it splits them into pieces.

    Raises ModelError for another kind of tokenizer, whose pieces are no parts of words.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "WordPiece":
        raise ModelError(
            f"Words are added to WordPiece tokenizers (those of BERT and its kin), and this {type(tokenizer).__name__} is "
            f"{'not fast' if backend is None else 'a ' + type(backend.model).__name__}."
        )
    plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]


def pieces_of(tokenizer: Any, word: str) -> list[int]:
    """The ids of the pieces of a word."""
    return [token.id for token in tokenizer.backend_tokenizer.model.tokenize(word)]


def frequent_words(tokenizer: Any, texts: Iterable[str], count: int) -> list[str]:
    """The `count` most frequent words of letters that the tokenizer knows in several pieces, the most frequent first."""
    seen = Counter(word for text in texts for word in words_of(tokenizer, text) if word.isalpha())
    split = (word for word, _ in seen.most_common() if len(pieces_of(tokenizer, word)) > 1)
    return [word for word, _ in zip(split, range(count))]


def rows_of_pieces(model: SentenceEncoder, words: Sequence[str]) -> Tensor:
    """The mean of the input rows of each word's pieces, [words, width]."""
    table = model.body.get_input_embeddings().weight.detach()  # type: ignore[operator]
    return torch.stack([table[pieces_of(model.tokenizer, word)].float().mean(0) for word in words])


def rows_in_context(model: SentenceEncoder, texts: Sequence[str], words: Sequence[str], contexts: int = 20, layer: int = -1,
                    pool: Pool = "mean") -> Tensor:  # fmt: skip
    """What a model makes of each word in sentences: the mean over its first `contexts` of its hidden states, [words, width].

    In a sentence its first place counts, the "mean" over its pieces or the "first" or "last" of them. `layer` as in the
    hidden states of Transformers: 0 is what goes into the first layer, -1 what leaves the last. A word in no sentence, or
    behind the longest that the model takes, has the mean of its pieces' input rows (contextualized weight distillation,
    BIOptimus, 2023, in which layer, number and pooling are not said).
    """
    depth = int(model.config.num_hidden_layers)
    if not -depth - 1 <= layer <= depth:
        raise ArgumentError(f"layer={layer}: the model has {depth} layers. Expected 0 to {depth}, or -1 for the last.")
    held = _sentences(model.tokenizer, texts, words, contexts)
    places = {word: place for place, word in enumerate(words)}
    total, count = torch.zeros(len(words), int(model.config.hidden_size)), torch.zeros(len(words), 1)
    order, device = sorted(held, key=lambda number: len(texts[number])), device_of(model)
    limit = min(value for value in (model.max_length, model.config.max_position_embeddings) if value)
    with counting("words in context") as progress, evaluating(model), torch.autocast(
        device.type, torch.bfloat16, enabled=fast_bf16(device)
    ):  # fmt: skip
        for begin in range(0, len(order), TOGETHER):
            some = order[begin : begin + TOGETHER]
            read = model.tokenizer([texts[number] for number in some], truncation=True, max_length=limit, padding=True,
                                   return_tensors="pt").to(device)  # fmt: skip
            states = model.body(read["input_ids"], read["attention_mask"], output_hidden_states=True).hidden_states[
                layer
            ]
            for row, number in enumerate(some):
                inside = read.word_ids(row)
                for word, where in held[number].items():
                    pieces = [place for place, each in enumerate(inside) if each == where]
                    pieces = {"mean": pieces, "first": pieces[:1], "last": pieces[-1:]}[pool]
                    if pieces:
                        total[places[word]] += states[row, pieces].float().mean(0).cpu()
                        count[places[word]] += 1
            if progress is not None:
                progress(begin + len(some), len(order))
    return torch.where(count > 0, total / count.clamp(min=1), rows_of_pieces(model, words).cpu())


def _sentences(tokenizer: Any, texts: Sequence[str], words: Sequence[str], most: int) -> dict[int, dict[str, int]]:
    """Which texts are read, by number: {word: its first place among the words of the text}."""
    left, found = dict.fromkeys(words, most), {}
    for number, text in enumerate(texts):
        here: dict[str, int] = {}
        for place, word in enumerate(words_of(tokenizer, text)):
            if left.get(word, 0) > 0 and word not in here:
                here[word] = place
                left[word] -= 1
        if here:
            found[number] = here
    return found


@torch.no_grad()
def add_words(model: SentenceEncoder, words: Sequence[str], rows: Tensor) -> None:
    """Give an encoder words as tokens, with input rows [words, width] of the mean length of its old ones.

    Its tokenizer is replaced by a copy that knows them, where they stand alone; old rows stay. Raises ModelError where rows
    and model do not fit.
    """
    table = model.body.get_input_embeddings().weight  # type: ignore[operator]
    if rows.shape != (len(words), table.shape[1]):
        raise ModelError(
            f"Rows {list(rows.shape)} for {len(words)} words do not fit an input table {list(table.shape)}: take as the "
            "student an encoder as wide as the old model."
        )
    length = table.float().norm(dim=1).mean()
    tokenizer = copy.deepcopy(model.tokenizer)
    added = need("tokenizers", "language").AddedToken
    tokenizer.add_tokens([added(word, single_word=True, normalized=True) for word in words])
    ids = tokenizer.convert_tokens_to_ids(list(words))
    model.body.resize_token_embeddings(max(len(table), max(ids) + 1), mean_resizing=False)  # type: ignore[operator]
    grown = model.body.get_input_embeddings().weight  # type: ignore[operator]
    grown[ids] = (rows * (length.cpu() / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))).to(grown)
    model.tokenizer = model.body.tokenizer = tokenizer  # type: ignore[assignment]
    model.limbeck_spec["arguments"]["config"]["vocab_size"] = len(grown)  # type: ignore[index]
