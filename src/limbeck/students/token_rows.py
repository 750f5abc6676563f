"""Rows of a static student out of its teacher: each token alone through the teacher, weighted by how rare it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.evaluation.modes import device_of, evaluating
from limbeck.machine import fast_bf16
from limbeck.students.encoders import SentenceEncoder, StaticEncoder, pooled
from limbeck.students.reduce import principal_directions
from limbeck.tasks.text import tokenizer_of

Progress = Callable[[int, int], None]


def token_vectors(teacher: nn.Module, count: int, batch_size: int = 1024, progress: Progress | None = None) -> Tensor:
    """What a teacher makes of each of `count` token ids alone, between its special tokens: [count, width] float32.

    Of a `SentenceEncoder` the pooled vector before it is normalised, of another module its vector. Raises ModelError where
    the teacher has no tokenizer whose special tokens are known.
    """
    tokenizer = tokenizer_of(teacher)
    if tokenizer is None or not hasattr(tokenizer, "build_inputs_with_special_tokens"):
        empty = [] if tokenizer is None else list(tokenizer([""])["input_ids"][0])
    else:
        empty = list(tokenizer.build_inputs_with_special_tokens([]))
    if tokenizer is None:
        raise ModelError(
            f"The teacher, a {type(teacher).__name__}, has no tokenizer, so that its tokens are not known."
        )
    half = (len(empty) + 1) // 2  # [CLS] token [SEP]
    found, device = [], device_of(teacher)
    with evaluating(teacher), torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        for ids in torch.arange(count, device=device).split(batch_size):
            before, after = (ids.new_tensor(side).expand(len(ids), -1) for side in (empty[:half], empty[half:]))
            rows = torch.cat([before, ids[:, None], after], 1)
            found.append(_vectors(teacher, rows).float().cpu())
            if progress is not None:
                progress(int(ids[-1]) + 1, count)
    return torch.cat(found)


def _vectors(teacher: nn.Module, rows: Tensor) -> Tensor:
    mask = torch.ones_like(rows)
    if isinstance(teacher, SentenceEncoder):
        hidden = pooled(teacher.body(input_ids=rows, attention_mask=mask)[0], mask, teacher.pooling)
        return hidden if teacher.projection is None else teacher.projection(hidden)
    if type(teacher).__module__.startswith("sentence_transformers."):
        return teacher({"input_ids": rows, "attention_mask": mask})["sentence_embedding"]
    return teacher(input_ids=rows, attention_mask=mask)


def rarity(count: int, a: float = 1e-4) -> Tensor:
    """a / (a + p) for each row, [count]: p falls as 1 / (row + 2), which supposes that frequent tokens come first.

    Source: model2vec (2024), after Arora et al. (2017).
    """
    frequency = 1 / (torch.arange(count, dtype=torch.float64) + 2)
    return (a / (a + frequency / frequency.sum())).float()


@torch.no_grad()
def begin_at_tokens(student: StaticEncoder, vectors: Tensor, a: float = 1e-4) -> None:
    """Rows of a static student from token vectors [vocabulary, outputs]: centred, weighted by `rarity`, mean length 1.

    A table narrower than the vectors gets their principal directions, found before they are weighted (model2vec, 2024), and
    its linear map leads back from them: the student stays in its teacher's space.
    """
    if vectors.shape != (student.vocabulary, student.width):
        raise ModelError(
            f"Token vectors {list(vectors.shape)} do not fit a static student with {student.vocabulary:,} tokens and "
            f"vectors of {student.width}. Does the student have its teacher's tokenizer?"
        )
    rows = vectors - vectors.mean(0)
    if student.projection is not None:
        directions = principal_directions(vectors, student.table.weight.shape[1])  # [table width, outputs]
        student.projection.weight.copy_(directions.T)
        student.projection.bias.zero_()
        rows = rows @ directions.T
    rows = rows * rarity(len(rows), a)[:, None]
    rows /= rows.norm(dim=1).mean()
    student.table.weight[: student.vocabulary] = rows.to(student.table.weight)
