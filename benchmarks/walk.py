"""Time and memory of token divergences with whole logits, and walked over lazy ones, side by side.

    python benchmarks/walk.py [--tokens 512] [--vocabulary 50257] [--widths 256 512] [--repeats 5] [--threads 1]

Forward and backward to hidden states and output matrix, float32; student and teacher have the same width. Each case runs
in a process of its own: the best time of `repeats`, and how far the memory of the process rose above what the inputs take.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from limbeck.functional.response import cross_entropy, forward_kl
from limbeck.signals.blocks import TokenTerm
from limbeck.signals.lazy import Lazy, walk

CASES = {
    "KL, whole logits": ("whole", ["kl"]),
    "KL, walk": ("walk", ["kl"]),
    "KL, walk by autograd": ("autograd", ["kl"]),
    "CE + KL, whole logits": ("whole", ["ce", "kl"]),
    "CE + KL, walk": ("walk", ["ce", "kl"]),
    "CE + KL, walk by autograd": ("autograd", ["ce", "kl"]),
}
TERMS = {"kl": TokenTerm(forward_kl, {"temperature": 2.0}), "ce": TokenTerm(cross_entropy)}


def memory(kind: str) -> int:
    """Resident bytes of this process now (VmRSS) or at most so far (VmHWM)."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]


def loss(way: str, terms: list[TokenTerm], student: Lazy, teacher: Lazy, labels: Tensor) -> Tensor:
    if way == "whole":
        whole, target = student.whole(), teacher.whole()
        return torch.stack([term(whole, target, labels).mean() for term in terms]).sum()
    # a function that only calls the term has no closed form
    made = terms if way == "walk" else [hide(term) for term in terms]
    return walk(student, teacher, labels, None, made, torch.ones(len(terms)))[0] / len(labels)


def hide(term: TokenTerm) -> Callable[..., Tensor]:
    return lambda student, teacher, labels: term(student, teacher, labels)


def measure(way: str, names: list[str], tokens: int, vocabulary: int, width: int, repeats: int, threads: int,
            queue: multiprocessing.Queue) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    teacher = Lazy(torch.randn(tokens, width), torch.randn(vocabulary, width) / width**0.5)
    labels, terms = torch.randint(vocabulary, (tokens,)), [TERMS[name] for name in names]
    torch.randn(64, width) @ torch.randn(width, 64)  # the library of matrix products is loaded
    before, best, value = memory("VmRSS"), float("inf"), 0.0
    for _ in range(repeats):
        hidden.grad = weight.grad = None
        start = time.perf_counter()
        result = loss(way, terms, Lazy(hidden, weight), teacher, labels)
        result.backward()
        best, value = min(best, time.perf_counter() - start), float(result.detach())
    queue.put((best * 1e3, (memory("VmHWM") - before) / 2**20, value, float(weight.grad.norm())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(
        f"{options.tokens} tokens, vocabulary {options.vocabulary:,}, {options.threads} thread(s), torch {torch.__version__}"
    )
    for width in options.widths:
        print(f"\n{f'width {width}':28}{'ms':>8}{'peak MiB':>10}{'loss':>12}{'gradient':>12}")
        for name, (way, terms) in CASES.items():
            queue = context.Queue()
            given = (way, terms, options.tokens, options.vocabulary, width, options.repeats, options.threads, queue)
            process = context.Process(target=measure, args=given)
            process.start()
            ms, mib, value, norm = queue.get()
            process.join()
            print(f"{name:28}{ms:8.0f}{mib:10.0f}{value:12.5f}{norm:12.6f}", flush=True)


if __name__ == "__main__":
    main()
