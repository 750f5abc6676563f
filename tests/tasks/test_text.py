"""Texts to tensors: padding, cutting, remembering."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.data.base import TextPart
from limbeck.errors import ModelError
from limbeck.students.build import text_bag
from limbeck.tasks import text as text_module
from limbeck.tasks.classification import Classification
from limbeck.tasks.text import Memory, length_limit, tokenize


class Letters:
    """One id a letter, and a count of the texts it was asked for."""

    pad_token_id, padding_side, model_max_length = 9, "right", 10**30

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, texts, truncation=False, max_length=None):
        self.asked += texts
        return {
            "input_ids": [[ord(letter) - 96 for letter in text][: max_length if truncation else None] for text in texts]
        }


def module_with(tokenizer, **config) -> nn.Module:
    module = nn.Linear(1, 1)
    module.tokenizer = tokenizer
    if config:
        module.config = type("Config", (), config)()
    return module


def test_batches_are_padded_to_their_longest_text():
    module = module_with(Letters())
    found = tokenize(module, ["ab", "", "abc"])
    assert found["input_ids"].tolist() == [[1, 2, 9], [9, 9, 9], [1, 2, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert found["input_ids"].dtype == found["attention_mask"].dtype == torch.int64
    assert tokenize(module, [""])["input_ids"].shape == (1, 1)
    module.tokenizer.padding_side = "left"
    assert tokenize(module, ["ab", "abc"])["input_ids"].tolist() == [[9, 1, 2], [1, 2, 3]]
    assert tokenize(module, ["ab", "abc"])["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


def test_texts_are_tokenized_once_a_tokenizer_and_length():
    module, other = module_with(Letters()), module_with(Letters())
    tokenize(module, ["a", "b", "a"])
    tokenize(module, ["b", "c"])
    assert module.tokenizer.asked == ["a", "b", "c"]
    tokenize(module, ["b"], max_length=1)
    assert module.tokenizer.asked == ["a", "b", "c", "b"]
    tokenize(other, ["a"])
    assert other.tokenizer.asked == ["a"]


def test_memory_forgets_the_oldest_first():
    memory = Memory(limit=3 * 36)
    for word in ("a", "b", "c", "d"):
        memory.put((word, None), [1, 2, 3, 4])
    assert [key[0] for key in memory.known] == ["b", "c", "d"]
    assert memory.size == 3 * 36
    memory.put(("long", None), [0] * 500)
    assert [key[0] for key in memory.known] == ["long"]


def test_a_full_memory_still_gives_the_whole_batch(monkeypatch):
    monkeypatch.setattr(text_module.Memory.__init__, "__defaults__", (40,))
    module = module_with(Letters())
    assert tokenize(module, ["ab", "cd", "ef", "ab"])["input_ids"].tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]


def test_texts_are_cut_at_what_the_module_takes():
    assert tokenize(module_with(Letters()), ["abcdef"], max_length=4)["input_ids"].shape == (1, 4)
    module = module_with(Letters(), max_position_embeddings=3)
    assert tokenize(module, ["abcdef"])["input_ids"].tolist() == [[1, 2, 3]]
    assert tokenize(module, ["abcdef"], max_length=2)["input_ids"].tolist() == [[1, 2]]
    short = Letters()
    short.model_max_length = 2
    assert length_limit(module_with(short, max_position_embeddings=3), short) == 2
    assert length_limit(module_with(Letters()), Letters()) is None


def test_roberta_positions_begin_after_the_padding():
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                        intermediate_size=8, max_position_embeddings=12, pad_token_id=1)  # fmt: skip
    module = transformers.RobertaForSequenceClassification(config)
    module.tokenizer = Letters()
    module.tokenizer.pad_token_id = 1
    found = tokenize(module, ["bcdefghijklmnopq"])
    assert found["input_ids"].shape == (1, 10)
    assert module(**found).logits.shape == (1, 2)


def test_modules_without_a_tokenizer_or_padding_say_so():
    with pytest.raises(ModelError, match="Linear has no tokenizer"):
        tokenize(nn.Linear(1, 1), ["a"])
    tokenizer = Letters()
    tokenizer.pad_token_id = None
    with pytest.raises(ModelError, match="no padding token"):
        tokenize(module_with(tokenizer), ["a"])


def test_wrapped_modules_keep_their_tokenizer():
    module = module_with(Letters(), max_position_embeddings=2)
    wrapped = nn.DataParallel(module)
    assert tokenize(wrapped, ["abc"])["input_ids"].tolist() == [[1, 2]]


def test_text_bag_is_run_by_the_task_and_copies_with_its_tokenizer():
    module, task = text_bag(2, buckets=64, width=4).eval(), Classification()
    part = TextPart("train", ["Good film!", "bad", ""], torch.tensor([1, 0, 0]))
    signals = task.read(module, task.view(part.batch([0, 1, 2]), module, "student"), ["logits", "embedding"])
    assert signals["logits"].shape == (3, 2)
    assert signals["embedding"].shape == (3, 5, 4)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(**tokenize(twin, ["Good film!"])), module(**tokenize(module, ["Good film!"])))
