"""Texts to tensors: the tokenizer that hangs on a module, with a bounded memory of what was tokenized before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import ModelError

REMEMBERED = 2**25  # token ids a tokenizer, 128 MiB: enough for a quarter of a million texts of 128 tokens


class Memory:
    """The ids of texts, oldest forgotten first once there are more than `limit` ids."""

    def __init__(self, limit: int = REMEMBERED):
        self.limit, self.size = limit, 0
        self.known: dict[tuple[str, int | None], np.ndarray] = {}

    def put(self, key: tuple[str, int | None], ids: Sequence[int]) -> None:
        self.known[key] = array = np.asarray(ids, dtype=np.int32)
        self.size += array.size + 32  # an entry costs more than its ids
        while self.size > self.limit and len(self.known) > 1:
            self.size -= self.known.pop(next(iter(self.known))).size + 32


_positions: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()
_memories: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()


def tokenizer_of(module: nn.Module) -> Any:
    """The tokenizer of a module, also of one that is wrapped for several processes; None where it has none."""
    found = getattr(module, "tokenizer", None)
    inner = getattr(module, "module", None)
    return tokenizer_of(inner) if found is None and isinstance(inner, nn.Module) else found


def length_limit(module: nn.Module, tokenizer: Any) -> int | None:
    """How many tokens the module and its tokenizer take; None where neither says."""
    limits = []
    if getattr(tokenizer, "model_max_length", 10**9) < 10**9:  # Transformers says 10^30 for "not known"
        limits.append(int(tokenizer.model_max_length))
    if module not in _positions:
        _positions[module] = _position_limit(module)
    positions = _positions[module]
    if positions is not None:
        limits.append(positions)
    return min(limits, default=None)


def _position_limit(module: nn.Module) -> int | None:
    """How many positions a module has; None where its config does not say."""
    config = getattr(module, "config", getattr(getattr(module, "module", None), "config", None))
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    # RoBERTa and its kin count positions from padding_idx + 1, and their tables are longer by as much
    table = next((child for name, child in module.named_modules() if name.endswith("position_embeddings")), None)
    padding = getattr(table, "padding_idx", None)
    return positions - (0 if padding is None else int(padding) + 1)  # type: ignore[arg-type]


def tokenize(module: nn.Module, texts: Sequence[str], max_length: int | None = None) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, [batch, tokens] int64, on the module's device.

    By `module.tokenizer` (a Transformers tokenizer, or the hashing one of `text_bag`), cut at `max_length` and at what
    the module takes, padded to the longest text of the batch. Texts seen before are not tokenized again.
    Raises ModelError where the module has no tokenizer, or the tokenizer no padding.
    """
    tokenizer = tokenizer_of(module)
    if tokenizer is None:
        raise ModelError(
            f"{type(module).__name__} has no tokenizer, and the data are texts. Hang one on it: module.tokenizer = "
            "AutoTokenizer.from_pretrained(...), or use the student 'bag', which brings its own."
        )
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding is None:
        raise ModelError(
            f"The {type(tokenizer).__name__} of {type(module).__name__} has no padding token. Give it one, such as "
            "tokenizer.pad_token = tokenizer.eos_token, and model.config.pad_token_id = tokenizer.pad_token_id."
        )
    limit = min((value for value in (max_length, length_limit(module, tokenizer)) if value is not None), default=None)
    memory = _memories.setdefault(tokenizer, Memory())
    found = {text: memory.known.get((text, limit)) for text in texts}
    missing = [text for text, ids in found.items() if ids is None]
    if missing:
        # a fast tokenizer warns where truncation=True has no max_length
        options = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": False}
        for text, ids in zip(missing, tokenizer(missing, **options)["input_ids"]):
            memory.put((text, limit), ids)
            found[text] = np.asarray(ids, dtype=np.int32)
    rows = [found[text] for text in texts]
    longest = max((len(row) for row in rows if row is not None), default=0) or 1
    ids, mask = np.full((len(rows), longest), padding, dtype=np.int64), np.zeros((len(rows), longest), dtype=np.int64)
    left = getattr(tokenizer, "padding_side", "right") == "left"
    for number, row in enumerate(rows):
        assert row is not None
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
