"""A small student, teacher, labels and mask for walks over lazy logits, and the same from whole logits by autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limbeck.functional.response import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from limbeck.signals.blocks import Post, TokenTerm
from limbeck.signals.lazy import Lazy, walk

EXACT = {"rtol": 0, "atol": 1e-12}


def total_variation(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


KL = TokenTerm(forward_kl, {"temperature": 2.0})
TERMS = {
    "kl": [KL],
    "ce": [TokenTerm(cross_entropy)],
    "ce + kl": [TokenTerm(cross_entropy), KL],
    "kl at one and two": [KL, TokenTerm(forward_kl, {"temperature": 1.0})],
    "reverse": [TokenTerm(reverse_kl, {"temperature": 1.5})],
    "jensen-shannon": [TokenTerm(jensen_shannon)],
    "a user's": [total_variation],
    "all": [TokenTerm(cross_entropy), KL, TokenTerm(reverse_kl), total_variation, TokenTerm(jensen_shannon)],
}


def memory_of(rows: int, size: int = 30, sides: int = 2, bytes_each: int = 8) -> int:
    """The memory in which a block has this many rows."""
    return rows * size * sides * bytes_each


class Problem:
    """Two short batches of hidden states, two heads, labels and a mask; leaves that require gradients."""

    def __init__(
        self, student: int = 30, teacher: int = 30, bias: bool = False, post: Post | None = None, seed: int = 0
    ):
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int, trained: bool = True) -> Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_(trained)

        self.hidden, self.weight = normal(4, 9, 6), normal(student, 6)
        self.bias = normal(student) if bias else None
        self.post = post or Post()
        self.teacher = Lazy(normal(4, 9, 5, trained=False), normal(teacher, 5, trained=False))
        self.size = min(student, teacher)
        self.labels = torch.randint(self.size, (4, 9), generator=draw)
        self.labels[0, :4] = -100
        self.mask = torch.rand(4, 9, generator=draw) > 0.3
        self.leaves = [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None]

    @property
    def student(self) -> Lazy:
        return Lazy(self.hidden, self.weight, self.bias, self.post)

    def walk(self, terms, weights: Tensor, block: int = 7, **changes) -> tuple[Tensor, Tensor]:
        given = {"teacher": self.teacher, "labels": self.labels, "mask": self.mask, **changes}
        return walk(
            self.student,
            given["teacher"],
            given["labels"],
            given["mask"],
            terms,
            weights,
            memory=memory_of(block, self.size),
        )

    def naive(self, terms, weights: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same from whole logits, by autograd."""
        mask = self.mask if mask is None else mask
        student, teacher = self.student.whole()[..., : self.size], self.teacher.whole()[..., : self.size]
        flat = student.flatten(0, 1), teacher.flatten(0, 1), self.labels.flatten()
        values = []
        for term in terms:
            value = (term if isinstance(term, TokenTerm) else TokenTerm(term))(*flat)
            values.append((value * mask.flatten()).sum())
        return (torch.stack(values) * weights).sum(), torch.stack(values).detach()


def weights_for(terms, trained: bool = False) -> Tensor:
    return torch.linspace(0.3, 1.7, len(terms), dtype=torch.float64).requires_grad_(trained)


def large(tokens: int = 64, width: int = 32, vocabulary: int = 512) -> tuple[Tensor, Tensor, Lazy, Tensor]:
    draw = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(tokens, width, generator=draw), torch.randn(vocabulary, width, generator=draw) / 5
    teacher = Lazy(torch.randn(tokens, width, generator=draw), torch.randn(vocabulary, width, generator=draw) / 5)
    return hidden, weight, teacher, torch.randint(vocabulary, (tokens,), generator=draw)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


class Spy(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gave."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
        return result
