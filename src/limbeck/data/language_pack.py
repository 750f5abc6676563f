"""Documents side by side in rows of one length, and the proof that a model keeps them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.base import Part
from limbeck.errors import ModelError

SEEN = 0.05  # of what seeing another document changes; rounding is far below


def pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Rows of documents, by number, that together have at most `length` tokens: best fit, the longest first.

    Each document goes where it leaves the least room; nothing is cut. Documents in a row and rows by their first document
    keep the order given. `sizes` must be 1 to `length`.
    """
    room: dict[int, list[int]] = {}  # tokens left -> rows
    left = 0  # bit n is set where a row has n tokens left, so that the best fit is one shift
    rows: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        size = sizes[number]
        fits = left >> size
        if fits:
            space = size + (fits & -fits).bit_length() - 1
            row = room[space].pop()
            if not room[space]:
                left ^= 1 << space
        else:
            space, row = length, len(rows)
            rows.append([])
        rows[row].append(number)
        rest = space - size
        if rest:
            room.setdefault(rest, []).append(row)
            left |= 1 << rest
    return sorted(sorted(row) for row in rows)


def check_packing(module: nn.Module, tokens: int = 12, seed: int = 0) -> float:
    """Probe whether documents in one row stay apart when their positions start anew, without a mask and a cache.

    Three documents of `tokens` random tokens are run side by side and alone. What side by side changes is compared with
    what it changes to see the documents before as one's own text. Gives that share, 0 for a model that keeps documents
    apart; the module's mode and the random numbers stay as they were.

    Raises ModelError for a model that takes no positions, or whose documents see each other (OPT and Bloom do).
    """
    name, way_out = type(module).__name__, "Load the data with pack=False: each document is then a row of its own."
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = int(getattr(config, "vocab_size", 2))
    tokens = min(tokens, (getattr(config, "max_position_embeddings", None) or 3 * tokens) // 3)
    like = next(module.parameters())
    row = torch.randint(vocabulary, (1, 3 * tokens), generator=torch.Generator().manual_seed(seed)).to(like.device)
    anew = torch.arange(tokens, device=like.device).expand(3, -1)
    modes = [child for child in module.modules() if child.training]
    module.eval()
    try:
        with torch.no_grad():
            alone = _logits(module, row.view(3, tokens), anew)
            packed = _logits(module, row, anew.reshape(1, -1)).view_as(alone)
            whole = _logits(module, row, torch.arange(3 * tokens, device=like.device)[None]).view_as(alone)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{name} takes no position_ids ({error}), by which packed documents are kept apart. {way_out}"
        ) from error
    finally:
        for child in modes:
            child.training = True
    seen, full = float((packed - alone)[1:].abs().max()), float((whole - alone)[1:].abs().max())
    eps = torch.finfo(like.dtype).eps
    noise = 4 * eps * float(alone.abs().max())
    told = full > noise or eps < 1e-4  # in half precision, what a fresh model sees may drown in rounding
    if seen > SEEN * full and not (seen <= noise and told):
        raise ModelError(
            f"{name} does not keep packed documents apart: its logits change by up to {seen:.2g} beside other documents, and "
            f"by {full:.2g} when these are its own text{'' if told else f' (in {like.dtype} that is rounding)'}. {way_out}"
        )
    return seen / full if full else 0.0


def check_packed(parts: Iterable[Part], models: Mapping[str, nn.Module]) -> None:
    """`check_packing` of every model where a part is packed. Raises ModelError that names the role."""
    if any(getattr(part, "packed", False) for part in parts):
        for role, module in models.items():
            try:
                check_packing(module)
            except ModelError as error:
                raise ModelError(f"The {role}: {error}") from error


def _logits(module: nn.Module, tokens: Tensor, positions: Tensor) -> Tensor:
    # with the default cache, or a mask of ones, Transformers lets documents see each other
    output = module(input_ids=tokens, position_ids=positions, use_cache=False)
    return getattr(output, "logits", output).float()
